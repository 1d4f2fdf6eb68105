# What the machine needs: Debian's packages, and Apptainer in a folder of its own. Sourced, not run.
# shellcheck shell=bash disable=SC2154

packages=(
    munge slurmctld slurmd slurmdbd slurm-client slurm-wlm-basic-plugins slurm-wlm-mysql-plugin
    mariadb-server openmpi-bin
    cmake g++ libopenmpi-dev make # for the wheel of Horovod in the image
    debootstrap fakeroot fuse-overlayfs patchelf squashfs-tools squashfuse uidmap
)

check_machine() {
    [ "$(id -u)" -eq 0 ] || die "only root can start the daemons; run it as root, for example: sudo make test-cluster"
    local ID VERSION_ID PRETTY_NAME
    # shellcheck source=/dev/null
    . /etc/os-release
    [ "$ID ${VERSION_ID%%.*}" = "debian 12" ] || die "this is ${PRETTY_NAME:-not Debian 12}, and the cluster is made of" \
        "the packages of Debian 12 (bookworm); run it in a virtual machine or a privileged container of that"
    unshare --fork --pid --mount --uts --mount-proc true 2>/dev/null || die "no namespaces can be made here, root or not;" \
        "in a container start that one with more rights (docker run --privileged)"
    setpriv --reuid nobody --regid nogroup --clear-groups unshare --user true 2>/dev/null || die "ordinary users may make" \
        "no user namespaces here, and Apptainer needs them; allow it with: sysctl user.max_user_namespaces=10000" \
        "kernel.unprivileged_userns_clone=1"
    [ -c /dev/fuse ] || die "there is no /dev/fuse, which images are mounted through; load it with: modprobe fuse"
}

install_packages() {
    local missing=() name policy=/usr/sbin/policy-rc.d made=
    for name in "${packages[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    if [ ! -e "$policy" ]; then
        # Debian starts what it installs; these daemons are ours to start, elsewhere
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=$policy
    fi
    local log=$root/log/packages.log answer=0
    {
        apt-get update || true # one source of several may be down
        DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y \
            --no-install-recommends "${missing[@]}"
    } >"$log" 2>&1 || answer=$?
    [ -z "$made" ] || rm -f "$made"
    [ $answer -eq 0 ] || die "the packages could not be installed; the end of $log:" $'\n' "$(tail -n 15 "$log")"
}

# Debian 12 has no Apptainer, and that of sid wants a newer C library: it gets its own beside it.
install_apptainer() {
    local prefix=$cache/apptainer work lib binary log=$root/log/apptainer.log lock
    exec {lock}>"$cache/lock"
    flock "$lock"
    if ! "$prefix/usr/bin/apptainer" --version >/dev/null 2>&1; then
        say "unpacking Apptainer from Debian's sid"
        work=$(mktemp -d)
        rm -rf "$prefix"
        mkdir -p "$prefix"
        _fetch_from_sid "$work" >"$log" 2>&1 || die "Apptainer could not be fetched; the end of $log:" $'\n' "$(tail -n 15 "$log")"
        for binary in "$work"/*.deb; do dpkg-deb -x "$binary" "$prefix"; done
        rm -rf "$work"
        lib=$prefix/usr/lib/x86_64-linux-gnu
        for binary in "$prefix/usr/bin/apptainer" "$lib/apptainer/bin/starter"; do
            # rpath, not runpath: the libraries' own libraries are looked for there, too
            patchelf --set-interpreter "$lib/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$lib" "$binary"
        done
        # the command looks for these in usr/, the starter in usr/lib/
        mkdir -p "$prefix/var/lib/apptainer/mnt/session"
        ln -s ../etc ../var "$prefix/usr/"
        ln -s ../../etc ../../var "$prefix/usr/lib/"
        "$prefix/usr/bin/apptainer" --version >/dev/null || die "the Apptainer of sid does not start here"
    fi
    mkdir -p "$cache/bin"
    ln -sfn ../apptainer/usr/bin/apptainer "$cache/bin/apptainer"
    exec {lock}>&-
}

# Fetch Apptainer and the libraries it names into a folder, from the mirror that this machine is set to.
_fetch_from_sid() (
    local work=$1 mirror options libraries
    # shellcheck disable=SC2016 # the names are apt's
    mirror=$(apt-get indextargets --format '$(LABEL) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' \
        | awk '$1 == "Debian" && $2 == "bookworm" { print $3; exit }')
    [ -n "$mirror" ] || { echo "no apt source of Debian 12 is configured" && exit 1; }
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s sid main\n' "$mirror" >"$work/sid.list"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    options=(
        -o "Dir::Etc::sourcelist=$work/sid.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
        -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none
    )
    cd "$work" || exit 1
    apt-get "${options[@]}" update || exit 1
    mapfile -t libraries < <(apt-cache "${options[@]}" depends apptainer | sed -n 's/^ *Depends: \(lib[^ ]*\)$/\1/p')
    apt-get "${options[@]}" download apptainer "${libraries[@]}"
)
