#!/usr/bin/env bash
# Run one command many times in parallel, each with its own log.
#
#   utils/launch.sh --nj 2 --log 'exp/log/extract/{1}.{2}.log' -- \
#     nessa extract --model '{1}' --shard '{2}/2' ... <<<'old:1 old:2 new:1'
#
# Every word of standard input is one job, in the order they start; its fields, split at the colons,
# replace {1}, {2}, ... in the command and in the log's name. A log begins with the command line and
# the time, and ends with the exit code and the time taken.
#
#   --log FILE          the log of a job, with its fields in it
#   --nj N              run at most N at once (default: 1)
#   --show true|false   copy what jobs print on stdout to the screen too, and when they
#                       have ended the warnings that nessa logs (default: false)
#   --scratch DIR       receives the exit codes while jobs run (default: $TMPDIR or /tmp)
#   --server 'PID SOCKET'  of a preload.py that serves: local jobs of a command that is
#                       python -m MODULE, or python FILE.py, run in its forks
#   --backend NAME      where the jobs run: local (default), or slurm, as tasks of its arrays
#   --dry-run true|false  show what would run, and run nothing (default: false)
#
# For Slurm, where DIR must be a folder that all machines see:
#
#   --name NAME         of its jobs, by which they are found and canceled
#   --sbatch OPTION     an option of sbatch, as --sbatch=--mem=4G; repeatable
#   --setup LINE        a line of shell before each job, as 'module load cuda'; repeatable
#   --retries N         run a job that failed up to N times more, unless its input was bad
#                       (default: 0)
#
# Exit status: 0 if every job ended with 0; 2 if all that failed did so with 2 (bad input);
# 1 otherwise. Ctrl-C or SIGTERM stops all jobs first.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail +o noclobber # which an exported SHELLOPTS may set

utils=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$utils/log.sh"
source "$utils/parse_options.sh"
source "$utils/slurm.sh"

readonly grace=5        # seconds between SIGTERM and SIGKILL
readonly tail_lines=15  # of a failed job's log

