#!/usr/bin/env bash
# Starts a one-node Slurm on loopback, to test `hydra/launcher=slurm` without a cluster. As root:
#
#   eval "$(scripts/one_node_slurm.sh start)"   # then sbatch, srun, squeue ... of this shell use it
#   scripts/one_node_slurm.sh stop              # with the same SLURM_DIR; kills its jobs
#
# Needs neither systemd nor cgroups, so it runs in a container. Installs Debian's slurm-wlm and munge
# if they are missing. All its files are below SLURM_DIR. Several can run at a time if they differ in
# SLURM_DIR and both ports. Exit status: 0; 1 if Slurm did not start; 2 for a wrong argument or
# setting; 3, with a line on stderr, if this machine cannot run it (not root, no packages).
set -euo pipefail
umask 022

SLURM_DIR=${SLURM_DIR:-/tmp/one-node-slurm}
SLURM_CTLD_PORT=${SLURM_CTLD_PORT:-16817}
SLURM_D_PORT=${SLURM_D_PORT:-16818}
SLURM_CPUS=${SLURM_CPUS:-8}           # declared, not real: this many tasks run side by side
SLURM_MEM_MB=${SLURM_MEM_MB:-1000000} # declared as well; nothing enforces it
SLURM_FAKE_GPUS=${SLURM_FAKE_GPUS:-0} # 0 to 4, by name only, to test --gpus-per-node
SLURM_MAX_ARRAY_SIZE=${SLURM_MAX_ARRAY_SIZE:-1001}
DAEMONS=(slurmd slurmctld munged)     # in the order in which they are stopped
NODE=$(hostname -s)

refuse() { # STATUS REASON...
  echo "one_node_slurm.sh: ${*:2}" >&2
  exit "$1"
}

# --- installed? ---

installed() {
  local program
  for program in slurmctld slurmd munged sbatch srun scontrol; do
    command -v "$program" >/dev/null || return 1
  done
}

install_packages() {
  installed && return
  command -v apt-get >/dev/null || refuse 3 "Slurm is not installed and there is no apt-get"
  local log=$SLURM_DIR/log/install.log apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
  export DEBIAN_FRONTEND=noninteractive
  if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends slurm-wlm munge; } \
    >"$log" 2>&1 </dev/null; then
    refuse 3 "Slurm cannot be installed: $(tail -n 1 "$log")"
  fi
  installed || refuse 3 "Slurm's packages are installed, but programs are missing ($log)"
}

# --- our daemons, by the process ids in their files ---

