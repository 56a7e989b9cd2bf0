#!/bin/bash
# Fine-tuning on several machines, with FSDP between and tensor parallel within them.
#
#   sbatch --nodes=2 recipes/slurm/multinode.sh full_finetune_distributed llama3_3/70B_full_multinode output_dir=/shared/run
#
# The first two arguments are recipe and config, the rest overrides. The checkpoint, the data and output_dir must be on a
# disk that all machines see. 120 s before the time is over Slurm sends SIGTERM: the run saves and ends, and the job is put
# back in the queue, where it goes on from the newest checkpoint.

#SBATCH --job-name=torchtune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-task=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120

set -euo pipefail
if [ "$#" -lt 2 ]; then
    echo "usage: sbatch multinode.sh RECIPE CONFIG [key=value ...]" >&2
    exit 2
fi
recipe=$1 config=$2
shift 2

read -r head_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}

srun --kill-on-bad-exit=1 tune run \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head_node:${PORT:-29500}" --shutdown-timeout=110 \
    "$recipe" --config "$config" "$@" resume_from_checkpoint=auto &
running=$!

ending=false
on_term() {
    ending=true
    # The ranks themselves, on every machine: torchrun would report the signal as a failure of its own.
    scancel --signal=TERM "$SLURM_JOB_ID.0" || kill -TERM "$running"
}
trap on_term TERM

wait "$running" || status=$?
if [ "$ending" = true ]; then
    wait "$running" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "${status:-0}"
