#!/usr/bin/env bash
# Build the wheel of Horovod 0.28.1 against the torch of a Python, and put it into a folder.
#
#   containers/horovod/build_wheel.sh PYTHON FOLDER
#
# The last release of Horovod is from 2023 and asks for C++14, which the headers of torch >= 2.1 no longer accept: C++20
# in two lines of its build files is the whole change, and this is the one place that knows it.
# Built in: Gloo always; MPI if mpicxx is found; NCCL if torch was built for CUDA and nvcc is found.
# Needs g++, make and cmake >= 3.13; no root. PYTHON must have torch, setuptools, cffi, cloudpickle, packaging, psutil, pyyaml.
# The wheel is kept in ${XDG_CACHE_HOME:-~/.cache}/glacierhpc/wheels under what it was built for; a few minutes without.
set -euo pipefail

VERSION=0.28.1
SHA256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0

die() {
    echo "build_wheel.sh: $*" >&2
    exit 1
}

[ $# -eq 2 ] || die "give the Python to build for and the folder for the wheel: $0 .venv/bin/python build/wheels"
script=$(readlink -f "$0")
python=$1 folder=$2
for tool in g++ make cmake; do
    command -v $tool >/dev/null || die "$tool is needed (Debian and Ubuntu: apt-get install g++ make cmake; clusters: module load gcc cmake)"
done
"$python" - <<'END' || die "$python lacks what the build imports; install it with: $python -m pip install torch setuptools cffi cloudpickle packaging psutil pyyaml"
import cffi, cloudpickle, packaging, psutil, setuptools, torch, yaml
END

# What the wheel depends on is its name in the cache.
read -r torch cuda abi < <("$python" -c '
import platform, sys, sysconfig, torch
tag = f"cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}-" + "".join(platform.libc_ver())
print(torch.__version__, torch.version.cuda or "-", tag.replace(" ", "_"))')
mpi=nompi
if command -v mpicxx >/dev/null; then
    # whose headers and library mpicxx names, in which version
    mpi=mpi$({ mpicxx -show; mpirun --version; } 2>&1 | cksum | cut -d ' ' -f 1)
fi
nccl=nonccl
if [ "$cuda" != - ] && command -v nvcc >/dev/null; then
    nccl=nccl-cuda$cuda
elif [ "$cuda" != - ]; then
    echo "build_wheel.sh: torch is built for CUDA $cuda, but there is no nvcc: this Horovod will train on CPUs only" >&2
fi
key=torch$torch-$abi-$mpi-$nccl-$(sha256sum "$script" | cut -c 1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/glacierhpc/wheels/$key

mkdir -p "$folder"
if compgen -G "$cache/horovod-$VERSION*.whl" >/dev/null; then
    echo "build_wheel.sh: taken from $cache"
    cp "$cache"/horovod-"$VERSION"*.whl "$folder"/
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$work/build.log

# The index's copy, or one in a folder named by PIP_FIND_LINKS on a machine without internet.
"$python" -m pip download --quiet --no-deps --no-build-isolation --no-binary horovod "horovod==$VERSION" -d "$work" \
    || die "horovod-$VERSION.tar.gz could not be had from the package index; without internet put it into a folder and set PIP_FIND_LINKS"
echo "$SHA256  $work/horovod-$VERSION.tar.gz" | sha256sum --check --quiet || die "the downloaded archive is not that of the release"
tar -xzf "$work/horovod-$VERSION.tar.gz" -C "$work"
source=$work/horovod-$VERSION

sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 20)/' "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt"
[ "$(grep -l 'CMAKE_CXX_STANDARD 20' "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt" | wc -l)" -eq 2 ] \
    || die "the build files do not name the C++ standard as expected"

# Gloo and flatbuffers ask for a CMake of before 3.5, which CMake 4 no longer imitates unless told.
export CMAKE_POLICY_VERSION_MINIMUM=3.5
export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1
# setup.py starts eight compilers otherwise, each of up to 1.5 GB
MAKEFLAGS=-j$(nproc)
export MAKEFLAGS
if [ "$mpi" = nompi ]; then export HOROVOD_WITHOUT_MPI=1; else export HOROVOD_WITH_MPI=1; fi
if [ "$nccl" != nonccl ]; then
    # torch brings NCCL as a package: the library without the name that the linker looks for
    nvidia=$("$python" -c 'import nvidia.nccl as n; print(list(n.__path__)[0])' 2>/dev/null || true)
    if [ -n "$nvidia" ] && [ -z "${HOROVOD_NCCL_HOME:-}" ]; then
        mkdir -p "$work/nccl/lib"
        ln -s "$nvidia/include" "$work/nccl/include"
        ln -s "$nvidia/lib/libnccl.so.2" "$work/nccl/lib/libnccl.so"
        export HOROVOD_NCCL_HOME=$work/nccl
    fi
    export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED
fi

echo "build_wheel.sh: building Horovod $VERSION for torch $torch ($mpi, $nccl): a few minutes"
"$python" -m pip wheel --verbose --no-deps --no-build-isolation --no-cache-dir -w "$work/wheels" "$source" >"$log" 2>&1 || {
    grep -nE 'error|Error' "$log" | head -n 20 >&2
    tail -n 20 "$log" >&2
    cp "$log" "$folder/horovod-build.log"
    die "the build failed; the whole log: $folder/horovod-build.log"
}
cp "$work"/wheels/horovod-"$VERSION"*.whl "$folder"/
# two builds at once: each moves its whole folder, the later one finds it taken
if mkdir -p "$(dirname "$cache")" 2>/dev/null && cp -r "$work/wheels" "$cache.$$" 2>/dev/null; then
    mv -T "$cache.$$" "$cache" 2>/dev/null || rm -rf "$cache.$$"
fi
echo "build_wheel.sh: $(ls "$folder"/horovod-"$VERSION"*.whl)"
