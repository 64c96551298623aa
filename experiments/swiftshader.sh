#!/usr/bin/env bash
# Builds or tests with `--features wgpu` without a GPU, on SwiftShader, a Vulkan driver in software, from npm's package of Chromium.
#
#   experiments/swiftshader.sh FOLDER test --lib -- device::tests::cube
#   experiments/swiftshader.sh FOLDER run -- doctor
#
# FOLDER keeps the driver (7 MB). The rest are cargo's arguments. Not `--features vulkan`: where a driver has no explicit layout
# of shared memory, as this one, the SPIR-V of CubeCL 0.11.3 declares arrays in it wrongly. That of naga, from WGSL, is right.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,/^set/{/^#/p}' "$0"; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."

if [ ! -e "$folder/libvk_swiftshader.so" ]; then
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    npm pack --silent --pack-destination "$download" @sparticuz/chromium@147.0.0 >"$download/log"
    tar -xzf "$download"/*.tgz -C "$download"
    node -e 'process.stdout.write(zlib.brotliDecompressSync(fs.readFileSync(process.argv[1])))' \
        "$download/package/bin/swiftshader.tar.br" | tar -x -C "$download"
    # The loader reads the description, and the driver beside it.
    find "$download" -name 'libvulkan.so.1' -exec mv {} "$folder" \;
    find "$download" -name 'vk_swiftshader_icd.json' -exec mv {} "$folder" \;
    find "$download" -name 'libvk_swiftshader.so' -exec mv {} "$folder" \;
fi
export VK_DRIVER_FILES="$folder/vk_swiftshader_icd.json" VK_ICD_FILENAMES="$folder/vk_swiftshader_icd.json"
export LD_LIBRARY_PATH="$folder:${LD_LIBRARY_PATH:-}" XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
command=$1
shift
exec cargo "$command" --features wgpu "$@"
