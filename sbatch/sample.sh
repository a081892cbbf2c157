#!/bin/bash
# Solutions that a fit learns from, shared out over a job array; a task draws what the store lacks of its share.
#   sbatch --array=1-8 sbatch/sample.sh pipeline --config configs/arithmetic/pipeline.yaml --only step_dpo:solutions
#   sbatch --array=1-8 sbatch/sample.sh draw solutions --config configs/arithmetic/step_dpo.yaml
#SBATCH --job-name=sample
#SBATCH --output=logs/%x-%A-%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
source sbatch/run.sh
run stepneg "$@" --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_MAX"
