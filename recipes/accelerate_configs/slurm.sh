#!/bin/bash
# Any recipe on the machines of a Slurm job, one launcher on each:
#
#   sbatch --nodes 2 --gpus-per-node 8 recipes/accelerate_configs/slurm.sh \
#       --config recipes/qwen3-8b/sft/config_full.yaml \
#       --dataset_name data/iepile --output_dir outputs/qwen3-8b-iepile-full
#
# Submit it from the repository, with the environment active, onto a file system that all machines see. A job that ran
# out of time is submitted again with the same line: it resumes from the last checkpoint.
#SBATCH --job-name=iepile
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --output=slurm-%j.log
set -euo pipefail

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
gpus=${SLURM_GPUS_ON_NODE:-8}
export HF_HUB_DISABLE_TELEMETRY=1
# Since Slurm 22.05 `srun` does not take the job's --cpus-per-task over.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# SLURM_NODEID is known only inside the task, so each machine's own shell reads it.
export FIRST=${hosts%%$'\n'*} NODES=$SLURM_NNODES PROCESSES=$((SLURM_NNODES * gpus)) PORT=$((20000 + SLURM_JOB_ID % 10000))
srun --kill-on-bad-exit=1 bash -c 'accelerate launch --quiet \
    --config_file recipes/accelerate_configs/multi_node.yaml \
    --num_machines "$NODES" --num_processes "$PROCESSES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$FIRST" --main_process_port "$PORT" scripts/sft.py "$@"' sft "$@"
