"""Writes build.ninja for the extension and runs it. Two variants come from one description.

`extension` is the module that is installed: CPU kernels once per capability, and CUDA kernels when
nvcc is there. `cuda_on_cpu` is for tests: g++ compiles the CUDA kernels for the executor in
tests/cuda_on_cpu, and the ops hand CPU tensors to them. Both share a folder, and in it the objects
of the CPU kernels.

As a program it compiles the extension in place, without setuptools:
    python csrc/build/compile.py
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from headers import cuda_home, supported_archs, torch_include, wanted_cuda

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "csrc"
BUILD = ROOT / "build/extension"
TORCH_TARGET = "0x020a000000000000"  # 2.10, the oldest torch that the module loads under
DEFAULT_ARCHS = ("75", "80", "90", "100", "120")

WARNINGS = "-Wall -Wextra -Wconversion -Wshadow -Werror"
# -ffp-contract=off: a fused multiply-add only where the source says fma, or the bits would depend
# on the compiler.
CXX = "-std=c++17 -O3 -fPIC -ffp-contract=off -fvisibility=hidden -fno-semantic-interposition"
# -mtune: only the order of instructions; a tenth of the time of the fills
# (docs/decisions/0005-four-vectors-at-once.md).
CAPABILITIES = {
    "baseline": "",
    "avx2": "-mavx2 -mfma -mf16c -mtune=icelake-server",
    # The uninitialised variables are those of GCC's own intrinsics header (GCC bug 105593).
    "avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mtune=icelake-server"
    " -mprefer-vector-width=512 -Wno-uninitialized -Wno-maybe-uninitialized",
}
# Compressed, the machine code of five architectures is a tenth of its size. For line numbers in
# profilers and sanitizers set NVCC_APPEND_FLAGS=-lineinfo, which nvcc reads itself.
# -v: what each kernel uses goes into the log beside the object, which tests read.
NVCC = (
    "-std=c++17 -O3 -fmad=false --expt-relaxed-constexpr -Werror all-warnings"
    " -Xcompiler -fPIC,-fvisibility=hidden -Xfatbin -compress-all -Xptxas -v"
)
PYTHON = ("direct.cpp", "module.cpp")  # the sources that need Python's symbols
RULES = """ninja_required_version = 1.5
rule cxx
  description = g++ $out
  command = $compiler -MMD -MF $out.d $flags -c $in -o $out
  depfile = $out.d
  deps = gcc
rule nvcc
  description = nvcc $out
  command = $nvcc -MD -MF $out.d $flags -c $in -o $out > $out.log 2>&1 || { cat $out.log; exit 1; }
  depfile = $out.d
  deps = gcc
rule link
  description = link $out
  command = rm -f $out && $compiler -shared -Wl,--exclude-libs,ALL $in -o $out $libs
# Only Python defines the symbols that a module may lack, so this is everything but PYTHON.
rule link_all_defined
  description = link $out: every symbol has a definition
  command = $compiler -shared -Wl,-z,defs $in -o $out $libs
"""


def compile_extension(
    target: Path, build: Path = BUILD, *, variant: str = "extension", jobs: str | None = None
) -> None:
    """Compile the extension module to `target`, with objects under `build`.

    Raises:
        RuntimeError: With the reason, where something is missing or does not compile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    name = "build.ninja" if variant == "extension" else f"{variant}.ninja"
    _run_ninja(build, name, Description(variant).ninja_file(target), jobs)


def compile_kernels(archs: Sequence[str], build: Path = BUILD) -> dict[Path, Path]:
    """Compile the CUDA kernels alone; return the object file of each source.

    They are the objects of the extension, where it was compiled for these architectures. What nvcc
    printed is beside each, with `.log` appended.

    Raises:
        RuntimeError: With the reason, where something is missing or does not compile.
    """
    description = Description("extension", archs)
    units = list(description.kernels())
    _run_ninja(build, "kernels.ninja", description.statements(units), None)
    return {unit.source: build / unit.object for unit in units}


def _run_ninja(build: Path, name: str, text: str, jobs: str | None) -> None:
    build.mkdir(parents=True, exist_ok=True)
    command = [*_ninja(), "-C", str(build), "-f", name, *(["-j", jobs] if jobs else [])]
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ninja does not guard a folder against a second ninja
        (build / name).write_text(text)
        done = subprocess.run(command, check=False)
    if done.returncode != 0:
        again = shlex.join([*command, "-v"])
        raise RuntimeError(f"initstats: the build failed; run it again with: {again}")


