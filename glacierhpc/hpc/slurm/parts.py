"""The fixed parts of a job script, in bash; what differs from job to job is put between them by `script`.

Nothing a user writes stands in here: whatever a text needs, it reads from a variable of the script.
"""

from glacierhpc.hpc.apptainer import HANDED_IN, KEYRING

NO_CONFIG = """\
if [[ $# -eq 0 ]]; then
    echo "no configuration given; write: sbatch jobs/$job.sbatch configs/forecast.yaml" >&2
    exit 2
fi
config=$1
shift
"""

NUMBER = """\
if [[ -n ${{SLURM_ARRAY_TASK_ID:-}} ]]; then number=({option} "$((offset + SLURM_ARRAY_TASK_ID))"); fi"""

THREADS = """\
# for training, which is one process with all cores; the workers of the other steps set themselves to one thread
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
"""

QUOTA = """\
# what may still be written, for acquire: its command may not be in the image
GLACIERHPC_QUOTA=$(timeout 20 {command}) || echo "the command that tells the quota failed" >&2
export GLACIERHPC_QUOTA
"""

RUNNER = """\
if [[ -n $image ]]; then
    container=$(command -v {runtimes}) || {{
        echo "the job is to run in the image $image, but there is no {names} here; load its module" >&2
        exit 2
    }}
    # nothing of the home folder and of the environment gets inside but what is named: packages in ~/.local would
    # stand before those of the image
    inside=("$container" exec --cleanenv --no-home)
    shown=("$PWD" "${{binds[@]}}") seen=''
    if [[ -e ${{config:-}} ]]; then shown+=("$(dirname "$(realpath "$config")")"); fi
    for folder in "${{shown[@]}}"; do
        case $folder in
        *[,:]*)
            echo "the folder $folder cannot be seen in an image: commas and colons part lists of folders; rename it" >&2
            exit 2
            ;;
        esac
        if [[ $seen != *":$folder:"* ]]; then inside+=(--bind "$folder"); fi
        seen+=:$folder:
    done
    if [[ -n ${{SLURM_JOB_GPUS:-}}${{SLURM_GPUS_ON_NODE:-}} ]]; then
        # with the drivers of NVIDIA, or of AMD where only its GPUs are
        if [[ -e /dev/kfd && ! -e /dev/nvidiactl ]]; then inside+=(--rocm); else inside+=(--nv); fi
    fi
    glacierhpc=("${{inside[@]}}" "$image" glacierhpc)
elif [[ -x .venv/bin/glacierhpc ]]; then
    glacierhpc=(.venv/bin/glacierhpc)
else
    glacierhpc=(glacierhpc)
fi
"""

SIGNED = f"""\
# whose signature the image must have; it may have been changed since the job was submitted
if [[ -n $image ]]; then
    signed=''
    for key in "${{keys[@]}}"; do
        by=(--key "$key")
        if [[ $key == {KEYRING} ]]; then by=(--local); fi
        if "$container" verify "${{by[@]}}" "$image" >&2; then
            signed=yes
            break
        fi
    done
    if [[ -z $signed ]]; then
        echo "the image $image is not used: none of signed_by has signed it (${{keys[*]}})" >&2
        exit 2
    fi
fi
"""

RUNTIMES = {
    None: ("apptainer || command -v singularity", "apptainer or singularity"),
    "apptainer": ("apptainer", "apptainer"),
    "singularity": ("singularity", "singularity"),
}

TASK = (
    """\
# Each process becomes glacierhpc by this: what it may know in the image is handed in by name.
task='
for name in $(compgen -e); do
    case $name in
    GDAL_DATA | GDAL_DRIVER_PATH) ;; # files of another GDAL
"""
    + f"    {' | '.join(HANDED_IN[:10])} | \\\n        {' | '.join(HANDED_IN[10:])})\n"
    + """\
        export "APPTAINERENV_$name=${!name}" "SINGULARITYENV_$name=${!name}"
        ;;
    esac
done
export APPTAINERENV_PYTHONNOUSERSITE=1 SINGULARITYENV_PYTHONNOUSERSITE=1
exec "$@"
'
"""
)

MEETING = """\
# where the processes meet: the first node, at a port that no other job of this node has
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    MASTER_ADDR=${MASTER_ADDR%%[[:space:]]*}
    MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000))
    export MASTER_ADDR MASTER_PORT
fi
"""

