"""Compile a kernel source each way that tests need, and take apart what the build compiled."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

from .cache import cached
from .mangled import find_kernel
from .ptx import ORDERS, Module, Order
from .sass import Listing, read_sass
from .toolkit import HERE, REPOSITORY, cuda_include, require_cuobjdump, require_nvcc

ARCHITECTURES = ("75", "80", "90", "100", "120")
INCLUDE = f"-I{REPOSITORY / 'csrc'}"
NVCC_FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-lineinfo", "-Werror", "all-warnings", INCLUDE]
STRICT_PTXAS_FLAGS = "-v,-warn-spills,-warn-lmem-usage"  # with -Werror: neither is allowed
EXECUTOR_FLAGS = [
    *("-std=c++17", "-DINITSTATS_CUDA_ON_CPU", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", INCLUDE, f"-I{HERE}"),
]
SANITIZER_FLAGS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def included_files(source: Path) -> set[Path]:
    """Return the source and the files of the project that it includes, directly or not."""
    found: set[Path] = set()
    todo = [source.resolve()]
    while todo:
        file = todo.pop()
        found.add(file)
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', file.read_text(), re.MULTILINE):
            places = (folder / name for folder in (file.parent, REPOSITORY / "csrc", HERE))
            included = next((place.resolve() for place in places if place.exists()), None)
            if included is not None and included not in found:
                todo.append(included)
    return found


@lru_cache
def _version(compiler: str) -> str:
    """Return what tells versions of a compiler apart."""
    return subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True
    ).stdout


def _run(command: Sequence[str | Path], cwd: Path | None = None) -> str:
    """Run a compiler; return what it printed, or raise with it."""
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(str(c) for c in command)}\n{output}")
    return output


# ---- g++ and the source executor


def compile_native(
    sources: Sequence[Path],
    *,
    sanitize: bool = True,
    flags: Sequence[str] = (),
    kernel_flags: Sequence[str] = (),
) -> Path:
    """Return an executable made from .cpp and .cu files for the source executor.

    Args:
        sources: one of them has main(); it launches kernels and returns 0 when all is right.
        sanitize: with ASan and UBSan at -O1, else at -O2.
        flags: more, such as -D definitions.
        kernel_flags: more, for the .cu files alone.
    """
    optimise = SANITIZER_FLAGS if sanitize else ["-O2"]
    options = [*EXECUTOR_FLAGS, f"-isystem{cuda_include()}", *optimise, *flags]
    objects = [
        _compile_object(source, [*options, *(kernel_flags if source.suffix == ".cu" else [])])
        for source in sources
    ]
    name = sources[0].stem

    def make(folder: Path) -> None:
        _run(["g++", *optimise, *objects, "-o", folder / name])

    return cached("native", [*optimise, *map(str, objects)], [], make) / name


def _compile_object(source: Path, options: Sequence[str]) -> Path:
    """Return the object file of one source for the source executor."""

    def make(folder: Path) -> None:
        _run(["g++", *options, "-x", "c++", "-c", source, "-o", folder / "object.o"])

    key = [_version("g++"), *options, source.name]
    return cached("objects", key, included_files(source), make) / "object.o"


def run_native(
    executable: Path, *arguments: str, order: Order = "forward", timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run an executable of `compile_native` with its threads and blocks in the given order."""
    environment = os.environ | {
        "INITSTATS_CUDA_ON_CPU_ORDER": order,
        # The executor's fibre stacks are reused on purpose; leaks at exit are no kernel's bug.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return subprocess.run(
        [str(executable), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def run_in_three_orders(executable: Path, *arguments: str) -> list[str]:
    """Run an executable in the three orders and return its outputs; raise where one fails."""
    outputs = []
    for order in ORDERS:
        done = run_native(executable, *arguments, order=order)
        if done.returncode != 0:
            raise AssertionError(
                f"{executable.name} with threads in {order} order returned {done.returncode}\n"
                f"{done.stdout}{done.stderr}"
            )
        outputs.append(done.stdout)
    return outputs


# ---- nvcc


def compile_ptx(source: Path, *, architecture: str = "90", flags: Sequence[str] = ()) -> Path:
    """Return the PTX of a .cu file."""
    nvcc = require_nvcc()
    options = [*NVCC_FLAGS, f"-arch=compute_{architecture}", "-ptx", *flags]

    def make(folder: Path) -> None:
        _run([nvcc, *options, source, "-o", folder / "kernels.ptx"])

    key = [_version(str(nvcc)), *options, source.name]
    return cached("ptx", key, included_files(source), make) / "kernels.ptx"


def load_ptx(
    source: Path,
    *,
    architecture: str = "90",
    flags: Sequence[str] = (),
    trace: bool = True,
    only: Sequence[str] = (),
) -> Module:
    """Return the kernels of a .cu file, ready to be launched from their PTX: see `Module`."""
    path = compile_ptx(source, architecture=architecture, flags=flags)
    return Module(path, trace=trace, only=only)


@dataclass(frozen=True)
class Resources:
    """What ptxas says that a kernel uses."""

    registers: int
    stack_bytes: int  # local memory
    spill_store_bytes: int
    spill_load_bytes: int
    shared_bytes: int  # static


@dataclass(frozen=True)
class Cubin:
    """A .cu file compiled for one architecture."""

    architecture: str
    path: Path
    log: str  # of ptxas -v

    @cached_property
    def resources(self) -> dict[str, Resources]:
        """What each kernel uses, by mangled name."""
        return parse_resources(self.log)

    @cached_property
    def sass(self) -> dict[str, Listing]:
        """The machine code of each kernel, by mangled name."""
        return read_sass(self.path)

    def resources_of(self, stem: str) -> Resources:
        """Return what the kernel uses that `find_kernel` finds."""
        return self.resources[find_kernel(self.resources, stem)]

    def sass_of(self, stem: str) -> Listing:
        """Return the machine code of the kernel that `find_kernel` finds."""
        return self.sass[find_kernel(self.sass, stem)]


def compile_cubin(
    source: Path, *, architecture: str = "90", flags: Sequence[str] = (), strict: bool = True
) -> Cubin:
    """Return a .cu file compiled for sm_<architecture>.

    Args:
        source: the .cu file.
        architecture: see ARCHITECTURES.
        flags: more, such as -D definitions.
        strict: spills and local memory are errors, not only reported in `Cubin.resources`.

    Raises:
        RuntimeError: an error or a warning, with the compiler's output.
    """
    nvcc = require_nvcc()
    ptxas = STRICT_PTXAS_FLAGS if strict else "-v"
    options = [*NVCC_FLAGS, f"-arch=sm_{architecture}", "-cubin", f"-Xptxas={ptxas}", *flags]

    def make(folder: Path) -> None:
        log = _run([nvcc, *options, source, "-o", folder / "kernels.cubin"])
        (folder / "ptxas.log").write_text(log)

    key = [_version(str(nvcc)), *options, source.name]
    folder = cached("cubin", key, included_files(source), make)
    return Cubin(architecture, folder / "kernels.cubin", (folder / "ptxas.log").read_text())


def extension_cubin(source: Path, *, architecture: str = "90") -> Cubin:
    """Return the machine code that the build put into the extension for sm_<architecture>.

    Args:
        source: a .cu file under csrc.
        architecture: see ARCHITECTURES.

    Raises:
        RuntimeError: The source does not compile without warnings, or a kernel spills registers or
            uses local memory.
    """
    compiled = _extension_objects()[source]
    cuobjdump, pattern = require_cuobjdump(), f"sm_{architecture}.cubin"

    def make(folder: Path) -> None:
        _run([cuobjdump, "--extract-elf", pattern, compiled], cwd=folder)
        (extracted,) = folder.iterdir()
        extracted.rename(folder / "kernels.cubin")

    folder = cached("extension-cubin", [_version(str(cuobjdump)), pattern], [compiled], make)
    log = section_of_log(Path(f"{compiled}.log").read_text(), architecture)
    refuse_local_memory(log)
    return Cubin(architecture, folder / "kernels.cubin", log)


def refuse_local_memory(log: str) -> None:
    """Raise RuntimeError where the output of ptxas -v tells of spills or local memory."""
    pattern = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    frames = re.findall(pattern, log)
    if not frames or any(set(frame) != {"0"} for frame in frames):
        raise RuntimeError(f"expected neither spills nor local memory, got\n{log}")


@cache
def _extension_objects() -> dict[Path, Path]:
    """Return the object file of each CUDA source, compiled where the build has not done so."""
    require_nvcc()
    from compile import compile_kernels

    return compile_kernels(ARCHITECTURES)


def section_of_log(log: str, architecture: str) -> str:
    """Return what ptxas said while it compiled for one architecture."""
    sections = re.split(r"ptxas info\s*: \d+ bytes gmem", log)
    (found,) = [text for text in sections if f"for 'sm_{architecture}'" in text]
    return found


def parse_resources(log: str) -> dict[str, Resources]:
    """Read the output of ptxas -v."""
    pattern = re.compile(
        r"Compiling entry function '([\w$]+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers([^\n]*)",
        re.DOTALL,
    )
    resources = {}
    for match in pattern.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match[6])
        resources[match[1]] = Resources(
            registers=int(match[5]),
            stack_bytes=int(match[2]),
            spill_store_bytes=int(match[3]),
            spill_load_bytes=int(match[4]),
            shared_bytes=int(shared[1]) if shared else 0,
        )
    return resources
