#!/bin/bash
# A study on four nodes of a Slurm cluster: `sbatch deploy/slurm.sh`, in the project's folder on a file system that all nodes see,
# with .venv activated. Submitted again, it goes on with the study.
#SBATCH --job-name=mnist-study
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=04:00:00
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" -- \
  mnist tune cnn --study team --trials 1000 --workers 64 --address "$head:6379"
