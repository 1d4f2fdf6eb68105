# The configuration of munge, Slurm and its accounting, all of it on loopback and under one folder. Sourced, not run.
# shellcheck shell=bash disable=SC2154

write_configuration() {
    local accounting=$1
    install -d -m 755 "$root"/{etc,run,spool} "$root/home"
    install -d -m 1777 "$root/tmp" "${nodes[@]/#/$root/local/}"
    install -d -o munge -g munge -m 755 "$root/munge"
    install -d -o slurm -g slurm -m 755 "$root/state"
    touch "$root"/log/{munged,slurmdbd,slurmctld}.log
    chown slurm:slurm "$root"/log/slurm{dbd,ctld}.log
    (umask 077 && head -c 1024 /dev/urandom >"$root/munge/key")
    chown munge:munge "$root/munge/key"
    _hosts >"$root/etc/hosts"
    _slurm "$accounting" >"$root/etc/slurm.conf"
    if [ "$accounting" = yes ]; then
        install -d -o mysql -g mysql -m 755 "$root/db"
        (umask 077 && _slurmdbd >"$root/etc/slurmdbd.conf")
        chown slurm:slurm "$root/etc/slurmdbd.conf"
    fi
}

_hosts() {
    cat /etc/hosts
    # one address for all: srun listens on that of its host and is called back on the one it is seen to call from,
    # which on loopback is always this one
    echo "127.0.0.1 login ${nodes[*]}"
}

_slurm() {
    cat <<END
ClusterName=$cluster
SlurmctldHost=login(127.0.0.1)
SlurmctldPort=$port
# without these two, daemons and srun listen on all interfaces
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
# a requeued job waits as long as a credential lives: two minutes by default
AuthInfo=socket=$root/munge/socket,cred_expire=20
SlurmUser=slurm
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool/%n
# PMIx keeps the files of a step here, under the same names on every node
TmpFS=$root/local/%n
SlurmctldPidFile=$root/state/slurmctld.pid
SlurmdPidFile=$root/run/slurmd-%n.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd-%n.log

# no control groups: they are the machine's
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
MpiDefault=none
PropagateResourceLimits=NONE
ReturnToService=2

PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$(_warning "$1")
SchedulerParameters=bf_interval=1,sched_interval=1
# short, so that tests of lost nodes and killed jobs are
SlurmdTimeout=20
KillWait=10
MessageTimeout=30

END
    if [ "$1" = yes ]; then
        printf 'AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n'
        # the name is from of old: the socket of the munge to use
        printf 'AccountingStoragePort=%d\nAccountingStoragePass=%s\n\n' $((port + 1)) "$root/munge/socket"
    else
        printf 'AccountingStorageType=accounting_storage/none\n\n'
    fi
    local number=0 node
    for node in "${nodes[@]}"; do
        number=$((number + 1))
        echo "NodeName=$node NodeHostname=$node NodeAddr=127.0.0.1 Port=$((port + 10 + number))" \
            "CPUs=$cpus RealMemory=$memory_mb"
    done
    echo "PartitionName=normal Nodes=ALL Default=YES MaxTime=1-00:00:00 PriorityTier=10 PreemptMode=OFF"
    echo "PartitionName=preemptible Nodes=ALL MaxTime=1-00:00:00 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20"
}

# Centres differ here. With it jobs about to be preempted get the signal that they asked for with --signal; without it
# their steps get TERM, and their scripts nothing before the end.
_warning() {
    [ "$1" = no ] || echo SlurmctldParameters=preempt_send_user_signal
}

_slurmdbd() {
    cat <<END
AuthType=auth/munge
AuthInfo=socket=$root/munge/socket
CommunicationParameters=NoInAddrAny
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 1))
SlurmUser=slurm
LogFile=$root/log/slurmdbd.log
PidFile=$root/state/slurmdbd.pid
StorageType=accounting_storage/mysql
# by the socket that MYSQL_UNIX_PORT names; the database knows the slurm user by its number, there is no password
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm
END
}
