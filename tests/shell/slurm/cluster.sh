#!/usr/bin/env bash
# A Slurm of one node on the loopback interface, for tests.
#
#   tests/shell/slurm/cluster.sh start DIR    everything it writes lies in DIR; prints the folder
#                                             of its slurm.conf, to be named in SLURM_CONF
#   tests/shell/slurm/cluster.sh stop DIR
#
#   --cpus N        of the node, whatever the machine has (default: 8)
#   --array-size N  tasks of an array at most (default: 1001, as Slurm's)
#
# Needs slurmctld, slurmd and munged (Debian and Ubuntu: slurmctld slurmd slurm-client munge).

# shellcheck source-path=SCRIPTDIR/../../../utils
set -euo pipefail +o noclobber # which an exported SHELLOPTS may set

utils=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../../../utils" && pwd)
source "$utils/log.sh"
source "$utils/parse_options.sh"
export PATH=$PATH:/usr/sbin:/sbin # where the daemons are

readonly patience=30 # seconds that the node has to come up, and a daemon to end

main() {
  cpus=8 array_size=1001 arguments=()
  parse_options cpus array_size -- "$@"
  check_integer cpus 1 9999
  check_integer array_size 2 999999
  ((${#arguments[@]} == 2)) || fail 2 "expected: start DIR, or stop DIR"
  folder=$(realpath -m -- "${arguments[1]}")
  case ${arguments[0]} in
    start) start ;;
    stop) stop ;;
    *) fail 2 "unknown command '${arguments[0]}'; there are start and stop" ;;
  esac
}

start() {
  local program
  for program in munged slurmctld slurmd; do
    command -v "$program" >/dev/null || fail 2 "$program is not installed"
  done
  mkdir -p "$folder"/{state,spool,log}
  chmod 700 "$folder"
  start_munge
  export SLURM_CONF=$folder/slurm.conf
  write_configuration >"$SLURM_CONF"
  trap stop ERR
  slurmctld
  slurmd
  wait_for_node
  echo "$SLURM_CONF"
}

start_munge() {
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  munged --key-file="$folder/munge.key" --socket="$folder/munge.socket" --force \
    --pid-file="$folder/munged.pid" --log-file="$folder/log/munged" \
    --seed-file="$folder/munge.seed" 2>/dev/null
}

write_configuration() {
  local host user controller node
  host=$(hostname -s) user=$(id -un)
  read -r controller node <<<"$(free_ports 2)"
  cat <<CONF
ClusterName=nessa
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=0
KillWait=2
MaxArraySize=$array_size
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$(free -m | awk '/^Mem:/ { print $2 }')
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

free_ports() {
  python3 - "$1" <<'PYTHON'
import socket, sys
open_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(one.getsockname()[1] for one in open_sockets))
PYTHON
}

wait_for_node() {
  local deadline=$((SECONDS + patience))
  until [[ $(sinfo --noheader --format %T 2>/dev/null) == idle ]]; do
    ((SECONDS < deadline)) || fail 1 "the node did not come up; see $folder/log"
    sleep 0.2
  done
}

stop() {
  local daemon process deadline=$((SECONDS + patience))
  for daemon in slurmd slurmctld munged; do
    process=$(cat "$folder/$daemon.pid" 2>/dev/null) || continue
    kill "$process" 2>/dev/null || true
    while kill -0 "$process" 2>/dev/null; do
      ((SECONDS < deadline)) || fail 1 "$daemon, process $process, does not end"
      sleep 0.1
    done
  done
}

main "$@"; exit
