#!/usr/bin/env bash
# Builds or tests with `--features tch` on the CPU, from PyPI's wheel of PyTorch: libtorch without its 3 GB of CUDA libraries.
#
#   experiments/tch.sh FOLDER test --lib device
#   experiments/tch.sh FOLDER run -- doctor
#
# FOLDER keeps the wheels and what is unpacked of them (1.5 GB). The rest are cargo's arguments. Where PyTorch 2.9 is installed,
# with CUDA or without, this does the same:
#
#   LIBTORCH_USE_PYTORCH=1 LD_LIBRARY_PATH=$(python -c 'import torch; print(torch.__path__[0])')/lib cargo run --features tch …
#
# Other versions are refused unless LIBTORCH_BYPASS_VERSION_CHECK=1 is set.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,/^set/{/^#/p}' "$0"; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."

if [ ! -e "$folder/torch/lib/libtorch.so" ]; then
    python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$folder/wheels" \
        torch==2.9.0 nvidia-cuda-cupti-cu12==12.8.90 nvidia-cuda-runtime-cu12==12.8.90
    python3 - "$folder" <<'PYTHON'
import pathlib, shutil, sys, zipfile
folder = pathlib.Path(sys.argv[1])
lib = folder / "torch/lib"
lib.mkdir(parents=True, exist_ok=True)
# The CPU's part of PyTorch asks for two small libraries of CUDA, for its profiler.
LIBRARIES = ("libc10.so", "libtorch_cpu.so", "libgomp", "libcupti.so", "libcudart.so")
for wheel in (folder / "wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if pathlib.PurePosixPath(name).name.startswith(LIBRARIES):
                with archive.open(name) as source, open(lib / pathlib.PurePosixPath(name).name, "wb") as target:
                    shutil.copyfileobj(source, target)
            elif name.startswith("torch/include/"):
                archive.extract(name, folder)
PYTHON
    # The wheel's own libtorch.so is empty, and asks for the part for CUDA.
    (cd "$folder/torch/lib" && c++ -shared -o libtorch.so -Wl,--no-as-needed -Wl,--allow-shlib-undefined \
        -l:libtorch_cpu.so -l:libc10.so -L. '-Wl,-rpath,$ORIGIN')
fi
export LIBTORCH="$folder/torch" LD_LIBRARY_PATH="$folder/torch/lib:${LD_LIBRARY_PATH:-}"
command=$1
shift
exec cargo "$command" --features tch "$@"
