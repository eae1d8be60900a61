# shellcheck shell=bash
# How many cores there are for the processes of a run. Source this file, then call count_cores.

control_groups=/sys/fs/cgroup own_groups=/proc/self/cgroup # see cgroups(7)

# Those that the process may use, or fewer, where a container or Slurm allows it the time of fewer.
count_cores() {
  local cores quota
  # Without limits of OpenMP, which nproc heeds: they are those of threads.
  cores=$(unset OMP_NUM_THREADS OMP_THREAD_LIMIT && nproc)
  while read -r quota; do ((quota >= cores)) || cores=$quota; done < <(list_quotas)
  echo "$cores"
}

# The quotas of the process's control groups and of those that they are in, in cores, rounded up.
list_quotas() {
  local controllers path top
  [[ -r $own_groups ]] || return 0
  while IFS=: read -r _ controllers path; do
    case ,$controllers, in
      ,,) top=$control_groups ;;
      *,cpu,*) top=$control_groups/cpu ;; # version 1
      *) continue ;;
    esac
    # In a container the path may be the host's, of which it sees the last folder as the top.
    path=$top${path%/}
    while [[ $path == "$top"* ]]; do
      quota_of "$path"
      path=${path%/*}
    done
  done <"$own_groups"
}

# quota_of GROUP: nothing where it has none.
quota_of() {
  local quota='' period=''
  if [[ -r $1/cpu.max ]]; then
    read -r quota period <"$1/cpu.max"
  elif [[ -r $1/cpu.cfs_quota_us && -r $1/cpu.cfs_period_us ]]; then
    quota=$(<"$1/cpu.cfs_quota_us") period=$(<"$1/cpu.cfs_period_us")
  fi
  [[ ! $quota =~ ^[0-9]+$ ]] || echo $(((quota + period - 1) / period))
}
