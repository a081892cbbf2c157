#!/bin/bash
# Solutions of test problems, shared out over a job array; as a single job what reads them: a test, a study, the tables.
#   sbatch --array=1-8 sbatch/evaluate.sh pipeline --config configs/arithmetic/pipeline.yaml --only step_dpo:evaluation
#   sbatch sbatch/evaluate.sh pipeline --config configs/arithmetic/pipeline.yaml --only step_dpo:test
#SBATCH --job-name=evaluate
#SBATCH --output=logs/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
source sbatch/run.sh
run stepneg "$@" ${SLURM_ARRAY_TASK_ID:+--part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_MAX"}