# Prints the process id of our daemon $1 if it runs. The id may belong to another program by now, so
# the process must have a file below SLURM_DIR among its arguments.
pid_of() {
  local pid
  pid=$(cat "$SLURM_DIR/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  grep -qsF "$SLURM_DIR/" "/proc/$pid/cmdline" || return 1
  echo "$pid"
}

none_runs() {
  local daemon
  for daemon in "${DAEMONS[@]}"; do
    if pid_of "$daemon" >/dev/null; then return 1; fi
  done
}

all_run() {
  local daemon
  for daemon in "${DAEMONS[@]}"; do
    pid_of "$daemon" >/dev/null || return 1
  done
}

node_is_up() {
  [[ $(timeout 5 sinfo -h -o %t 2>/dev/null) =~ ^(idle|mix|alloc)$ ]]
}

up_or_dead() { node_is_up || ! all_run; }

no_job_runs() { [ -z "$(timeout 5 squeue -h -t running,completing 2>/dev/null)" ]; }

wait_until() { # SECONDS CONDITION
  local tries=$(($1 * 10))
  until "$2"; do
    [ $((tries--)) -gt 0 ] || return 1
    sleep 0.1
  done
}

# --- configuration ---

write_slurm_conf() {
  local gres="" device devices=(/dev/zero /dev/full /dev/null /dev/random)
  [ "$SLURM_FAKE_GPUS" -le ${#devices[@]} ] || refuse 2 "SLURM_FAKE_GPUS: at most ${#devices[@]}"
  rm -f "$SLURM_DIR/gres.conf"
  if [ "$SLURM_FAKE_GPUS" -gt 0 ]; then # any device file will do: without cgroups none is protected
    gres="Gres=gpu:$SLURM_FAKE_GPUS"
    for device in "${devices[@]:0:SLURM_FAKE_GPUS}"; do
      echo "NodeName=$NODE Name=gpu File=$device"
    done >"$SLURM_DIR/gres.conf"
  fi
  cat >"$SLURM_DIR/slurm.conf" <<CONF
ClusterName=onenode
SlurmctldHost=$NODE(127.0.0.1)
SlurmctldPort=$SLURM_CTLD_PORT
SlurmdPort=$SLURM_D_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire (default 120 s) is also how long a requeued job has to wait
AuthInfo=socket=$SLURM_DIR/munge.sock,cred_expire=5
SlurmctldPidFile=$SLURM_DIR/slurmctld.pid
SlurmdPidFile=$SLURM_DIR/slurmd.pid
SlurmctldLogFile=$SLURM_DIR/log/slurmctld.log
SlurmdLogFile=$SLURM_DIR/log/slurmd.log
StateSaveLocation=$SLURM_DIR/state
SlurmdSpoolDir=$SLURM_DIR/spool
SlurmctldTimeout=60
SlurmdTimeout=60
ReturnToService=2
# no cgroups
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
# no slurmdbd; bin/sacct (below) replaces sacct for as long as slurmctld remembers a job
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MinJobAge=86400
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize=$SLURM_MAX_ARRAY_SIZE
# as on many clusters, a job is requeued only if submitted with --requeue
JobRequeue=0
# seconds from SIGTERM to SIGKILL (default 30), at the time limit, scancel and requeue
KillWait=3
OverTimeLimit=0
InactiveLimit=0
GresTypes=gpu
# config_overrides: Slurm uses the CPUs and memory declared here, not the machine's
SlurmdParameters=config_overrides
NodeName=$NODE NodeAddr=127.0.0.1 $gres CPUs=$SLURM_CPUS RealMemory=$SLURM_MEM_MB State=UNKNOWN
PartitionName=main Nodes=$NODE Default=YES MaxTime=INFINITE State=UP PriorityTier=1
CONF
}

# submitit asks `sacct -o JobID,State,NodeList --parsable2 -j ID [-j ID ...]`. scontrol shows
# some short-lived states that sacct does not; they are replaced by what sacct would show.
write_sacct() {
  mkdir -p "$SLURM_DIR/bin"
  cat >"$SLURM_DIR/bin/sacct" <<'SACCT'
#!/usr/bin/env bash
# Replaces sacct, which needs slurmdbd: the same three columns, from scontrol.
ids=()
while [ $# -gt 0 ]; do
  if [ "$1" = -j ]; then
    ids+=("$2")
    shift
  fi
  shift
done
echo "JobID|State|NodeList"
for id in "${ids[@]}"; do
  scontrol -o show job "$id" 2>/dev/null | awk '{
    split("", value)
    for (k = 1; k <= NF; k++) {
      at = index($k, "=")
      value[substr($k, 1, at - 1)] = substr($k, at + 1)
    }
    job = value["JobId"]
    if ("ArrayJobId" in value) {
      task = value["ArrayTaskId"]
      job = value["ArrayJobId"] "_" (task ~ /[-,%]/ ? "[" task "]" : task)
    }
    state = value["JobState"]
    if (state == "SIGNALING" || state == "COMPLETING") state = "RUNNING"
    if (state == "CONFIGURING" || state ~ /^REQUEUE/) state = "PENDING"
    print job "|" state "|" value["NodeList"]
  }'
done
SACCT
  chmod +x "$SLURM_DIR/bin/sacct"
}

# --- start, stop ---

start_daemons() {
  if [ ! -s "$SLURM_DIR/munge.key" ]; then
    (umask 077 && head -c 1024 /dev/urandom >"$SLURM_DIR/munge.key")
  fi
  munged --force --key-file="$SLURM_DIR/munge.key" --socket="$SLURM_DIR/munge.sock" \
    --pid-file="$SLURM_DIR/munged.pid" --seed-file="$SLURM_DIR/munge.seed" \
    --log-file="$SLURM_DIR/log/munged.log" &&
    slurmctld -c -f "$SLURM_CONF" && # -c: forget the jobs of an earlier start
    slurmd -c -f "$SLURM_CONF" &&
    wait_until 5 all_run &&
    wait_until 20 up_or_dead &&
    all_run && node_is_up
}

start() {
  [ "$(id -u)" = 0 ] || refuse 3 "a one-node Slurm needs root"
  [ ${#SLURM_DIR} -le 70 ] || refuse 2 "SLURM_DIR is too long for the sockets in it: $SLURM_DIR"
  mkdir -p "$SLURM_DIR"/{state,spool,log}
  install_packages
  export SLURM_CONF=$SLURM_DIR/slurm.conf
  if ! { all_run && node_is_up; }; then # if it runs already, leave it alone
    stop
    write_slurm_conf
    write_sacct
    if ! start_daemons >"$SLURM_DIR/log/start.log" 2>&1 </dev/null; then
      stop
      refuse 1 "Slurm did not start ($(grep -h fatal "$SLURM_DIR"/log/slurm*.log | tail -n 1)):" \
        "see $SLURM_DIR/log"
    fi
  fi
  # shellcheck disable=SC2016 # $PATH is for the shell that evaluates this
  printf 'export SLURM_CONF=%q PATH=%q:"$PATH"\n' "$SLURM_CONF" "$SLURM_DIR/bin"
}

stop() {
  local daemon pid
  export SLURM_CONF=$SLURM_DIR/slurm.conf
  if all_run; then # processes of its jobs would survive the daemons
    timeout 10 squeue -h -o %A | sort -u | xargs -r timeout 10 scancel --full --signal=KILL || true
    timeout 10 squeue -h -o %A | sort -u | xargs -r timeout 10 scancel || true
    wait_until 10 no_job_runs || echo "one_node_slurm.sh: jobs still run after scancel" >&2
  fi
  for daemon in "${DAEMONS[@]}"; do
    if pid=$(pid_of "$daemon"); then kill "$pid" || true; fi
  done
  if ! wait_until 10 none_runs; then
    for daemon in "${DAEMONS[@]}"; do
      if pid=$(pid_of "$daemon"); then kill -KILL "$pid" || true; fi
    done
  fi
}

SLURM_DIR=$(realpath -m "$SLURM_DIR") # slurm.conf needs absolute paths
case ${1:-} in
  start) start ;;
  stop) stop ;;
  restart)
    stop
    start
    ;;
  *) refuse 2 "use: one_node_slurm.sh start|stop|restart" ;;
esac