def compile_in_place() -> None:
    """Compile the extension into the package folder of this checkout."""
    target = ROOT / "initstats" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    write_compile_commands(target, ROOT / "build")
    compile_extension(target, jobs=os.environ.get("MAX_JOBS"))


def _ninja() -> list[str]:
    if importlib.util.find_spec("ninja"):
        return [sys.executable, "-m", "ninja"]
    ninja = shutil.which("ninja")
    if ninja is None:
        raise RuntimeError("initstats: expected ninja to build with, found none; pip install ninja")
    return [ninja]


def write_compile_commands(target: Path, build: Path) -> None:
    """Write compile_commands.json into `build`.

    In a folder of that name at the top of the checkout clangd finds it from any source. Where
    there is a CUDA toolkit, kernels stand in it as the executor's g++ compiles them: clangd does
    not understand nvcc's options.
    """
    variant = "cuda_on_cpu" if cuda_home() else "extension"
    build.mkdir(parents=True, exist_ok=True)
    (build / "clangd.ninja").write_text(Description(variant).ninja_file(target))
    command = [*_ninja(), "-f", "clangd.ninja", "-t", "compdb", "cxx"]
    done = subprocess.run(command, cwd=build, capture_output=True, text=True, check=True)
    (build / "compile_commands.json").write_text(done.stdout)


def capabilities() -> list[str]:
    """Return the CPU capabilities that the kernels are compiled for."""
    return list(CAPABILITIES) if platform.machine() in {"x86_64", "AMD64"} else ["baseline"]


def archs_to_build(cuda: Path | None) -> list[str]:
    """Return the compute capabilities to emit machine code for."""
    if cuda is None:
        return []
    wanted = os.environ.get("INITSTATS_CUDA_ARCHS", "")
    supported = supported_archs(cuda)
    archs = wanted.split(";") if wanted else [a for a in DEFAULT_ARCHS if a in supported]
    unknown = [arch for arch in archs if arch not in supported]
    if unknown or not archs:
        known = ";".join(sorted(supported, key=lambda arch: (len(arch), arch)))
        raise RuntimeError(
            f"initstats: expected INITSTATS_CUDA_ARCHS to be some of {known}, which the nvcc of "
            f"{cuda} offers, got {wanted or ';'.join(DEFAULT_ARCHS)}"
        )
    return archs


@dataclass(frozen=True)
class Unit:
    """One source file to compile with one set of flags."""

    rule: str
    source: Path
    flags: str
    suffix: str = ""

    @property
    def object(self) -> str:
        """Name of the object file, relative to the build folder."""
        stem = self.source.relative_to(SOURCE).with_suffix("").as_posix()
        return f"{stem}{self.suffix}.o"


