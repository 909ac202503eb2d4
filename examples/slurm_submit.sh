#!/bin/bash
# A training run on a SLURM cluster that goes on by itself when the job is preempted or runs out of time.
#
#   sbatch --job-name=my_run examples/slurm_submit.sh --config experiment/gp_rbf_cmanp --global_batch_size=64
#
# Everything after the script is for `npexp fit`. Adapt nodes and GPUs; the three numbers must agree with what
# conf/trainer/slurm.yaml is told below. Submit it from the folder that holds, or is to hold, runs/.

#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

name=$SLURM_JOB_NAME
if [ -f "runs/$name/0/checkpoints/last.ckpt" ]; then
  resume=(--ckpt_path last)
elif [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ -d "runs/$name/0" ]; then
  mv "runs/$name/0" "runs/$name/stopped-$SLURM_JOB_ID-$SLURM_RESTART_COUNT"  # before its first checkpoint
fi

# SLURM_NTASKS processes, one per GPU; when one fails, all end. The same --version makes them one run.
srun --kill-on-bad-exit=1 npexp fit "$@" --config trainer/slurm \
  --trainer.num_nodes="$SLURM_NNODES" --trainer.devices="$SLURM_NTASKS_PER_NODE" \
  --trainer.enable_progress_bar=false --name "$name" --version 0 "${resume[@]}"
status=$?

# 143: stopped by the signal above, two minutes before the time is up; the last checkpoint is written.
if [ $status -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
