#!/usr/bin/env python3
"""Compiles the CUDA C++ of every kernel of this crate for sm_80 and sm_90, without a GPU or CUDA, by NVRTC and ptxas of PyPI.

    experiments/nvrtc.py FOLDER [--save figures/kernels_cuda/README.md]

FOLDER keeps the compilers (320 MB), the sources and their PTX. The sources are written by the test
`kernel::cube::cuda_source`, with `--features wgpu,cuda-source`; `--no-sources` takes those of the last run. The table of
registers, shared memory and spills is printed. The exit status is 1 if a kernel does not compile or spills registers.
"""

import argparse
import ctypes
import os
import pathlib
import re
import subprocess
import sys
import zipfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = [
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-nvcc==13.0.88",
]
ARCHITECTURES = {"sm_80": "sm_80", "sm_90": "sm_90a"}


def unpack(folder: pathlib.Path) -> pathlib.Path:
    """The root of CUDA's files, downloaded if they are not there."""
    root = folder / "nvidia/cu13"
    if not (root / "bin/ptxas").exists():
        wheels = folder / "wheels"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", wheels, *PACKAGES], check=True)
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                names = [name for name in archive.namelist() if not name.endswith((".a", "nvcc", "cicc", ".alt.so.13"))]
                archive.extractall(folder, names)
        (root / "bin/ptxas").chmod(0o755)
    return root


def write_sources(folder: pathlib.Path) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    test = ["cargo", "test", "--features", "wgpu,cuda-source", "--lib", "--", "kernel::cube::cuda_source"]
    subprocess.run(test, check=True, cwd=REPOSITORY, env={**os.environ, "CUDA_SOURCES": str(folder.resolve())})


class Nvrtc:
    def __init__(self, root: pathlib.Path):
        # NVRTC opens its built-in functions by name.
        ctypes.CDLL(str(root / "lib/libnvrtc-builtins.so.13.0"), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(root / "lib/libnvrtc.so.13"))
        self.includes = [f"--include-path={root}/include", f"--include-path={root}/include/cccl"]

    def text(self, program, size_of: str, read: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self.library, size_of)(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.library, read)(program, buffer)
        return buffer.value

    def ptx(self, source: bytes, architecture: str) -> bytes:
        """The PTX, with the options that cubecl-cuda gives."""
        program = ctypes.c_void_p()
        self.library.nvrtcCreateProgram(ctypes.byref(program), source, None, 0, None, None)
        options = [f"--gpu-architecture={architecture}", *self.includes, "-lineinfo"]
        options = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        failed = self.library.nvrtcCompileProgram(program, len(options), options)
        if failed:
            log = self.text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").decode()
            raise RuntimeError(log)
        ptx = self.text(program, "nvrtcGetPTXSize", "nvrtcGetPTX")
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return ptx


def resources(ptxas: pathlib.Path, ptx: pathlib.Path, architecture: str) -> dict[str, int]:
    command = [ptxas, "-v", f"--gpu-name={architecture}", ptx, "-o", ptx.with_suffix(".cubin")]
    log = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    shared = re.search(r"(\d+) bytes smem", log)
    return {
        "registers": int(re.search(r"Used (\d+) registers", log).group(1)),
        "shared": int(shared.group(1)) if shared else 0,
        "spills": sum(map(int, spilled.groups())),
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--no-sources", action="store_true", help="take the sources of the last run")
    arguments.add_argument("--save", type=pathlib.Path, metavar="FILE", help="write the table to FILE too")
    options = arguments.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    root = unpack(options.folder)
    sources = options.folder / "sources"
    if not options.no_sources:
        write_sources(sources)

    nvrtc = Nvrtc(root)
    rows: dict[tuple[str, ...], dict[str, dict[str, int]]] = {}
    # Models share many sources.
    compiled: dict[tuple[str, bytes], dict[str, int]] = {}
    failed = []
    for source in sorted(sources.glob("*.cu")):
        version, model, operation, kernel, index, dynamic, _ = source.name.split(".")
        architecture = ARCHITECTURES[version]
        text = source.read_bytes()
        try:
            if (version, text) not in compiled:
                ptx = source.with_suffix(".ptx")
                ptx.write_bytes(nvrtc.ptx(text, architecture))
                compiled[version, text] = resources(root / "bin/ptxas", ptx, architecture)
            found = dict(compiled[version, text])
        except (RuntimeError, subprocess.CalledProcessError) as error:
            failed.append(f"{source.name}: {error}")
            continue
        found["shared"] += int(dynamic)
        if found["spills"]:
            failed.append(f"{source.name}: {found['spills']} bytes of registers are spilled")
        # Variants of a kernel are one row, with the most of each.
        row = rows.setdefault((operation, kernel, model), {}).setdefault(version, dict.fromkeys(found, 0))
        for key, value in found.items():
            row[key] = max(row[key], value)

    cells = "| {} | {} | {} | {} | {} | {} | {} |".format
    table = [
        cells("operation", "kernel", "model", "registers, sm_80", "registers, sm_90", "shared memory, bytes", "spilled"),
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for (operation, kernel, model), versions in sorted(rows.items()):
        both = [versions.get(version, {"registers": "-", "shared": 0, "spills": 0}) for version in ARCHITECTURES]
        registers = [of_version["registers"] for of_version in both]
        most = [max(of_version[key] for of_version in both) for key in ("shared", "spills")]
        table.append(cells(f"`{operation}`", f"`{kernel}`", model, *registers, *most))
    print("\n".join(table))
    if options.save:
        head = "# The kernels in CubeCL, compiled for CUDA\n\n" + " ".join((
            "NVRTC and ptxas 13.0, no GPU: `experiments/nvrtc.py FOLDER --save figures/kernels_cuda/README.md`.",
            "If a kernel has variants, for example for float32 and bfloat16 weights, columns show their maximum.",
        ))
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(head + "\n\n" + "\n".join(table) + "\n")
    print("\n".join(failed), file=sys.stderr)
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
