# shellcheck shell=bash
# Options as Kaldi takes them: `--name value` or `--name=value` sets the variable `name`.
# Source this file (after log.sh), give each option its default, then call
#
#     parse_options recipe stage work_dir -- "$@"
#
# Only the names listed are options, dashes in them stand for underscores, and what follows the
# options is left in the array `arguments`. The default tells the kind: true or false asks for a
# boolean, an array collects every value given. A value is only ever assigned, never evaluated.
# `--help` prints the comment at the top of the calling script, unless it has its own print_help.

parse_options() {
  local _names=() _option _value _hint
  while [[ $1 != -- ]]; do
    _names+=("$1")
    shift
  done
  shift
  while (($#)); do
    _hint=
    case $1 in
      --help | -h) print_help && exit 0 ;;
      --) shift && break ;;
      --*=*) _option=${1%%=*} _value=${1#*=} && shift ;;
      --*)
        _option=$1 _value=${2-}
        [[ $_value != --* ]] || # the next option; with an = it could be a value
          _hint="; one that begins with -- is written $_option=$_value" _value=
        shift $(($# > 1 ? 2 : 1))
        ;;
      -?*) _option=$1 _value= && shift ;;
      *) break ;;
    esac
    _check_known "$_option" "${_names[@]}"
    _check_value "$_option" "$_value" "$_hint"
    _assign "$(_variable "$_option")" "$_value"
  done
  # shellcheck disable=SC2034  # read by the script that sources this file
  arguments=("$@")
}

# The comment that a script starts with, without its interpreter line.
print_help() {
  sed -n -e '1d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$0"
}

# check_integer NAME LEAST MOST: the option NAME holds a whole number in this range; 08 becomes 8.
check_integer() {
  local value=${!1}
  if ! [[ $value =~ ^[0-9]{1,6}$ ]] || ((10#$value < $2 || 10#$value > $3)); then
    fail 2 "--${1//_/-} must be a whole number from $2 to $3, not '$value'"
  fi
  printf -v "$1" %d $((10#$value)) # a leading zero would mean octal to bash
}

_variable() {
  local name=${1#--}
  echo "${name//-/_}"
}

_check_known() {
  local option=$1 wanted name
  wanted=$(_variable "$option")
  shift
  for name in "$@"; do [[ $name != "$wanted" ]] || return 0; done
  wanted=$(nearest "$wanted" "$@")
  fail 2 "unknown option $option; did you mean --${wanted//_/-}? (--help lists the options)"
}

# nearest WORD CANDIDATE...: the candidate that takes the fewest edits to become the word.
nearest() {
  local word=$1 candidate best='' distance least=99
  shift
  for candidate in "$@"; do
    distance=$(_edit_distance "$word" "$candidate")
    ((distance >= least)) || least=$distance best=$candidate
  done
  echo "$best"
}

# _check_value OPTION VALUE HINT: the hint is for where there is none.
_check_value() {
  case $1=$2 in
    "$1=") fail 2 "$1 needs a value$3" ;;
    --setup=*) ;; # of launch.sh: a line of shell, which jobs run
    *"\$("* | *"\`"*) fail 2 "$1: '$2' asks for a command to be run, which never happens here;" \
      "write its result instead" ;;
    "$1=~"*) fail 2 "$1: '$2': the shell leaves ~ after =; write $1 $2" ;;
  esac
}

# Only positional parameters here: a local variable would hide an option of the same name.
_assign() {
  if [[ $(declare -p "$1") == 'declare -a'* ]]; then
    local -n _list=$1
    _list+=("$2")
  elif [[ ${!1} == true || ${!1} == false ]] && [[ $2 != true && $2 != false ]]; then
    fail 2 "--${1//_/-} must be true or false, not '$2'"
  else
    declare -g "$1=$2"
  fi
}

# Levenshtein's distance, row by row.
_edit_distance() {
  local from=$1 to=$2 i j best above row=()
  for ((j = 0; j <= ${#to}; j++)); do row[j]=$j; done
  for ((i = 1; i <= ${#from}; i++)); do
    above=$((i - 1)) row[0]=$i
    for ((j = 1; j <= ${#to}; j++)); do
      best=$above
      [[ ${from:i-1:1} == "${to:j-1:1}" ]] || best=$((best + 1))
      above=${row[j]}
      ((row[j] + 1 < best)) && best=$((row[j] + 1))
      ((row[j - 1] + 1 < best)) && best=$((row[j - 1] + 1))
      row[j]=$best
    done
  done
  echo "${row[${#to}]}"
}
