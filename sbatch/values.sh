#!/bin/bash
# Step values of those solutions, shared out over a job array in the same way.
#   sbatch --array=1-8 sbatch/values.sh pipeline --config configs/arithmetic/pipeline.yaml --only step_dpo:values
#   sbatch --array=1-8 sbatch/values.sh draw values --config configs/arithmetic/step_dpo.yaml
#SBATCH --job-name=values
#SBATCH --output=logs/%x-%A-%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
source sbatch/run.sh
run stepneg "$@" --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_MAX"
