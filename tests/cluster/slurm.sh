#!/bin/sh
# A SLURM of two nodes on this machine, for the tests marked `cluster`. It needs root and Debian's package archive, and neither
# systemd nor cgroups. Nothing is installed: the packages are unpacked into a folder, which only the tests have on their PATH.
#
#   slurm.sh unpack FOLDER    download Debian's packages and unpack them into FOLDER/root
#   slurm.sh start FOLDER     start munged, slurmctld and two slurmd, with all their files in FOLDER
#   slurm.sh stop FOLDER      cancel all jobs and end the daemons
#
# Partition `low` is requeued when `high` needs its nodes. Each node has 2 CPUs, whatever the machine has.
set -eu
[ $# -eq 2 ] || { sed -n '5,7s/^# *//p' "$0" >&2; exit 2; }
NODES=2
PORT=${SKINKD_SLURM_PORT:-26817}
mkdir -p "$2"
D=$(cd "$2" && pwd)
ROOT=$D/root
PLUGINS=$ROOT/usr/lib/x86_64-linux-gnu/slurm-wlm
export PATH="$ROOT/usr/bin:$ROOT/usr/sbin:$PATH" LD_LIBRARY_PATH="$ROOT/usr/lib/x86_64-linux-gnu:$PLUGINS"
export SLURM_CONF="$D/slurm.conf"

unpack() {
    mkdir -p "$D/packages" "$ROOT"
    cd "$D/packages"
    apt-get update -qq || true # an older list of packages may do
    apt-get download -qq munge libmunge2 libhwloc15 liblua5.1-0 slurm-client slurm-wlm-basic-plugins slurmctld slurmd
    for package in *.deb; do dpkg -x "$package" "$ROOT"; done
}

configure() {
    cat > "$SLURM_CONF" <<CONF
ClusterName=skinkd
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
PluginDir=$PLUGINS
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$D/munge/socket,cred_expire=5
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd-%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd-%n.log
SlurmdParameters=config_overrides
# neither cgroups nor accounting
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=5,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
# seconds that a job has from SIGTERM to SIGKILL; a run needs some to write its checkpoint
KillWait=60
# ended jobs stay in the controller's memory as long as the tests run: there is no other record of them
MinJobAge=3600
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=60
NodeName=n[1-$NODES] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((PORT + 1))-$((PORT + NODES)) CPUs=2 RealMemory=4000
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
CONF
}

idle() { sinfo -h -N -p low -t idle -o %N 2> /dev/null | wc -l; }

start() {
    mkdir -p "$D/state" "$D/spool" "$D/log" "$D/munge"
    chmod 755 "$D" "$D/munge"
    [ -s "$D/munge/key" ] || (umask 077 && head -c 128 /dev/urandom > "$D/munge/key")
    configure
    # --force: munged otherwise refuses root, and a folder such as /tmp above its files
    munged --force --key-file="$D/munge/key" --socket="$D/munge/socket" --pid-file="$D/munge/pid" \
        --log-file="$D/munge/log" --seed-file="$D/munge/seed"
    slurmctld-wlm -c
    for number in $(seq $NODES); do slurmd-wlm -N "n$number" -d "$ROOT/usr/sbin/slurmstepd-wlm"; done
    for _ in $(seq 300); do
        [ "$(idle)" -eq $NODES ] && return
        sleep 0.1
    done
    echo "the nodes are not idle after 30 s" >&2
    sinfo -N -l >&2 || true
    tail -n 5 "$D"/log/*.log >&2
    return 1
}

# the process of a pid file, if it is the daemon that wrote it and not another process with the same number
running() { [ -s "$1" ] && tr '\0' ' ' < "/proc/$(cat "$1" 2> /dev/null)/cmdline" 2> /dev/null | grep -q "munged\|slurm"; }

stop() {
    [ -s "$SLURM_CONF" ] || return 0
    timeout 10 scancel --user root 2> /dev/null || true
    for _ in $(seq 250); do # the jobs end before their daemons, which otherwise leave them behind
        [ -z "$(timeout 5 squeue -h 2> /dev/null)" ] && break
        sleep 0.1
    done
    for file in "$D"/slurmd-*.pid "$D/slurmctld.pid" "$D/munge/pid"; do
        running "$file" || continue
        process=$(cat "$file")
        kill "$process"
        for _ in $(seq 50); do
            running "$file" || break
            sleep 0.1
        done
        if running "$file"; then kill -9 "$process"; fi
    done
}

case $1 in
unpack | start | stop) "$1" ;;
*) echo "$1 is not unpack, start or stop" >&2; exit 2 ;;
esac
