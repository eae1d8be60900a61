#!/usr/bin/env bash
# What this repository does on a GPU, in about ten minutes; without one, the same code on the CPU.
#
#   utils/gpu_check.sh [--work-dir DIR]
#
#   --work-dir DIR   where the recipe runs, in a folder nessa-gpu-check that each call makes anew
#                    (default: /tmp)
#
# First rates: the aligner's training on a million pairs, extraction and training of ECAPA-TDNN. Then
# the recipe mini in size tiny from end to end, its table, and a training of one process by torchrun,
# which joins by NCCL where there is a GPU. Exit status: 0 if all of it ran.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail +o noclobber # which an exported SHELLOPTS may set

utils=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$utils/log.sh"
source "$utils/parse_options.sh"
source "$utils/locks.sh"
source "$utils/setup.sh"

main() {
  work_dir=/tmp arguments=()
  parse_options work_dir -- "$@"
  ((${#arguments[@]} == 0)) || fail 2 "unexpected argument '${arguments[0]}'"
  work_dir=$(realpath -m -- "$work_dir")/nessa-gpu-check
  setup_environment mini onnx
  cd "$utils/.."
  log "rates"
  "$python" -m benchmarks.accelerator
  log "the recipe mini, size tiny, in $work_dir"
  rm -rf "$work_dir" # what is done there would not run again
  ./run.sh --size tiny --work-dir "$work_dir"
  log "a training of one process by torchrun"
  "$python" -m torch.distributed.run --standalone --nproc-per-node=1 -m nessa.cli train \
    --recipe "$work_dir/exp/recipe.yaml" --model new --data "$work_dir/data" \
    --output "$work_dir/one-process"
  log "all of it ran"
}

main "$@"; exit # on one line: an edit of this file during a run is not run
