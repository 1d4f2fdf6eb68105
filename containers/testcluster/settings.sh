# Names, places and sizes of the test cluster, and what every part of it says. Sourced, not run.
# shellcheck shell=bash disable=SC2034

root=${GLACIERHPC_TESTCLUSTER:-/tmp/glacierhpc-testcluster}
# kept between runs, removed by nobody: Apptainer, compiled kernels, the base image
cache=${GLACIERHPC_TESTCLUSTER_CACHE:-/var/cache/glacierhpc-testcluster}
# slurmctld listens here, slurmdbd on the next, the nodes from the eleventh after it on; with another one, and another
# folder, there may be a second cluster on the machine
port=${GLACIERHPC_TESTCLUSTER_PORT:-26817}

nodes=(r1 r2 r3)
cpus=4          # of each node; more than there are, so that jobs of several ranks start: nothing here measures speed
memory_mb=20000 # likewise
user=gh-$port         # runs everything
other=gh-$port-other # is kept out of it
cluster=testcluster

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
project=$(dirname "$(dirname "$here")")
venv=$(realpath --no-symlinks "${VENV:-$project/.venv}")

die() {
    echo "testcluster: $*" >&2
    exit 1
}

say() {
    echo "testcluster: $*"
}

# Wait until a command succeeds: wait_for SECONDS WHAT COMMAND...
wait_for() {
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 0.2
    done
}

# The process that all of the cluster descends from: number 1 of its own process namespace. Nothing if it is down.
running() {
    local pid words
    for pid in /proc/[0-9]*; do
        { mapfile -d '' words <"$pid/cmdline"; } 2>/dev/null || continue
        if [[ ${words[0]:-} == bash && ${words[1]:-} == */testcluster/inside.sh && ${words[2]:-} == "$root" ]]; then
            echo "${pid#/proc/}"
            return
        fi
    done
}

# Run a command inside the cluster as one of its users, from the project's folder, with nothing of our environment but
# what packages are fetched with: as_user USER COMMAND...
as_user() {
    local who=$1 pid name kept=()
    shift
    pid=$(running)
    [ -n "$pid" ] || die "the cluster is down; start it with: $here/testcluster up"
    while IFS= read -r name; do
        case $name in
        PIP_* | SSL_CERT_* | REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE | *_proxy | *_PROXY) kept+=("$name=${!name}") ;;
        esac
    done < <(compgen -e)
    nsenter --target "$pid" --mount --uts --pid \
        setpriv --reuid "$who" --regid "$who" --init-groups \
        env --chdir="$project" -i "${kept[@]}" HOME="$root/home/$who" USER="$who" LOGNAME="$who" SHELL=/bin/bash LANG=C.UTF-8 \
        TERM="${TERM:-dumb}" PATH="$cache/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" \
        TMPDIR="$root/tmp" SLURM_CONF="$root/etc/slurm.conf" GLACIERHPC_TESTCLUSTER="$root" \
        NUMBA_CACHE_DIR="$cache/$user/numba" GLACIERHPC_TESTCLUSTER_CACHE="$cache/$user" \
        OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_btl_tcp_if_include=lo "$@"
}
