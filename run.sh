#!/usr/bin/env bash
# Run a recipe, stage by stage, from audio to a table of error rates.
#
#   ./run.sh                                  the mini recipe; resumes where it stopped
#   ./run.sh --recipe voxceleb --stage align  from this stage on, even if finished
#   ./run.sh --set aligner.hidden_dim=512     with a value of recipe.yaml changed
#
# The stages, by number or by name:
#
#   (see nessa/recipe/stages.txt)
#
# Options:
#
#   --recipe NAME       a folder of recipes/ (default: mini), or the path of any folder (with a /)
#                       that holds a recipe.yaml
#   --stage STAGE       start at this stage (default: after the last stage that finished)
#   --stop-stage STAGE  stop after this stage (default: the last one)
#   --nj N              parallel jobs (default: the cores that it may use; with slurm, no limit);
#                       never changes a result
#   --backend NAME      where the jobs run: local (default), or slurm, see docs/your-cluster.md
#   --slurm-conf FILE   Slurm resources of each stage (default: conf/slurm.yaml)
#   --sbatch=OPTION     one more option of sbatch, as --sbatch=--account=speech; repeatable
#   --max-jobs-run N    at most N jobs at once, even if --nj is larger
#   --allow-pipes true  run the commands that wav.scp has instead of files
#   --skip-bad true     leave out utterances that cannot be read (stage prepare) or that one of the
#                       models cannot embed (stage extract), with their trials, and list them
#   --size NAME         a size that the recipe offers, e.g. tiny, default, large
#   --work-dir DIR      receives data/ and exp/ (default: the recipe's folder)
#   --set KEY=VALUE     change a value of recipe.yaml; repeatable
#   --voxceleb1, --voxceleb2, --musan, --rirs, --librispeech, --voices DIR
#                       where a corpus is on disk, short for --set corpus.paths.voxceleb1=DIR
#   --dry-run true      show the jobs of each stage, for slurm as calls of sbatch, and run none
#   --help              print this
#
# Every stage logs to exp/log/<stage>/. NESSA_PYTHON=/path/to/python uses that environment
# instead of .venv. Exit status: 0 done, 2 bad options or bad input, 1 anything else.

# shellcheck source-path=SCRIPTDIR
set -euo pipefail +o noclobber # which an exported SHELLOPTS may set

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$root/utils/log.sh"
source "$root/utils/parse_options.sh"
source "$root/utils/cores.sh"
source "$root/utils/locks.sh"
source "$root/utils/setup.sh"
source "$root/utils/instructions.sh"
source "$root/utils/memory.sh"

# Sums of floating-point numbers depend on how many threads share them, and on the processor's
# instructions. With one thread per job, and AVX2 wherever it is, results do not depend on --nj, nor
# on the machine among those with processors of one maker (see docs/results.md).
pin_instructions
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
keep_freed_memory
# Jobs print into files and pipes; what they say should be there when they are killed.
export PYTHONUNBUFFERED=1

# What jobs take long to import.
readonly libraries='nessa.corpus.finishing nessa.encoders.training nessa.encoders.shards
  nessa.recipe.backends nessa.recipe.fitting nessa.recipe.aligners nessa.alignment.neural
  nessa.recipe.mapping nessa.recipe.scoring nessa.recipe.evaluation nessa.recipe.identification'
corpora=(voxceleb1 voxceleb2 musan rirs librispeech voices)
stage_list=$root/nessa/recipe/stages.txt # a line each; their numbers are their places
mapfile -t stages <"$stage_list"
stages=("${stages[@]%%[[:space:]]*}") # the names