main() {
  log='' nj=1 show=false scratch=${TMPDIR:-/tmp} backend=local arguments=()
  server='' name='' sbatch=() setup=() retries=0 dry_run=false
  parse_options log nj show scratch server backend name sbatch setup retries dry_run -- "$@"
  check_integer nj 1 9999
  check_integer retries 0 99
  [[ -n $log ]] || fail 2 "--log is missing"
  ((${#arguments[@]})) || fail 2 "the command is missing; write it after --"
  # A backend is a function that calls `run_job INDEX` for every job, wherever it likes to.
  case $backend in
    local) ;;
    slurm)
      [[ -n $name ]] || fail 2 "--backend slurm needs --name"
      [[ $dry_run == true ]] || check_slurm
      ;;
    *) fail 2 "unknown backend '$backend'; there are: local, slurm" ;;
  esac

  # No option, for Linux takes 128 KiB in one at most. Where it is a terminal, it was forgotten.
  job_list=()
  [[ -t 0 ]] || read -r -d '' -a job_list || true
  ((${#job_list[@]})) || fail 2 "the jobs are missing; write them to standard input"
  if [[ $dry_run == true ]]; then
    show_jobs
    return
  fi
  status_dir=$(mktemp -d "$(realpath -- "$scratch")/.jobs.XXXXXX") ||
    fail 1 "cannot write to $scratch; is the disk full?"
  trap 'rm -rf "$status_dir" 2>/dev/null || true' EXIT # NFS keeps what a process has open
  trap 'stop_jobs HUP' HUP
  trap 'stop_jobs INT' INT
  trap 'stop_jobs TERM' TERM
  "run_$backend"
  report_failures
}

# What would run: the calls of sbatch, the number of jobs, and the command of the first.
show_jobs() {
  local word command=()
  status_dir=$scratch/.jobs.XXXXXX # as mktemp would make it
  [[ $backend != slurm ]] || show_arrays
  for word in "${arguments[@]}"; do
    fill_in "${job_list[0]}" "$word"
    command+=("$filled")
  done
  fill_in "${job_list[0]}" "$log"
  echo "jobs: ${#job_list[@]}; the first, with its log in $filled:"
  show_call "${command[@]}"
}

# show_call WORD...: as a shell takes it.
show_call() {
  printf '  %q' "$1" && printf ' %q' "${@:2}" && echo
}

run_local() {
  local index
  for index in "${!job_list[@]}"; do
    while (($(count_running) >= nj)); do wait_for_one; done
    run_job "$index" &
  done
  while (($(count_running))); do wait_for_one; done
  [[ $show == true || ! -t 1 ]] || echo
}

count_running() {
  jobs -rp | wc -l
}

wait_for_one() {
  wait -n || true # the job has left its exit code in a file
  [[ $show == true || ! -t 1 ]] ||
    printf '\r%d/%d jobs done' "$(find "$status_dir" -type f | wc -l)" "${#job_list[@]}"
}

# run_job INDEX: one job with its log, in a process of its own. An array task of Slurm holds a copy
# of this function and of those that it calls.
run_job() {
  local code=0 start=$SECONDS file command=() word
  trap : TERM # when stopped, wait for the command to end and close the log
  fill_in "${job_list[$1]}" "$log"
  file=$filled
  for word in "${arguments[@]}"; do
    fill_in "${job_list[$1]}" "$word"
    command+=("$filled")
  done
  open_log "$file"
  {
    printf '#' && printf ' %q' "${command[@]}" && echo
    printf '# started at %(%F %T)T\n' -1
  } >&"$log_fd"
  [[ -z $server || ! ${command[1]-} =~ ^-m$|\.py$ ]] || # in a fork; -I -S: starts in no time
    command=("${command[0]}" -I -S "$utils/preload.py" run "${server%% *}" "${server#* }"
      "${command[@]:1}")
  if [[ $show == true ]]; then
    "${command[@]}" </dev/null 2>&"$log_fd" | tee -a "/dev/fd/$log_fd" || code=${PIPESTATUS[0]}
    # Of what nessa logs, on stderr.
    grep -E '^[-0-9]+ [:,0-9]+ (WARNING|ERROR) \(' "$file" 2>/dev/null || true
  else
    "${command[@]}" </dev/null >&"$log_fd" 2>&1 || code=$?
  fi
  # The outcome counts even where the log cannot be closed.
  printf '# exit code %d after %d seconds at %(%F %T)T\n' \
    "$code" $((SECONDS - start)) -1 >&"$log_fd" || true
  echo "$code" >"$status_dir/$1"
}

# open_log FILE: empty, on the descriptor $log_fd, which stays good if the folder is removed.
open_log() {
  local attempt
  for attempt in 1 2 3; do # the folder may be removed at this very moment
    { mkdir -p "$(dirname "$1")" && : >"$1" && exec {log_fd}>>"$1"; } 2>/dev/null && return
  done
  echo "cannot write the log $1" >&2
  return 1
}

# fill_in JOB TEXT: leaves in $filled the TEXT with the job's fields in place of {1}, {2}, ...
# (A variable, not stdout: a process per word would cost more than many a job.)
fill_in() {
  local fields number
  filled=$2
  IFS=: read -r -a fields <<<"$1"
  for number in "${!fields[@]}"; do
    filled=${filled//"{$((number + 1))}"/"${fields[number]}"}
  done
}

report_failures() {
  local index code failed=0 first='' first_code='' status=2 folder
  for index in "${!job_list[@]}"; do
    # No file: the job was killed outright. An empty one: the disk was full.
    code=$(cat "$status_dir/$index" 2>/dev/null) || true
    [[ $code == 0 ]] && continue
    [[ $code == 2 ]] || status=1
    failed=$((failed + 1))
    [[ -n $first ]] || first=$index first_code=$code
  done
  ((failed)) || return 0
  fill_in "${job_list[first]}" "$log"
  {
    echo "$failed of ${#job_list[@]} jobs failed, the first $(how_ended "$first_code");" \
      "its log, $filled, ends with:"
    show_tail "$filled"
    [[ $backend != slurm || $show == true ]] || show_slurm_output "$first"
    folder=$(dirname "$filled")
    # Of the scratch as well: a full disk there keeps the exit codes from being written.
    if ! check_space "$folder" || ! on_one_disk "$folder" "$scratch"; then
      check_space "$scratch" || true
    fi
  } >&2
  return "$status"
}

# how_ended CODE: in words.
how_ended() {
  case $1 in
    '') echo "without an exit code (killed, or the disk is full)" ;;
    137) echo "with exit code 137 (killed; was there not enough memory?)" ;;
    *) echo "with exit code $1" ;;
  esac
}

# check_space FOLDER: says so, and is true, where its disk is full, which the log then cannot say.
check_space() {
  local free
  free=$(df -Pk "$1" 2>/dev/null | awk 'END { print $4 }') || true # it may be gone
  ((${free:-1024} < 1024)) &&
    echo "the disk of $1 has only $free KiB left; free some, and run again"
}

on_one_disk() {
  [[ $(stat -c %d -- "$1") == "$(stat -c %d -- "$2")" ]]
}

# The end of a log without the launcher's own lines; a progress bar's \r count as line ends.
show_tail() {
  if [[ -r $1 ]]; then
    tr '\r' '\n' <"$1" | sed -e '/^# exit code /d' -e '/^# started at /d' -e '/^$/d' |
      tail -n "$tail_lines"
  else
    echo "(there is no such log: the job did not start; is the folder writable?)"
  fi
}

# stop_jobs SIGNAL: end every process that this launcher started, then leave as SIGNAL asks.
stop_jobs() {
  local processes
  trap '' HUP INT TERM # a second Ctrl-C must not break off the cleaning up
  # The server's are this launcher's jobs: no other one has any meanwhile.
  mapfile -t processes < <(descendants $$ && { [[ -z $server ]] || descendants "${server%% *}"; })
  signal_all TERM "${processes[@]}" || true
  local deadline=$((SECONDS + grace))
  while ((SECONDS < deadline)) && signal_all 0 "${processes[@]}"; do sleep 0.1; done
  signal_all KILL "${processes[@]}" || true
  [[ $backend != slurm ]] || stop_slurm
  echo "stopped, with all jobs" >&2
  exit $((128 + $(kill -l "$1")))
}

# signal_all SIGNAL PROCESS...: true if any of the processes is still there.
signal_all() {
  local signal=$1 process any=1
  shift
  for process in "$@"; do kill -s "$signal" "$process" 2>/dev/null && any=0; done
  return "$any"
}

# descendants PROCESS: its children, their children, ..., one a line. Jobs stay in the launcher's
# process group, so that a kill of the group reaches them, hence the walk. It reads /proc, for a
# slim container has no ps.
descendants() {
  local -A children=()
  local path parent queue=("$1") child
  while IFS=: read -r path _ parent; do
    path=${path#/proc/}
    children[${parent//[[:space:]]/}]+=" ${path%/status}"
  done < <(grep -sH '^PPid:' /proc/[0-9]*/status)
  while ((${#queue[@]})); do
    for child in ${children[${queue[0]}]-}; do
      echo "$child"
      queue+=("$child")
    done
    queue=("${queue[@]:1}")
  done
}

main "$@"; exit # on one line: an edit of this file during a run is not run
