# shellcheck shell=bash
# Locks of files. Source this file (after log.sh).

readonly locked=75 # what take_lock returns where somebody else has the lock

# take_lock DESCRIPTOR FOLDER OPTION...: a lock of the file that is open, which lies in FOLDER, by
# flock's options. Some file systems have none: what would refuse all runs for ever is a warning.
take_lock() {
  local status=0
  flock --conflict-exit-code "$locked" "${@:3}" "$1" || status=$?
  ((status != locked)) || return "$locked"
  ((status == 0)) || log "warning: no lock can be had in $2, as its file system has none;" \
    "take care that nothing else writes there"
}

# find_holders FILE: leaves in $holders those other processes of this machine that have it open, of
# which only root sees another user's.
find_holders() {
  local open process
  local -A found=()
  for open in /proc/[0-9]*/fd/*; do
    process=${open#/proc/}
    [[ ! $open -ef $1 ]] || found[${process%%/*}]=
  done
  unset "found[$$]"
  # shellcheck disable=SC2034  # read by the script that sources this file
  holders=${!found[*]}
}
