#!/usr/bin/env bash
# Process number 1 of the cluster, in process, mount and host name namespaces of its own: whatever the cluster starts or
# mounts ends with this process. Started by `testcluster up`:  inside.sh ROOT PROJECT VENV ACCOUNTING
set -uo pipefail

export GLACIERHPC_TESTCLUSTER=$1 VENV=$3 accounting=$4
# shellcheck source=containers/testcluster/settings.sh
. "$(dirname "$(readlink -f "$0")")/settings.sh"
export SLURM_CONF=$root/etc/slurm.conf

fail() {
    echo "$*" >"$root/run/failed"
    exit 1
}

# The project's copy at the project's place, and the Python environment at its own, readable even where they lie in a
# folder that is closed to others, such as root's home: an empty folder is laid over that.
show_project() {
    local places=("$project" "$venv") shown=("$root/project" "$(readlink -f "$venv")") base number
    base=$("$venv/bin/python" -c 'import sys; print(sys.base_prefix)')
    if ! setpriv --reuid nobody --regid nogroup --clear-groups test -x "$base/bin"; then
        places+=("$base") shown+=("$base")
    fi
    for number in "${!places[@]}"; do # all of them, before one of those folders is closed
        mkdir -p "$root/stage/$number" && mount --bind "${shown[number]}" "$root/stage/$number" || return 1
    done
    for number in "${!places[@]}"; do
        open_way "${places[number]}" && mkdir -p "${places[number]}" || return 1
        mount --bind "$root/stage/$number" "${places[number]}" || return 1
        [ "$number" -eq 0 ] || mount -o remount,bind,ro "${places[number]}" || return 1
    done
}

# Lay an empty folder over the first one on the way to a path that others cannot enter.
open_way() {
    local parent
    while read -r parent; do
        [ -e "$parent" ] || return 0
        [ $((0$(stat -c %a "$parent") & 1)) -eq 0 ] || continue
        mount -t tmpfs -o mode=755,size=1m closed "$parent"
        return
    done < <(parents "$1")
}

parents() {
    local path=$1 all=()
    while path=$(dirname "$path") && [ "$path" != / ]; do all=("$path" "${all[@]}"); done
    printf '%s\n' "${all[@]}"
}

start_munge() {
    local here=(--socket "$root/munge/socket" --key-file "$root/munge/key" --pid-file "$root/munge/pid"
        --seed-file "$root/munge/seed" --log-file "$root/munge/log")
    setpriv --reuid munge --regid munge --clear-groups munged --foreground "${here[@]}" >>"$root/log/munged.log" 2>&1 &
    wait_for 20 munge munge -n --socket "$root/munge/socket" || fail "munged does not answer; see $root/log/munged.log"
}

start_accounting() {
    local log=$root/log/mariadb.log sql=(mariadb --no-defaults --socket "$root/db/socket")
    mariadb-install-db --no-defaults --user=mysql --datadir="$root/db/data" --skip-test-db >"$log" 2>&1 \
        || fail "the database of the accounting could not be made; see $log"
    mariadbd --no-defaults --user=mysql --datadir="$root/db/data" --socket="$root/db/socket" --pid-file="$root/db/pid" \
        --skip-networking --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 >>"$log" 2>&1 &
    wait_for 60 mariadb "${sql[@]}" -e 'select 1' || fail "mariadbd does not answer; see $log"
    "${sql[@]}" -e "create database slurm; create user slurm@localhost identified via unix_socket;
        grant all on slurm.* to slurm@localhost" >>"$log" 2>&1 || fail "the accounting's database could not be set up; see $log"
    MYSQL_UNIX_PORT=$root/db/socket as_slurm slurmdbd -D >>"$root/log/slurmdbd.out" 2>&1 &
    wait_for 60 slurmdbd sacctmgr --noheader show cluster || fail "slurmdbd does not answer; see $root/log/slurmdbd.log"
    sacctmgr --immediate add cluster "$cluster" >>"$root/log/slurmdbd.log" 2>&1
    sacctmgr --immediate add qos short MaxWall=60 MaxSubmitJobsPerUser=4 >>"$root/log/slurmdbd.log" 2>&1
}

as_slurm() {
    exec setpriv --reuid slurm --regid slurm --clear-groups "$@"
}

start_controller() {
    as_slurm slurmctld -D -f "$root/etc/slurm.conf" >>"$root/log/slurmctld.out" 2>&1 &
    wait_for 30 slurmctld scontrol ping || fail "slurmctld does not answer; see $root/log/slurmctld.log"
}

# A node is a slurmd with a host name of its own.
start_node() {
    local node=$1
    mkdir -p "$root/spool/$node"
    # shellcheck disable=SC2016
    unshare --uts bash -c 'hostname "$1" && exec slurmd -D -N "$1" -f "$SLURM_CONF"' node "$node" \
        >>"$root/log/slurmd-$node.out" 2>&1 &
    echo $! >"$root/run/node-$node"
}

run_as_other() {
    setpriv --reuid "$other" --regid "$other" --init-groups \
        env --chdir=/ -i PATH=/usr/local/bin:/usr/bin:/bin HOME="$root/home/$other" SLURM_CONF="$SLURM_CONF" bash "$1" \
        >"$1.said" 2>&1 </dev/null
    echo $? >"$1.code"
}

all_idle() {
    [ "$(sinfo --noheader --Node --partition=normal --states=idle --format=%N | wc -l)" -eq ${#nodes[@]} ]
}

cd /
hostname login
mount --bind "$root/etc/hosts" /etc/hosts || fail "$root/etc/hosts could not be laid over /etc/hosts"
show_project || fail "the project's copy could not be laid over $project"
start_munge
[ "$accounting" = no ] || start_accounting
start_controller
for node in "${nodes[@]}"; do start_node "$node"; done
wait_for 60 nodes all_idle || fail "the nodes do not come up ($(sinfo --noheader 2>&1 | tr '\n' ';')); see $root/log"

# Tests lose a node and get it back by a line in this pipe: `kill r2` (its daemon at once, its jobs go on), `start r2`;
# and the controller, which takes connections and answers none: `stop controller`, `go-on controller`. What the second
# user can do they learn from `as-other FILE`: that user runs it with bash; FILE.said and, at the end, FILE.code tell.
mkfifo -m 600 "$root/run/control" && chown "$user" "$root/run/control"
exec 3<>"$root/run/control"
touch "$root/run/ready"
while :; do
    read -r verb node <&3 || continue
    case "$verb $node" in
    "stop controller") kill -STOP "$(cat "$root/state/slurmctld.pid")" ;;
    "go-on controller") kill -CONT "$(cat "$root/state/slurmctld.pid")" ;;
    "as-other "*) run_as_other "$node" & ;;
    esac
    [[ " ${nodes[*]} " == *" $node "* ]] || continue
    case $verb in
    kill) kill -KILL "$(cat "$root/run/node-$node")" ;;
    start) start_node "$node" ;;
    esac
done