GLOO_RANK = """\
case $SLURM_STEP_TASKS_PER_NODE in
*,*)
    echo "Horovod needs as many processes on one node as on the other, not $SLURM_STEP_TASKS_PER_NODE;" \\
        "use --nodes and --ntasks-per-node" >&2
    exit 2
    ;;
esac
export HOROVOD_RANK=$SLURM_PROCID HOROVOD_SIZE=$SLURM_STEP_NUM_TASKS
export HOROVOD_LOCAL_RANK=$SLURM_LOCALID HOROVOD_LOCAL_SIZE=${SLURM_STEP_TASKS_PER_NODE%%[!0-9]*}
export HOROVOD_CROSS_RANK=$SLURM_NODEID HOROVOD_CROSS_SIZE=$SLURM_STEP_NUM_NODES HOROVOD_HOSTNAME=$SLURMD_NODENAME
"""
"""What a task of srun says to Horovod's Gloo of its place."""

GLOO = (
    """\
# Horovod's processes find each other by a small server that lives as long as this script, on the nodes' network
coproc meeting { exec "${glacierhpc[@]}" rendezvous --address "$MASTER_ADDR" --interface "$interface"; }
read -r -t 120 HOROVOD_GLOO_RENDEZVOUS_ADDR HOROVOD_GLOO_RENDEZVOUS_PORT <&"${meeting[0]:-0}" || {
    echo "the server by which Horovod's processes find each other did not start" >&2
    exit 1
}
export HOROVOD_GLOO_RENDEZVOUS_ADDR HOROVOD_GLOO_RENDEZVOUS_PORT
export HOROVOD_CONTROLLER=gloo HOROVOD_CPU_OPERATIONS=gloo
# all processes of a large job read the same environment from one file system before they get there
export HOROVOD_GLOO_TIMEOUT_SECONDS=${HOROVOD_GLOO_TIMEOUT_SECONDS:-300}
task='
"""
    + GLOO_RANK
    + """\
'"$task"
"""
)

ELASTIC = """\
# Horovod's processes come and go: a small server gives out the ranks, anew whenever one is lost or comes. It lives as
# long as this script; in a second job of the same run it tells where the first one is, which takes these processes in
coproc meeting {
    exec "${glacierhpc[@]}" members "$config" "$@" --address "$MASTER_ADDR" --interface "$interface" \\
        --processes "${SLURM_NTASKS:-1}"
}
read -r -t 120 HOROVOD_GLOO_RENDEZVOUS_ADDR HOROVOD_GLOO_RENDEZVOUS_PORT <&"${meeting[0]:-0}" || {
    echo "the server that gives ranks to Horovod's processes did not start" >&2
    exit 1
}
# bash forgets both as soon as the server has ended
owner=${meeting[1]}
exec {answers}<&"${meeting[0]}"
export HOROVOD_GLOO_RENDEZVOUS_ADDR HOROVOD_GLOO_RENDEZVOUS_PORT
export HOROVOD_CONTROLLER=gloo HOROVOD_CPU_OPERATIONS=gloo HOROVOD_ELASTIC=1
# a process whose neighbour is lost may wait as long for it; all are there before they join
export HOROVOD_GLOO_TIMEOUT_SECONDS=${HOROVOD_GLOO_TIMEOUT_SECONDS:-60}
task='
export HOROVOD_HOSTNAME=$SLURMD_NODENAME.$SLURM_JOB_ID HOROVOD_LOCAL_RANK=$SLURM_LOCALID
'"$task"
"""

ENDED = """\
# a lost process is no failure where the others have done its work: how the training ended, its run knows
exec {owner}>&-
if read -r -t 120 ended <&"$answers" && [[ $ended != - ]]; then code=$ended; fi
"""

SRUN = """\
launch=()
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    # one process failing ends the others by the network; ending them at once would hide its exit code
    launch=(srun --kill-on-bad-exit=0 --wait=120 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "${srun[@]}")
fi
"""

RUN = """\
# The scheduler sends USR2 when the time is nearly up or a job of higher rank wants the node: save, and go on later.
# Whoever sends USR1 or TERM wants the work saved and the job ended. glacierhpc saves on USR2 and ends with code 75.
asked='' signalled='' payload=''
ask() {
    asked=${asked:-$1} signalled=yes
    echo "$(date +%FT%T) asked by SIG$2 to save and $1" >&2
    if [[ -n $payload ]]; then kill -USR2 "$payload" 2>/dev/null || true; fi
}
trap 'ask resume USR2' USR2
trap 'ask end USR1' USR1
trap 'ask end TERM' TERM
"""

