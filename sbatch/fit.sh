#!/bin/bash
# A fit; with --nodes=2 --ntasks-per-node=4 on 8 devices, which the trainer takes from the job.
#   sbatch sbatch/fit.sh pipeline --config configs/arithmetic/pipeline.yaml --only step_dpo:fit
#   sbatch sbatch/fit.sh fit --config configs/arithmetic/step_dpo.yaml --ckpt_path last
#SBATCH --job-name=fit
#SBATCH --output=logs/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
source sbatch/run.sh
run stepneg "$@"
