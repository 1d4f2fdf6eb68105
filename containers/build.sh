#!/usr/bin/env bash
# Build deeplearning.sif from deeplearning.def; further arguments go to the build, such as --build-arg NAME=VALUE.
set -euo pipefail
cd "$(dirname "$0")/.."

image=${GLACIERHPC_IMAGE:-deeplearning.sif}
builder=$(command -v apptainer || command -v singularity) || {
    echo "Building the image needs Apptainer (1.2 or newer) or SingularityCE (4.0 or newer), and neither is installed." >&2
    echo "On a cluster try: module load apptainer. Elsewhere: https://apptainer.org/docs/admin/main/installation.html" >&2
    exit 1
}
mkdir -p build/wheelhouse # an empty one means: packages come from the index

# What the image cannot know of itself, for its labels: the source's commit, and which base a name stood for.
commit=$(git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null) || commit=unknown
digest=unknown
for word in "$@"; do
    case $word in
    FROM=*@sha256:*) digest=sha256:${word##*@sha256:} ;;
    FROM=*) if [ -f "${word#FROM=}" ]; then digest=sha256:$(sha256sum -- "${word#FROM=}" | cut -d ' ' -f 1); fi ;;
    esac
done
exec "$builder" build --fakeroot --build-arg "COMMIT=$commit" --build-arg "BASE_DIGEST=$digest" "$@" "$image" deeplearning.def