class Description:
    """What is compiled with which flags. Each layer gets the includes that it may use, no more."""

    def __init__(self, variant: str, archs: Sequence[str] = ()) -> None:
        self.executes_kernels = variant == "cuda_on_cpu"
        self.suffix = ".cuda_on_cpu" if self.executes_kernels else ""
        self.cuda = cuda_home() if self.executes_kernels or archs else wanted_cuda()
        if (self.executes_kernels or archs) and self.cuda is None:
            raise RuntimeError("initstats: expected the CUDA toolkit for its kernels, found none")
        torch = torch_include()
        if torch is None:
            raise RuntimeError(
                "initstats: expected torch 2.10 or newer with its headers, found none"
            )
        self.torch = torch
        self.archs = [] if self.executes_kernels else list(archs) or archs_to_build(self.cuda)
        self.common = f"-I{_quoted(SOURCE)}"
        if capabilities() == ["baseline"]:
            self.common += " -DINITSTATS_BASELINE_ONLY"

    def ninja_file(self, target: Path) -> str:
        """Return the text of build.ninja."""
        units = [*self.cpu(), *self.kernels(), *self.ops()]
        objects = [unit.object for unit in units]
        without_python = [unit.object for unit in units if unit.source.name not in PYTHON]
        defined = f"defined{self.suffix}.so"
        lines = [
            f"libs = {self.libraries()}",
            f"build {defined}: link_all_defined {' '.join(without_python)}",
            f"build {_path(target)}: link {' '.join(objects)} || {defined}",
            f"default {_path(target)}",
        ]
        return self.statements(units) + "\n".join([*lines, ""])

    def statements(self, units: Sequence[Unit]) -> str:
        """Return the text of build.ninja that makes the objects of `units`."""
        lines = [f"compiler = {os.environ.get('CXX', 'g++')}", f"nvcc = {self.cuda}/bin/nvcc"]
        lines.append(RULES)
        for unit in units:
            lines.append(f"build {unit.object}: {unit.rule} {_path(unit.source)}")
            lines.append(f"  flags = {unit.flags}")
        return "\n".join([*lines, ""])

    def cpu(self) -> Iterator[Unit]:
        """The CPU kernels, once per capability, and the choice between them."""
        flags = f"{CXX} {self.common} {WARNINGS}"
        for source in sorted((SOURCE / "cpu").rglob("*.cpp")):
            if source.stem == "dispatch":
                yield Unit("cxx", source, flags)
                continue
            for name in capabilities():
                extra = f"{CAPABILITIES[name]} -DINITSTATS_CAPABILITY={name}"
                yield Unit("cxx", source, f"{flags} {extra}", f".{name}")

    def kernels(self) -> Iterator[Unit]:
        """The CUDA kernels: for GPUs with nvcc, or for the executor with g++."""
        if self.cuda is None:
            return
        sources = sorted((SOURCE / "cuda").rglob("*.cu"))
        if self.executes_kernels:
            flags = f"{CXX} {self.common} -I{_quoted(ROOT / 'tests/cuda_on_cpu')}"
            flags += f" -isystem {_quoted(self.cuda / 'include')}"
            flags += " -x c++ -DINITSTATS_CUDA_ON_CPU -Wno-unknown-pragmas"
            yield from (Unit("cxx", source, flags, self.suffix) for source in sources)
            return
        code = [f"-gencode arch=compute_{arch},code=sm_{arch}" for arch in self.archs]
        newest = self.archs[-1]  # as PTX too, for the GPUs to come
        code.append(f"-gencode arch=compute_{newest},code=compute_{newest}")
        flags = f"{NVCC} {' '.join(code)} {self.common}"
        suffix = f".sm_{'_'.join(self.archs)}"  # builds for other GPUs keep their objects
        yield from (Unit("nvcc", source, flags, suffix) for source in sources)

    def ops(self) -> Iterator[Unit]:
        """The operators, the only code that sees torch and Python."""
        import pybind11

        # pybind11 before torch: torch brings an older copy of it, which refuses the stable ABI.
        system = [Path(pybind11.get_include()), self.torch, Path(sysconfig.get_path("include"))]
        system += [self.cuda / "include"] if self.cuda else []
        flags = [CXX, self.common, "-Wall -Wextra -Werror"]
        flags += [f"-isystem {_quoted(folder)}" for folder in system]
        flags.append(f"-DTORCH_TARGET_VERSION={TORCH_TARGET}")
        flags.append(shlex.quote(f'-DINITSTATS_CUDA_ARCHS="{";".join(self.archs)}"'))
        flags += ["-DINITSTATS_WITH_CUDA"] if self.cuda else []
        # Executed kernels take the place of the overloads for the CPU, which stand unused then.
        flags += ["-DINITSTATS_CUDA_ON_CPU -Wno-unused-function"] if self.executes_kernels else []
        for source in sorted((SOURCE / "ops").glob("*.cpp")):
            yield Unit("cxx", source, " ".join(flags), self.suffix)

    def libraries(self) -> str:
        """The CUDA runtime linked in, so that one module serves every torch.

        libtorch_cpu is named as needed, or its C functions would not be found: Python loads torch's
        libraries without making their symbols global. The one already loaded serves, of any torch.
        """
        libraries = f"-L{_quoted(self.torch.parent / 'lib')} -Wl,--no-as-needed -ltorch_cpu"
        if self.cuda is None or self.executes_kernels:
            return f"{libraries} -ldl"
        folder = _quoted(self.cuda / "lib64")
        return f"{libraries} -L{folder} -lcudart_static -lrt -ldl -lpthread"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path)).replace("$", "$$")


def _path(path: Path) -> str:
    """Return a path as ninja's build statements want it."""
    return str(path).replace("$", "$$").replace(":", "$:").replace(" ", "$ ")


if __name__ == "__main__":
    try:
        compile_in_place()
    except RuntimeError as error:
        sys.exit(str(error))
