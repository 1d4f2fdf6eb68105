# The users of the cluster and their copy of the project. Sourced, not run.
# shellcheck shell=bash disable=SC2154

mark="glacierhpc test cluster" # in the users' comment field: who has it, and a home in our folder, is ours to remove

make_people() {
    local name
    for name in "$user" "$other"; do
        if ! getent passwd "$name" >/dev/null; then
            useradd --user-group --no-create-home --home-dir "$root/home/$name" --shell /bin/bash --comment "$mark" "$name"
        elif ! of_this_cluster "$name"; then
            die "this machine has a user $name of $(getent passwd "$name" | cut -d : -f 6): of another test cluster with this" \
                "port, if it is one; choose another with GLACIERHPC_TESTCLUSTER_PORT, or remove who is left: userdel $name"
        fi
        # the ids that `apptainer build --fakeroot` hands out inside
        grep -qs "^$name:" /etc/subuid || usermod --add-subuids "$(_free_ids /etc/subuid)" "$name"
        grep -qs "^$name:" /etc/subgid || usermod --add-subgids "$(_free_ids /etc/subgid)" "$name"
        install -d -o "$name" -g "$name" -m 700 "$root/home/$name"
    done
    install -d -o "$user" -g "$user" -m 755 "$cache/$user"
    chown -R "$user:$user" "$cache/$user" # of an earlier user, perhaps with another number
}

of_this_cluster() {
    [ "$(getent passwd "$1" | cut -d : -f 5,6)" = "$mark:$root/home/$1" ]
}

_free_ids() {
    local first
    first=$(awk -F : '{ if ($2 + $3 > last) last = $2 + $3 } END { print (last > 100000) ? last : 100000 }' "$1" 2>/dev/null)
    echo "${first:-100000}-$((${first:-100000} + 65535))"
}

remove_people() {
    local name
    for name in "$user" "$other"; do
        of_this_cluster "$name" || continue
        userdel "$name" 2>/dev/null || die "user $name could not be removed; look who still uses it: ps -u $name"
    done
}

# The working tree as it is, ignored files left out, owned by the user: jobs write their logs where they are submitted
# from, and nobody's edits change what a running test reads. Inside the cluster it lies where the project lies.
copy_project() {
    [ -x "$venv/bin/python" ] || die "there is no Python environment at $venv; make one with: make test-cluster"
    install -d -o "$user" -g "$user" "$root/project"
    # the checkout may be another user's: sudo make test-cluster
    local git=(git -C "$project" -c "safe.directory=$project")
    if [ "$("${git[@]}" rev-parse --show-toplevel 2>/dev/null)" = "$(realpath "$project")" ]; then
        "${git[@]}" ls-files -z --cached --others --exclude-standard \
            | while IFS= read -r -d '' name; do if [ -e "$project/$name" ]; then printf '%s\0' "$name"; fi; done \
            | tar -C "$project" --null -T - -c | tar -C "$root/project" -x
    else
        tar -C "$project" --exclude=./.venv --exclude=./build --exclude=./runs -c . | tar -C "$root/project" -x
    fi
    mkdir -p "$root/project/.venv"
    chown -R "$user:$user" "$root/project"
}
