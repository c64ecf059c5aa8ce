"""Writes build.ninja for the extension and runs it. Three variants come from one description:

the extension itself (CPU kernels, and CUDA kernels when nvcc is there), and for tests the variant `cuda_on_cpu`, in
which g++ compiles the CUDA kernels for the executor in tests/cuda_on_cpu and the ops hand CPU tensors to them.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

from headers import cuda_home, torch_include

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "csrc"
TORCH_TARGET = "0x020a000000000000"  # 2.10, the oldest torch that the module loads under
DEFAULT_ARCHS = "75;80;90;100;120"

WARNINGS = "-Wall -Wextra -Wconversion -Wshadow -Werror"
# -ffp-contract=off: a fused multiply-add only where the source says fma, or the bits would depend on the compiler.
CXX = "-std=c++17 -O3 -fPIC -ffp-contract=off -fvisibility=hidden -fno-semantic-interposition"
CAPABILITIES = {
    "baseline": "",
    "avx2": "-mavx2 -mfma -mf16c",
    # The uninitialised variables are those of GCC's own intrinsics header (GCC bug 105593).
    "avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512"
    " -Wno-uninitialized -Wno-maybe-uninitialized",
}
NVCC = "-std=c++17 -O3 -fmad=false -lineinfo --expt-relaxed-constexpr -Werror all-warnings -Xcompiler -fPIC"


def compile_extension(
    target: Path, build: Path, *, variant: str = "extension", jobs: str | None = None
) -> None:
    """Compiles the extension module to `target`, with objects under `build`. Raises RuntimeError with the reason."""
    build.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    (build / "build.ninja").write_text(_ninja_file(target, build, variant))
    command = [sys.executable, "-m", "ninja", "-C", str(build)] + (["-j", jobs] if jobs else [])
    if subprocess.run(command, check=False).returncode != 0:
        raise RuntimeError(f"initstats: the build failed; run it again with: {' '.join(command)} -v")


def _wanted_cuda() -> Path | None:
    wanted = os.environ.get("INITSTATS_CUDA", "auto")
    if wanted not in {"auto", "0", "1"}:
        raise RuntimeError(f"initstats: expected INITSTATS_CUDA to be auto, 0 or 1, got {wanted}")
    home = None if wanted == "0" else cuda_home()
    if wanted == "1" and home is None:
        raise RuntimeError("initstats: INITSTATS_CUDA=1, but no nvcc found; set CUDA_HOME or the PATH")
    return home


def _capabilities() -> list[str]:
    return list(CAPABILITIES) if platform.machine() in {"x86_64", "AMD64"} else ["baseline"]


def _ninja_file(target: Path, build: Path, variant: str) -> str:
    import pybind11

    torch = torch_include()
    if torch is None:
        raise RuntimeError("initstats: expected torch 2.10 or newer with its headers, found none")
    on_cpu = variant == "cuda_on_cpu"
    cuda = cuda_home() if on_cpu else _wanted_cuda()
    if on_cpu and cuda is None:
        raise RuntimeError("initstats: the cuda_on_cpu variant needs the CUDA toolkit's headers, found none")
    archs = os.environ.get("INITSTATS_CUDA_ARCHS", DEFAULT_ARCHS).split(";") if cuda and not on_cpu else []

    includes = [SOURCE] + ([ROOT / "tests/cuda_on_cpu"] if on_cpu else [])
    system = [torch, Path(pybind11.get_include()), Path(sysconfig.get_path("include"))]
    system += [cuda / "include"] if cuda else []
    common = " ".join([f"-I{folder}" for folder in includes] + [f"-isystem {folder}" for folder in system])
    defines = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", f'-DINITSTATS_CUDA_ARCHS=\\"{";".join(archs)}\\"']
    defines += ["-DINITSTATS_BASELINE_ONLY"] if _capabilities() == ["baseline"] else []
    defines += ["-DINITSTATS_WITH_CUDA"] if cuda else []
    defines += ["-DINITSTATS_CUDA_ON_CPU"] if on_cpu else []
    gencode = " ".join(f"-gencode arch=compute_{arch},code=sm_{arch}" for arch in archs)
    gencode += f" -gencode arch=compute_{archs[-1]},code=compute_{archs[-1]}" if archs else ""
    cuda_flags = f"$flags -x c++ -DINITSTATS_CUDA_ON_CPU -Wno-unknown-pragmas -isystem {cuda}/include" if on_cpu else NVCC

    lines = [
        "ninja_required_version = 1.5",
        f"flags = {CXX} {common} {' '.join(defines)}",
        "rule cxx",
        f"  command = {os.environ.get('CXX', 'g++')} -MMD -MF $out.d $flags $extra -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule cuda",
        f"  command = {os.environ.get('CXX', 'g++')} -MMD -MF $out.d {cuda_flags} -c $in -o $out"
        if on_cpu
        else f"  command = {cuda}/bin/nvcc -MD -MF $out.d {NVCC} {gencode} -I{SOURCE} -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {os.environ.get('CXX', 'g++')} -shared $in -o $out $libs",
    ]
    objects: list[str] = []

    def compile_one(rule: str, source: Path, suffix: str = "", extra: str = "") -> None:
        name = f"{source.relative_to(SOURCE).with_suffix('').as_posix()}{suffix}.o"
        objects.append(name)
        lines.append(f"build {name}: {rule} {source}")
        if extra:
            lines.append(f"  extra = {extra}")

    for source in sorted((SOURCE / "cpu").glob("*.cpp")):
        if source.stem == "dispatch":
            compile_one("cxx", source, extra=WARNINGS)
            continue
        for capability in _capabilities():
            extra = f"{WARNINGS} {CAPABILITIES[capability]} -DINITSTATS_CAPABILITY={capability}"
            compile_one("cxx", source, f".{capability}", extra)
    if cuda:
        for source in sorted((SOURCE / "cuda").glob("*.cu")):
            compile_one("cuda", source)
    for source in sorted((SOURCE / "ops").glob("*.cpp")):
        compile_one("cxx", source, extra="-Wall -Wextra -Werror")
    libs = f"-L{cuda}/lib64 -lcudart_static -lrt -ldl -lpthread" if cuda and not on_cpu else "-ldl"
    lines += [f"build {target}: link {' '.join(objects)}", f"  libs = {libs}", f"default {target}"]
    (build / "variant.txt").write_text(variant)
    return "\n".join(lines) + "\n"
