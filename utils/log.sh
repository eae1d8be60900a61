# shellcheck shell=bash
# Messages that say when and where. Source this file.

# log MESSAGE...: a line on stdout with the time and the caller's file and line.
log() {
  printf '%(%F %T)T (%s:%s) %s\n' -1 "${BASH_SOURCE[1]##*/}" "${BASH_LINENO[0]}" "$*"
}

# fail STATUS MESSAGE...: say what went wrong on stderr and leave.
# Status 2 is for what the user can mend in the call or the input, 1 for anything else.
fail() {
  local status=$1
  shift
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit "$status"
}
