#!/usr/bin/env bash
# A sweep as a SLURM job array: every job runs its share of the cells, one process on one core.
#
#   jobs=$(sbatch --parsable docs/slurm.sh)
#   sbatch --dependency=afterok:$jobs --wrap "landscape sweep --finish sweep"
#
# A job that was stopped or failed goes on where it was when it is submitted again: sbatch --array=3 docs/slurm.sh.
# A sweep with [tune]: submit the array twice, the second with --dependency=afterok of the first.
#SBATCH --job-name=sweep
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=02:00:00
#SBATCH --output=sweep-%A-%a.log
set -euo pipefail

# How many shards: the size of the array, which stays the same when single jobs are submitted again.
shards=${SHARDS:-8}
out=${OUT:-sweep}
export OMP_NUM_THREADS=1

# exec: SLURM's SIGTERM at the time limit reaches the program, which saves its state.
exec landscape sweep --preset digits --shard "$SLURM_ARRAY_TASK_ID/$shards" --workers 1 --out "$out" --quiet "$@"
