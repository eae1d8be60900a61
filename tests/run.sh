#!/usr/bin/env bash
# Check everything: lint, format, types, shell scripts, tests.
#
#   tests/run.sh [--quick] [pytest's arguments]
#
#   --quick   leave out the tests that are marked slow
#
# All parts run, whatever fails; the exit status is 0 only if none did. Tests write to memory where
# it has room, into a folder that is removed at the end; --basetemp FOLDER names another.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail +o noclobber # which an exported SHELLOPTS may set

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source utils/log.sh
source utils/parse_options.sh
source utils/locks.sh
source utils/setup.sh
source utils/memory.sh

readonly ROOM=$((4 << 20)) # KiB that the tests' files may take of memory; they take less

main() {
  local selection=() place=() folder
  case ${1-} in
    --help | -h) print_help && exit 0 ;;
    --quick) selection=(-m 'not slow') && shift ;;
  esac
  setup_environment mini onnx resemblyzer campplus postgres milvus docs test
  failed=()
  check "ruff check" "$python" -m ruff check .
  check "ruff format" "$python" -m ruff format --check .
  check "mypy" "$python" -m mypy
  check_shell
  # A worker per core, with one thread each; the tests of a file share a worker, and with it what
  # their fixtures made. Files start in the order of tests/conftest.py, the long ones first.
  export OMP_NUM_THREADS=1
  keep_freed_memory
  if folder=$(make_folder_in_memory); then
    # shellcheck disable=SC2064  # it is that folder
    trap "rm -rf $folder 2>/dev/null || true" EXIT
    place=(--basetemp "$folder/pytest")
  fi
  check "pytest" "$python" -m pytest -n auto --dist loadfile --no-loadscope-reorder \
    "${place[@]}" "${selection[@]}" "$@"
  ((${#failed[@]} == 0)) || fail 1 "failed: $(printf '%s, ' "${failed[@]}" | sed 's/, $//')"
  log "all checks passed"
}

# A disk would be waited for thousands of times: what is written is synchronized.
make_folder_in_memory() {
  local room free
  room=$(df --output=avail /dev/shm 2>/dev/null | tail -n 1) && ((room >= ROOM)) || return 1
  free=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo) && ((free >= 3 * ROOM)) || return 1
  [[ ,$(findmnt --noheadings --output OPTIONS --target /dev/shm), != *,noexec,* ]] || return 1
  mktemp -d /dev/shm/nessa-tests.XXXXXX
}

# check NAME COMMAND...: run it, and remember its name if it fails.
check() {
  local name=$1
  shift
  log "$name"
  "$@" || failed+=("$name")
}

# run.sh calls its stages by their names, which shellcheck's notes below "warning" do not see.
check_shell() {
  check "shellcheck" xargs -0 -n 3 -P "$(nproc)" shellcheck --severity=warning -x \
    < <(printf '%s\0' run.sh utils/*.sh tests/run.sh tests/shell/slurm/*.sh .ci/run)
}

main "$@"; exit # on one line: an edit of this file during a run is not run