main() {
  read_options "$@"
  setup_environment mini onnx
  export NESSA_STARTED_IN=$PWD # where relative paths are looked for as well
  [[ -z ${TMPDIR:-} ]] || TMPDIR=$(realpath -m -- "$TMPDIR")
  cd "$root" # programs, and relative paths in a recipe, are found from here
  [[ $backend == local ]] || read_slurm_conf
  if [[ $dry_run == true ]]; then
    show_jobs
    return
  fi
  lock_work_dir
  check_queue
  remove_leftovers
  trap 'stop 129' HUP
  trap 'stop 130' INT
  trap 'stop 143' TERM
  trap stop_server EXIT
  [[ $backend == slurm ]] || start_server # imports while the plan is read
  read_plan "$exp/.jobs.plan"
  choose_first_stage
  local number
  for ((number = first; number <= last; number++)); do run_stage "$number"; done
  rm -f "$exp/.slurm" # all jobs have ended
  show_results
}

# --- the stages --------------------------------------------------------------------------------
# A function for each line of $stage_list. {1}, {2}, ... are the fields of a job such as
# nessa:new:old; see utils/launch.sh.

stage_corpus() {
  if [[ -z ${plan[corpus]} ]]; then
    log "the corpus is on disk; nothing to make"
    return
  fi
  run_one "$python" "local/${plan[corpus]}.py" \
    --recipe "$config" --corpus "$data/corpus" --nj "$(processes_of_a_job)"
}

stage_prepare() {
  run_one "$python" "local/${plan[prepare]}.py" \
    --recipe "$config" --corpus "$data/corpus" --output "$data" --nj "$(processes_of_a_job)" \
    "${skip[@]}"
  run_one "${nessa[@]}" prepare --recipe "$config" "$data"
}

