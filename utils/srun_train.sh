#!/usr/bin/env bash
# Train with several processes, on all nodes that Slurm gave this job: srun starts torchrun on each.
#
#   utils/srun_train.sh --processes 4 -- python -m nessa.cli train ...
#
#   --processes N   on each node (default: 1)
#
# Exit status: the largest of the nodes', which is 2 at bad input; see torchrun.py.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail

utils=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$utils/log.sh"
source "$utils/parse_options.sh"

processes=1 arguments=()
parse_options processes -- "$@"
check_integer processes 1 999
((${#arguments[@]} > 3)) && [[ ${arguments[1]} == -m ]] ||
  fail 2 "expected: -- PYTHON -m MODULE ARGUMENT..."
[[ -n ${SLURM_JOB_ID:-} ]] || fail 2 "this runs inside a job of Slurm"

python=${arguments[0]}
nodes=${SLURM_JOB_NUM_NODES:-1}
if ((nodes == 1)); then
  meeting=(--standalone) # on a free port
else
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  meeting=(--rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID"
    --rdzv-endpoint="$first:$((20000 + SLURM_JOB_ID % 20000))")
fi
# --export=ALL: what this job has, where that of sbatch is NONE.
exec srun --export=ALL --nodes="$nodes" --ntasks-per-node=1 \
  --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "$python" "$utils/torchrun.py" --nnodes="$nodes" --nproc-per-node="$processes" \
  "${meeting[@]}" --max-restarts=0 "${arguments[@]:1}"
