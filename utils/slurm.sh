# shellcheck shell=bash
# Jobs as tasks of Slurm's arrays: the launcher's backend `slurm`. Sourced by launch.sh.
#
# An array task calls `run_job` as the local backend does, so that logs and exit codes are the same.
# Slurm keeps the queue, the limits and the machines; here the job is written, and its outcome read.

# shellcheck disable=SC2154  # launch.sh sets the variables that are not set here

readonly leave_time=60 # seconds that canceled tasks have to leave the queue
# What run.sh exports: results depend on it, and tasks would start without it where a site or the
# user gives sbatch --export=NONE.
readonly inherited=(OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS ATEN_CPU_CAPABILITY
  ONEDNN_MAX_CPU_ISA MKL_CBWR OPENBLAS_CORETYPE NPY_DISABLE_CPU_FEATURES MALLOC_MMAP_THRESHOLD_
  MALLOC_TRIM_THRESHOLD_ GLIBC_TUNABLES PYTHONUNBUFFERED PYTHONPATH PYTHONPYCACHEPREFIX NESSA_PYTHON
  NESSA_STARTED_IN)

check_slurm() {
  local program
  for program in sbatch squeue scancel scontrol; do
    command -v "$program" >/dev/null ||
      fail 2 "$program is not here; --backend slurm needs a machine that can submit jobs"
  done
}

# All jobs, and those that failed once more, up to $retries times.
run_slurm() {
  local pending=("${!job_list[@]}") attempt
  forget_outer_job
  array_size=$(largest_array)
  write_task
  for ((attempt = 0; attempt <= retries; attempt++)); do
    ((attempt == 0)) || log "${#pending[@]} of ${#job_list[@]} jobs failed; trying them again" \
      "($attempt of $retries)"
    run_arrays "${pending[@]}"
    [[ $show == false ]] || show_output "${pending[@]}"
    find_unfinished "${pending[@]}"
    pending=("${unfinished[@]}")
    ((${#pending[@]})) || break
  done
}

# Where run.sh is a job itself: tasks, and srun in them, would read what that asked for as theirs.
forget_outer_job() {
  local variable
  [[ -n ${SLURM_JOB_ID:-} ]] || return 0
  for variable in "${!SLURM_@}"; do
    [[ $variable == SLURM_CONF* || $variable == SLURM_JWT ]] || unset "$variable"
  done
}

# The calls of sbatch for all jobs; without a controller, for arrays of the usual size.
show_arrays() {
  array_size=$(largest_array 2>/dev/null) || array_size=1001
  run_arrays "${!job_list[@]}"
}

# Slurm numbers the tasks of an array from 0 to one less than this.
largest_array() {
  local name value
  while read -r name _ value; do
    [[ $name == MaxArraySize ]] && echo "$value" && return
  done < <(scontrol show config)
  fail 1 "scontrol does not tell MaxArraySize; is the controller up?"
}

# Leaves in $status_dir what every task runs: the jobs, one a line, and the script.
write_task() {
  local variable
  printf '%s\n' "${job_list[@]}" >"$status_dir/jobs"
  {
    echo '#!/usr/bin/env bash'
    echo 'set -euo pipefail'
    for variable in "${inherited[@]}"; do
      [[ ! -v $variable ]] || declare -px "$variable"
    done
    printf '%s\n' 'set +u' "${setup[@]}" 'set -u' # scripts of sites use variables that are not set
    echo "server=''" # whatever the machine calls so
    declare -p arguments log show status_dir
    declare -f run_job fill_in open_log
    # shellcheck disable=SC2016  # for the task to expand
    echo 'mapfile -t job_list <"$status_dir/jobs"'
    # shellcheck disable=SC2016
    echo 'run_job $(($1 + SLURM_ARRAY_TASK_ID))'
    # shellcheck disable=SC2016
    echo 'exit "$(<"$status_dir/$(($1 + SLURM_ARRAY_TASK_ID))")"'
  } >"$status_dir/task.sh"
}

# run_arrays INDEX...: one array after the other; job `base + k` is task k of the array `base`.
run_arrays() {
  local index base=0 tasks=()
  for index in "$@"; do
    rm -f "$status_dir/$index"
    if ((index >= base + array_size)); then
      run_array "$base" "${tasks[@]}"
      base=$((index / array_size * array_size)) tasks=()
    fi
    tasks+=("$((index - base))")
  done
  run_array "$base" "${tasks[@]}"
}

# run_array BASE TASK...: submit, and wait until none of it is left in the queue.
run_array() {
  local base=$1 list call submitted=$status_dir/submitted
  shift
  (($#)) || return 0
  list=$(IFS=, && echo "$*")
  (($# == 1 || $# < ${!#} - $1 + 1)) || list=$1-${!#} # all from the first to the last
  # Ours come last: sbatch takes them where one of the user's is the same.
  call=(sbatch "${sbatch[@]}" --wait --parsable --job-name="$name" --array="$list%$nj"
    --output="${status_dir//%/%%}/$base.%a.out" "$status_dir/task.sh" "$base")
  if [[ $dry_run == true ]]; then
    show_call "${call[@]}"
    return
  fi
  # In the background, for bash acts on a signal at once only while it waits. Its exit code is the
  # largest of the tasks'; what each of them did is in its file.
  "${call[@]}" >"$submitted" 2>"$submitted.err" &
  wait $! || [[ -s $submitted ]] ||
    fail 1 "sbatch refused the job: $(tail -n 3 "$submitted.err" | tr '\n' ' ')"
  while [[ -n $(queued) ]]; do sleep 5; done # where sbatch itself was killed
  : >"$status_dir/seen" # a client of NFS now looks at the folder anew
}

# The tasks of ours in the queue; where it cannot be read, a word that says so.
queued() {
  squeue --noheader --format=%i --name="$name" --user="$(id -un)" || echo unknown
}

# find_unfinished INDEX...: leaves in $unfinished the jobs that another attempt may help: killed, or
# ended with any code but 0 and 2, for bad input stays bad.
find_unfinished() {
  local index code
  unfinished=()
  for index in "$@"; do
    code=
    [[ ! -r $status_dir/$index ]] || read -r code <"$status_dir/$index" || true
    [[ $code == 0 || $code == 2 ]] || unfinished+=("$index")
  done
}

# show_output INDEX...: what the jobs printed, once they have ended.
show_output() {
  local index
  for index in "$@"; do cat "$(slurm_output "$index")" 2>/dev/null || true; done
}

# show_slurm_output INDEX: the end of what Slurm itself says of a job, if anything.
show_slurm_output() {
  local file
  file=$(slurm_output "$1")
  [[ ! -r $file ]] || tail -n "$tail_lines" "$file"
}

# The file that Slurm itself writes to, for instance that a task was killed for its memory.
slurm_output() {
  echo "$status_dir/$(($1 / array_size * array_size)).$(($1 % array_size)).out"
}

# Called when the launcher is stopped, after the processes that it started.
stop_slurm() {
  local deadline=$((SECONDS + leave_time))
  scancel --name="$name" --user="$(id -un)" || true
  while [[ -n $(queued) ]] && ((SECONDS < deadline)); do sleep 0.5; done
  [[ -z $(queued) ]] || echo "Slurm still has jobs of ours; later: scancel --name=$name" >&2
}