WAIT = """\
payload=$!
if [[ -n $asked ]]; then kill -USR2 "$payload" || true; fi
while :; do
    code=0 signalled=''
    wait "$payload" || code=$?
    # a signal ends the waiting, not the work
    if [[ -z $signalled ]]; then break; fi
done
"""

TOLD = """\
# of an array, the task's own name: by the number alone, the last task's is the whole array's
own=${SLURM_JOB_ID:-}
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then own=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi

# How this job ended, for `glacierhpc status` where the scheduler has forgotten it.
earlier=${GLACIERHPC_ATTEMPT:-0}
attempt=$((${SLURM_RESTART_COUNT:-0} + 10#${earlier//[!0-9]/}))
# A start that was lost with its node may live on beside the next one, which has the say then.
overtaken() {
    local known=0
    if [[ -n $record && -e $record-$own.exit ]]; then read -r _ _ known _ <"$record-$own.exit" || true; fi
    [[ $((10#0${known//[!0-9]/})) -gt $attempt ]]
}
told() {
    if [[ -z $record || -z $own ]] || overtaken; then return 0; fi
    printf '%s %s %s %s %s %s\\n' \\
        "$1" "$2" "$attempt" "$(date +%s)" "${3:--}" "${SLURM_JOB_NODELIST:--}" >"$record-$own.part" \\
        && mv "$record-$own.part" "$record-$own.exit" \\
        || echo "how this job ended could not be written to $record-$own.exit" >&2
}
told - began
"""

AGAIN = """\
requeued() { scontrol requeue "$own"; }

# A new job of this script, which waits for this one to be gone; jobs that wait for this one wait for the new one, too.
succeeded() {
    local account=${SLURM_JOB_ACCOUNT:-} partition=$SLURM_JOB_PARTITION waiting kept
    local options=(--parsable --dependency="afterany:$own" --job-name="$SLURM_JOB_NAME" --partition="$partition")
    if [[ -n $account && $account != "(null)" ]]; then options+=(--account="$account"); fi
    if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then options+=(--array="$SLURM_ARRAY_TASK_ID"); fi
    next=$(
        for name in $(compgen -e); do
            case $name in SLURM_CONF) ;; SLURM_* | SBATCH_*) unset "$name" ;; esac
        done
        GLACIERHPC_ATTEMPT=$((attempt + 1)) sbatch "${options[@]}" "$0" "${arguments[@]}"
    ) || return
    next=${next%%;*}
    echo "goes on in job $next" >&2
    {
        flock -w 60 9 || true # tasks of an array that end at the same time
        squeue --me --noheader --states=PENDING --format='%i %E' | sed 's/([^)]*)//g' | while read -r waiting kept; do
            kept=,$kept,
            case $kept in
            *",afterok:$SLURM_JOB_ID,"*) kept=${kept/",afterok:$SLURM_JOB_ID,"/",afterok:$next,"} ;;
            *",afterok:${SLURM_ARRAY_JOB_ID:-none}_*,"*)
                # a task that saves its work fails: what waited for all of them waits for their end and for the new job
                kept=${kept/",afterok:${SLURM_ARRAY_JOB_ID}_*,"/",afterany:$SLURM_ARRAY_JOB_ID,afterok:$next,"}
                ;;
            *",afterany:${SLURM_ARRAY_JOB_ID:-none}_*,"*) kept=${kept}afterany:$next, ;;
            *) continue ;;
            esac
            kept=${kept//_\\*/} kept=${kept#,}
            scontrol update JobId="$waiting" Dependency="${kept%,}"
        done
    } 9>"${record:-/dev/null}${record:+.lock}"
}

again=${GLACIERHPC_AGAIN:-$again} next=''
# 140: USR2 came before glacierhpc listened
if [[ -n ${SLURM_JOB_ID:-} && $asked != end && ($code -eq 75 || ($asked == resume && $code -eq 140)) ]] \\
    && ! overtaken; then
    if [[ $again == none ]]; then
        echo "saved; submit it again to go on" >&2
    elif [[ $((attempt + 1)) -ge $attempts ]]; then
        echo "saved, but this was start $((attempt + 1)) of at most $attempts; submit it again to go on" >&2
    elif [[ $again == requeue ]] && told 75 requeued && requeued; then
        echo "saved, queued again" >&2
        exit 75
    elif succeeded; then
        told 75 succeeded "$next"
        exit 75
    fi
fi
told "$code" ended
exit "$code"
"""
