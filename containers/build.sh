#!/usr/bin/env bash
# Build glacierhpc.sif from deeplearning.def; further arguments go to the build, such as --build-arg NAME=VALUE.
set -euo pipefail
cd "$(dirname "$0")/.."

image=${GLACIERHPC_IMAGE:-glacierhpc.sif}
builder=$(command -v apptainer || command -v singularity) || {
    echo "Building the image needs Apptainer (1.2 or newer) or SingularityCE (4.0 or newer), and neither is installed." >&2
    echo "On a cluster try: module load apptainer. Elsewhere: https://apptainer.org/docs/admin/main/installation.html" >&2
    exit 1
}
mkdir -p build/wheelhouse # an empty one means: packages come from the index
exec "$builder" build --fakeroot "$@" "$image" deeplearning.def