stage_encoders() {
  local models sharing workers train=("${nessa[@]}" train) # workers load audio, for each process
  read -ra models <<<"${plan[models]}"
  sharing=${#models[@]}
  if [[ $backend == slurm ]]; then
    sharing=${slurm[encoders.processes]}
    train=(utils/srun_train.sh --processes "$sharing" -- "${train[@]}")
  fi
  workers=$(processes_of_a_job)
  workers=$((sharing && workers > sharing ? workers / sharing : 1))
  run_jobs '{1}' "${plan[models]}" \
    "${train[@]}" --recipe "$config" --model '{1}' --data "$data" \
    --workers "$workers" --output "$exp/encoders/{1}"
}

stage_extract() {
  local part sets=() skip_alike=("${skip[@]}") readers=()
  # Of the CPUs of a job, one computes. Here, jobs choose for themselves: on a GPU, by timing.
  [[ $backend != slurm ]] || readers=(--workers $((${slurm[extract.cpus]} - 1)))
  for part in ${plan[extract_sets]}; do sets+=(--set "$part"); done
  local extract=("${nessa[@]}" extract --encoder "$exp/encoders/{1}" --data "$data" "${sets[@]}"
    --shards "${plan[shards]}" --output "$exp/embeddings/{1}")
  run_one "${nessa[@]}" recipe try-encoders "${of_recipe[@]}"
  run_jobs '{1}.{2}' "$(each_shard_of "${plan[models]}")" "${extract[@]}" --shard '{2}' \
    "${readers[@]}" "${skip[@]}"
  if ((${#skip[@]})); then # what one model skips, all systems do without
    for part in ${plan[models]}; do skip_alike+=(--beside "$exp/embeddings/$part"); done
  fi
  run_jobs '{1}.merge' "${plan[models]}" "${extract[@]}" --merge "${skip_alike[@]}"
  ((${#skip[@]})) || return 0
  # Sets that were prepared whole are not that any more: the next run makes them again.
  [[ $dry_run == true ]] || is_done prepare || rm -f "$exp/.done/prepare"
  run_one "${nessa[@]}" recipe leave-out "${of_recipe[@]}"
}

stage_symmetric() {
  [[ -z ${plan[backends]} ]] || run_jobs 'fit.{1}' "${plan[backends]}" \
    "${nessa[@]}" recipe fit-backend --data "$data" --exp "$exp" --model '{1}'
  score "${plan[symmetric]}"
}

stage_align() {
  # One fit serves both update directions: the second aligner has the sides swapped.
  run_jobs '{1}.{2}-{3}' "${plan[fitted]}" \
    "${nessa[@]}" align --recipe "$config" --aligner '{1}' --data "$data" \
    --enroll "$exp/embeddings/{2}" --runtime "$exp/embeddings/{3}" \
    --output "$exp/aligners/{1}/{2}-{3}" --mirror "$exp/aligners/{1}/{3}-{2}"
}

stage_map() {
  run_jobs '{1}.{2}-{3}' "${plan[mapped]}" \
    "${nessa[@]}" recipe map "${of_recipe[@]}" --system '{1}:{2}:{3}'
}

stage_asymmetric() {
  score "${plan[systems]}"
  run_one "${nessa[@]}" recipe identify "${of_recipe[@]}" --output "$exp/metrics/identification.json"
}

stage_report() {
  run_one "${nessa[@]}" report "${of_recipe[@]}"
}

stage_export() {
  run_jobs '{1}.{2}-{3}' "${plan[exported]}" \
    "${nessa[@]}" export --aligner "$exp/aligners/{1}/{2}-{3}" \
    --calibration "$exp/scores/{1}/{2}-{3}/calibration.json" \
    --training-data "the align set of recipe ${plan[name]}" \
    --output "$exp/export/{1}.{2}-{3}"
}

# score SYSTEMS: scores, then error rates and their intervals for this stage's table.
score() {
  local system systems=()
  run_jobs '{1}.{2}-{3}' "$1" "${nessa[@]}" recipe score "${of_recipe[@]}" --system '{1}:{2}:{3}'
  for system in $1; do systems+=(--system "$system"); done
  run_one "${nessa[@]}" recipe evaluate "${of_recipe[@]}" "${systems[@]}" \
    --nj "$(processes_of_a_job)" --output "$exp/metrics/$name.json"
}

# "old new" -> "old:1 old:2 ... new:1 new:2 ..."
each_shard_of() {
  local model shard
  for model in $1; do
    for ((shard = 1; shard <= plan[shards]; shard++)); do echo -n "$model:$shard "; done
  done
}

# --- running them ------------------------------------------------------------------------------

# run_stage NUMBER: the stage with its log lines, then the marker that says it is done.
# The functions below find the stage's name in $name.
run_stage() {
  local number=$1 start=$SECONDS name=${stages[$1]}
  choose_backend_options
  log "stage $number: $name$(subject_of "$name"); logs in $exp/log/$name"
  # All jobs start again, and the report counts the logs that are there.
  printf '%s\0' "$exp/log/$name"/*.log | xargs -0 rm -f # as many as there may be
  "stage_$name"
  mark_done "$name"
  log "stage $number: $name done in $((SECONDS - start)) seconds"
}

subject_of() {
  local subject=''
  case $1 in
    corpus) subject=${plan[corpus]} ;;
    prepare) subject=${plan[prepare]} ;;
    encoders | symmetric | align | map | asymmetric) subject=${plan[models]} ;;
    extract) subject="${plan[models]}: ${plan[extract_sets]}" ;;
    export) subject=${plan[exported]} ;;
  esac
  echo "${subject:+ ($subject)}"
}

# How many processes a program may start that is a job by itself.
processes_of_a_job() {
  if [[ $backend == slurm ]]; then echo "${slurm[$name.cpus]}"; else echo "$nj"; fi
}

# run_jobs LOG JOBS COMMAND...: the command for each job, its log in exp/log/<stage>/LOG.log.
run_jobs() {
  local log_name=$1 jobs=$2
  shift 2
  if [[ -z $jobs ]]; then
    log "the recipe asks for none; nothing to do"
    return
  fi
  launch "$jobs" --log "$exp/log/$name/$log_name.log" -- "$@"
}

# run_one COMMAND...: a single job, named after its program or subcommand, seen on the screen.
run_one() {
  local job
  case $2 in
    -m) # python -m nessa.cli prepare ..., or nessa.cli recipe evaluate ...
      job=$4
      [[ $job != recipe ]] || job=$5
      ;;
    *) job=$(basename "$2" .py) ;; # python local/mini.py ...
  esac
  launch "$job" --log "$exp/log/$name/$job.log" --show true -- "$@"
}

# launch JOBS OPTION...: see utils/launch.sh.
launch() {
  local jobs=$1 forks=() going_on='without --stage'
  shift
  ((${#unfinished[@]} == 0)) || going_on="with --stage $name" # would begin with those
  [[ -z $server ]] || forks=(--server "$server $server_dir/socket")
  # In the background, for bash acts on a signal at once only while it waits.
  "$root/utils/launch.sh" --dry-run "$dry_run" --nj "$((nj < max_jobs_run ? nj : max_jobs_run))" \
    "${backend_options[@]}" "${forks[@]}" "$@" <<<"$jobs" &
  launcher=$!
  [[ $dry_run == true ]] || # where the disk is full, the jobs fail
    { echo "$owner; its jobs: process $launcher" >"$exp/.lock"; } 2>/dev/null || true
  wait "$launcher" ||
    fail $? "stage $name failed; once that is mended, ./run.sh $going_on resumes there"
  launcher=
}

# A Python that has imported what takes long, and whose forks the jobs of this run are.
start_server() {
  server_dir=$(temporary_folder)
  # shellcheck disable=SC2086  # a word each
  "$python" utils/preload.py serve "$server_dir/socket" $libraries </dev/null &
  server=$!
  disown "$server"
}

temporary_folder() {
  mktemp -d || fail 1 "cannot write to ${TMPDIR:-/tmp}; set TMPDIR to a folder that has room"
}

stop_server() {
  [[ -z $server ]] || kill "$server" 2>/dev/null || true
  [[ -z $server_dir ]] || rm -rf "$server_dir" 2>/dev/null || true
}

# stop STATUS: end the jobs that are running, then leave.
stop() {
  trap '' HUP INT TERM
  if [[ -n $launcher ]]; then
    kill -TERM "$launcher" 2>/dev/null || true
    wait "$launcher" || true
  fi
  exit "$1"
}

# What a run would start, stage by stage. Nothing is run, nor written to the work directory.
show_jobs() {
  local number name
  planned=$(temporary_folder)
  trap 'rm -rf "$planned" 2>/dev/null || true' EXIT
  read_plan "$planned"
  find_first_stage
  check_files
  ((first <= last)) || log "all done before; --stage STAGE shows that stage and those after it"
  for ((number = first; number <= last; number++)); do
    name=${stages[number]}
    choose_backend_options
    log "stage $number: $name$(subject_of "$name")"
    "stage_$name"
  done
}

# --- options, plan and markers -----------------------------------------------------------------

# What --help prints: the comment at the top, with the stages in it.
print_help() {
  local list='/^# *(see nessa.recipe.stages.txt)$/'
  nl -v 0 -w 4 -s ' ' "$stage_list" |
    sed -n -e 1d -e '/^#/!q' -e "$list r /dev/stdin" -e "$list d" -e 's/^# \{0,1\}//p' "$0"
}

# number_of OPTION STAGE: the number of a stage that OPTION gives by number or name.
number_of() {
  local number
  for number in "${!stages[@]}"; do
    [[ $2 != "$number" && $2 != "${stages[number]}" ]] || { echo "$number" && return; }
  done
  [[ ! $2 =~ ^[0-9]+$ ]] || fail 2 "--$1 $2: there are stages 0 to $number"
  fail 2 "--$1 $2: no such stage; did you mean $(nearest "$2" "${stages[@]}")?" \
    "(--help lists the stages)"
}

read_options() {
  recipe=mini stage='' stop_stage=${stages[-1]} nj='' size='' work_dir='' set=()
  arguments=() backend=local slurm_conf='' sbatch=() max_jobs_run=9999
  skip_bad=false skip=() allow_pipes=false dry_run=false unfinished=()
  server='' server_dir='' launcher='' # whatever the environment calls so
  local corpus option
  for corpus in "${corpora[@]}"; do declare -g "$corpus="; done
  parse_options recipe stage stop_stage nj size work_dir set backend slurm_conf sbatch max_jobs_run \
    skip_bad allow_pipes dry_run "${corpora[@]}" -- "$@"
  ((${#arguments[@]} == 0)) ||
    fail 2 "unexpected argument '${arguments[0]}'; options start with -- (see --help)"
  find_recipe
  last=$(number_of stop-stage "$stop_stage")
  first=${stage:+$(number_of stage "$stage")}
  [[ -z $first ]] || ((first <= last)) ||
    fail 2 "--stage $stage comes after --stop-stage $stop_stage"
  [[ $backend == local || $backend == slurm ]] ||
    fail 2 "--backend must be local or slurm, not '$backend'"
  [[ $backend == slurm || -z $slurm_conf${sbatch[*]} ]] ||
    fail 2 "--sbatch and --slurm-conf are for --backend slurm"
  for option in "${sbatch[@]}"; do
    [[ $option != -c* && $option != --cpus* ]] ||
      fail 2 "--sbatch=$option: programs would start no more processes; write cpus in --slurm-conf"
  done
  check_integer max_jobs_run 1 9999
  [[ $backend == local ]] || nj=${nj:-$max_jobs_run} # the cores here are not those of the tasks
  nj=${nj:-$(count_cores)}
  check_integer nj 1 9999
  [[ $allow_pipes == false ]] || set+=(corpus.allow_pipes=true)
  [[ $skip_bad == false ]] || skip=(--skip-bad)
  slurm_conf=$(realpath -m -- "${slurm_conf:-$root/conf/slurm.yaml}")
  for corpus in "${corpora[@]}"; do
    [[ -z ${!corpus} ]] || set+=("corpus.paths.$corpus=$(quoted "$(realpath -m -- "${!corpus}")")")
  done
  work_dir=$(realpath -m -- "${work_dir:-$recipe_dir}")
  [[ ! $work_dir =~ \{[0-9]+\} ]] || # which stands for a job's field
    fail 2 "$work_dir: the name of a work directory may not have ${BASH_REMATCH[0]} in it;" \
      "choose another --work-dir"
  data=$work_dir/data exp=$work_dir/exp config=$work_dir/exp/recipe.yaml
  jobs_name=nessa-$(sha256sum <<<"$work_dir" | cut -c 1-8) # begins their names in Slurm's queue
  of_recipe=(--recipe "$config" --data "$data" --exp "$exp")
}

# A text as YAML takes it literally.
quoted() {
  echo "'${1//\'/\'\'}'"
}

# Where the recipe is, as an absolute path: the stages run from the repository's root.
find_recipe() {
  if [[ $recipe == */* ]]; then
    [[ -f $recipe/recipe.yaml ]] || fail 2 "--recipe $recipe: no recipe.yaml in this folder"
    recipe_dir=$(realpath -- "$recipe")
  else
    [[ -f $root/recipes/$recipe/recipe.yaml ]] ||
      fail 2 "unknown recipe '$recipe'; there are: $(list_recipes); a folder is named with a slash"
    recipe_dir=$root/recipes/$recipe
  fi
}

list_recipes() {
  local file names=()
  for file in "$root"/recipes/*/recipe.yaml; do names+=("$(basename "$(dirname "$file")")"); done
  echo "${names[*]}"
}

# One run per work directory. The jobs inherit the lock (descriptor 9) on purpose: jobs that
# outlive a killed run.sh still write there, and keep a new run out until they have ended.
lock_work_dir() {
  local holders
  mkdir -p "$exp/.done" || fail 1 "cannot write to $exp; choose another --work-dir"
  { exec 9>>"$exp/.lock"; } 2>/dev/null || fail 1 "cannot write to $exp; choose another --work-dir"
  take_lock 9 "$exp" -w 2 || {
    find_holders "$exp/.lock"
    fail 1 "$work_dir is in use by another run.sh ($(<"$exp/.lock")) or by jobs it left behind;" \
      "${holders:+the processes here that hold it: $holders; }wait for it, stop it (kill it or," \
      "where it is gone, the process of its jobs or, without that, what else holds it)," \
      "or choose another --work-dir"
  }
  printf -v owner 'process %d on %s, started %(%F %T)T' $$ "$HOSTNAME" -1
  echo "$owner" >"$exp/.lock" || fail 1 "cannot write to $exp; is the disk full?"
}

# Tasks of a run that was killed, of whichever user, may still wait or run in Slurm's queue, and
# write here.
check_queue() {
  local left job number user
  [[ -e $exp/.slurm ]] || return 0 # no run of this folder has used it
  command -v squeue >/dev/null || fail 1 "$work_dir: an earlier run used Slurm, which is not here;" \
    "if no job of that run is left, remove $exp/.slurm"
  left=$(squeue --noheader --format='%j %i %u') ||
    fail 1 "$work_dir: an earlier run used Slurm, whose queue cannot be read now; try again later"
  read -r job number user < <(grep "^$jobs_name-" <<<"$left") || true
  [[ -z $job ]] || fail 1 "$work_dir is in use by jobs of an earlier run (job $number of $user);" \
    "wait for them, or cancel them: scancel --name=$job"
  rm "$exp/.slurm"
}

# What killed jobs were writing. What is locked, a training that was started by hand writes. The
# folders may be links to another disk, whose root may have a folder that only root reads.
remove_leftovers() {
  local folder
  for folder in "$data"/{train,align,dev,eval,manifests,copies,corpus} "$exp"; do
    [[ ! -d $folder ]] || # named as nessa.files.atomic_open names them
      find -H "$folder" -type f -name '.*.????????.tmp' -exec flock --nonblock {} rm -f {} \; \
        2>/dev/null || true # nothing of ours is in there
  done
  rm -rf "$exp"/.jobs.* 2>/dev/null || true # NFS keeps what a process has open
}

read_slurm_conf() {
  local text key value
  text=$("${nessa[@]}" recipe slurm --conf "$slurm_conf")
  declare -gA slurm=()
  while read -r key value; do
    case $key in
      *.sbatch | *.setup) slurm[$key]+=$value$'\n' ;; # may be there many times
      *) slurm[$key]=$value ;;
    esac
  done <<<"$text"
}

# Leaves in $backend_options what the launcher needs for the stage's jobs.
choose_backend_options() {
  local option line
  backend_options=(--backend "$backend")
  [[ $backend == slurm ]] || return 0
  [[ $dry_run == true ]] || touch "$exp/.slurm"
  backend_options+=(--scratch "$exp" --name "$jobs_name-$name" --retries "${slurm[retries]}")
  while read -r option; do
    [[ -z $option ]] || backend_options+=("--sbatch=$option")
  done <<<"${slurm[$name.sbatch]-}"
  for option in "${sbatch[@]}"; do backend_options+=("--sbatch=$option"); done # goes before those
  while read -r line; do
    [[ -z $line ]] || backend_options+=("--setup=$line")
  done <<<"${slurm[$name.setup]-}"
}

# What to run, as lines of `key value...` that the recipe resolves to; `digest STAGE HEX` tells the
# settings apart that this stage and those before it depend on.
# read_plan FOLDER: receives exp/recipe.yaml, a folder of its own until it is known what will run.
read_plan() {
  local text key value changes=()
  for value in "${set[@]}"; do changes+=(--set "$value"); done
  # Ctrl-C ends the run when this has ended, within a second, rather than in the midst of an import.
  text=$(trap '' INT && "${nessa[@]}" recipe resolve --recipe "$recipe_dir/recipe.yaml" \
    ${size:+--size "$size"} "${changes[@]}" --work-dir "$1")
  declare -gA plan=()
  declare -gA digests=()
  while read -r key value; do
    case $key in
      digest) digests[${value%% *}]=${value#* } ;;
      *) plan[$key]=$value ;;
    esac
  done <<<"$text"
  # What is left out changes the sets, and with them all that is made of them.
  for key in "${stages[@]}"; do
    [[ $key == corpus ]] || digests[$key]+=${skip[*]:+ ${skip[*]}}
  done
  # The models decide it, and what one of them could not embed, another one may.
  ((${#skip[@]} == 0)) || digests[prepare]+=" ${digests[encoders]}"
  # Those of the corpus as they are now, and the second in which one was last changed.
  digests[prepare]+=${plan[tables]:+ tables ${plan[tables]}}
}

find_first_stage() {
  if [[ -n $first ]]; then
    compare_settings
    return
  fi
  first=0
  while ((first < ${#stages[@]})) && is_done "${stages[first]}"; do first=$((first + 1)); done
}

# Stages before a first one that was chosen by hand stay as they are, whatever they were made with,
# and half done where a run was stopped in them. Leaves in $unfinished those that are not done.
compare_settings() {
  local name
  for name in "${stages[@]:0:first}"; do
    is_done "$name" || unfinished+=("$name")
  done
  ((${#unfinished[@]} == 0)) ||
    log "warning: stages ${unfinished[*]} were not finished with these settings or tables; what" \
      "is there of them is used as it is; repeat --set, --size and the like of the earlier run, or" \
      "leave out --stage"
}

# Before hours of other stages, and before a marker is removed: what is missing may come back.
check_files() {
  local number name
  for ((number = first; number <= last; number++)); do
    name=${stages[number]}
    [[ -z ${plan[missing_$name]-} ]] || fail 2 "${plan[missing_$name]}"
  done
}

# The packages of models that are not ours, where a stage runs that loads them.
set_up_models() {
  local number
  [[ -n ${plan[extras]:-} ]] || return 0
  for ((number = first; number <= last; number++)); do
    [[ ${stages[number]} == @(encoders|extract) ]] || continue
    # shellcheck disable=SC2086  # a word each
    setup_environment mini onnx ${plan[extras]}
    return
  done
}

choose_first_stage() {
  local name
  find_first_stage
  check_files
  set_up_models
  # An earlier version's marker tells the tables from now on.
  if [[ -n ${plan[tables]-} ]] && is_done prepare &&
    [[ $(<"$exp/.done/prepare") != "${digests[prepare]}" ]]; then mark_done prepare; fi
  # What a later stage has to make anew, with other settings, stays until a run gets there.
  if ((first <= last || first == ${#stages[@]})); then
    mv "$exp/.jobs.plan/exp/recipe.yaml" "$config"
    # What comes after is older than what will be made now.
    for name in "${stages[@]:first}"; do rm -f "$exp/.done/$name"; done
  fi
  rm -rf "$exp/.jobs.plan" 2>/dev/null || true
}

is_done() {
  local marker=$exp/.done/$1 found
  [[ -f $marker ]] || return 1
  found=$(<"$marker")
  [[ $found != "${digests[$1]}" ]] || return 0
  # Of a corpus that is away, as a disk, it is not known whether its tables have changed.
  [[ $1 != prepare || -n ${plan[tables]-} || $found != "${digests[$1]} tables "* ]] || return 0
  # An earlier version's does not tell the tables of the corpus: they may be no newer.
  [[ $found == "${digests[$1]% tables *}" ]] && (($(stat -c %Y "$marker") >= ${digests[$1]##* }))
}

# The marker must not be there before it is whole, nor before what it vouches for is on disk.
mark_done() {
  local marker=$exp/.done/$1
  { echo "${digests[$1]}" >"$marker.tmp" && sync "$marker.tmp" && mv "$marker.tmp" "$marker"; } ||
    fail 1 "cannot write $marker; is the disk full?"
}

show_results() {
  if ! is_done "${stages[-1]}"; then
    log "stages up to ${stages[last]} are done; results will be in $exp"
    return
  fi
  [[ " ${stages[*]:first} " == *" report "* || ! -f $exp/report/results.md ]] || # just printed
    cat "$exp/report/results.md"
  ((first < ${#stages[@]})) ||
    log "all done before; --stage STAGE runs that stage and those after it again"
  log "all done; results in $exp/results.json, $exp/report, logs in $exp/log"
}

main "$@"; exit # on one line: an edit of this file during a run is not run
