"""Counts instructions of the CPU kernels and of small calls; as a program, writes the counts down.

Callgrind counts the kernels that valgrind can execute, which those for AVX-512 are not: they are
stepped through, as are small calls from Python (step_counter.cpp). Those for aarch64 are
cross-compiled, and qemu lists every instruction that it executes (qemu_counter.cpp). Only code of
the kernels, of Python and of torch counts; the C library chooses its own by the processor.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cross_compiled

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FILE = ROOT / "tests/project/instructions.json"
BUILD = ROOT / "build/extension"
SIDE, ELEMENTS = 32, 4096  # of counted_kernels.cpp
COMPILER = os.environ.get("CXX", "g++")
Counts = dict[str, float]


def compiled(folder: Path) -> Path:
    """Return the program that runs the kernels, linked from the objects of the extension."""
    sys.path.insert(0, str(ROOT / "csrc/build"))
    from compile import Description

    description = Description("extension")
    objects = [unit.object for unit in description.cpu()]
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (BUILD / "build.ninja").exists():
            (BUILD / "build.ninja").write_text(description.ninja_file(folder / "unused"))
        run([sys.executable, "-m", "ninja", "-C", str(BUILD), *objects])
    program = folder / "counted_kernels"
    sources = [str(HERE / "counted_kernels.cpp"), str(HERE / "step_counter.cpp")]
    options = ["-std=c++17", "-O2", "-ffp-contract=off", f"-I{ROOT / 'csrc'}", f"-I{HERE}"]
    kernels = [str(BUILD / name) for name in objects]
    run([COMPILER, *options, *sources, *kernels, "-o", str(program)])
    return program


def run(command: list[str], **environment: str) -> str:
    """Run a program; return what it printed, or raise with it."""
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def offers(program: Path, capability: str) -> bool:
    """Tell whether this processor has the capability."""
    done = subprocess.run(
        [str(program), "no kernel"],
        env=os.environ | {"INITSTATS_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and "to be at most" not in done.stderr:
        raise RuntimeError(done.stderr)
    return done.returncode == 0


def count_by_callgrind(program: Path, capability: str, only: str | None = None) -> Counts:
    """Return the instructions per element, or per matrix."""
    with tempfile.TemporaryDirectory() as folder:
        # By default callgrind counts the jumps of the linkage table (PLT) twice where it adds up.
        valgrind = ["valgrind", "--tool=callgrind", "--skip-plt=no"]
        command = [*valgrind, f"--callgrind-out-file={folder}/out", str(program)]
        command += [only] if only else []
        run(command, INITSTATS_CPU_CAPABILITY=capability)
        counts = {}
        for path in Path(folder).glob("out.*"):
            name = re.search(
                r"^desc: Trigger: Client Request: (.*)$", path.read_text(), re.MULTILINE
            )
            if name:
                counts[name[1]] = own_instructions(path, program)
    return per_element(counts)


def own_instructions(path: Path, program: Path) -> int:
    """Add up what callgrind attributes to the code of one program itself."""
    total, inside, in_call = 0, False, False
    names: dict[str, str] = {}  # by callgrind's number; a line has the name the first time only
    for line in path.read_text().splitlines():
        if found := re.match(r"(c?)ob=(\(\d+\))(?: (.*))?", line):
            names.setdefault(found[2], found[3] or "")
            if not found[1]:
                inside = names[found[2]] in {str(program), "???"}  # the latter for the PLT
        elif line.startswith("calls="):
            in_call = True  # the next line is the inclusive cost of what was called
        elif re.match(r"[+\-*\d]", line):
            total += int(line.split()[1]) if inside and not in_call else 0
            in_call = False
    return total


def count_by_stepping(program: Path, capability: str, only: str | None = None) -> Counts:
    """Return the instructions per element, or per matrix."""
    command = [str(program), *([only] if only else [])]
    text = run(command, INITSTATS_CPU_CAPABILITY=capability)
    return per_element(
        {name: int(n) for name, n in re.findall(r"^(.*): (\d+)$", text, re.MULTILINE)}
    )


def per_element(counts: dict[str, int]) -> Counts:
    """Divide by the number of elements."""
    sizes = {name: SIDE**2 if name.startswith("orthogonal") else ELEMENTS for name in counts}
    return {name: round(n / sizes[name], 3) for name, n in sorted(counts.items())}


def can_count_for_aarch64() -> bool:
    """Tell whether the cross compiler and qemu are installed."""
    return all(shutil.which(tool) for tool in (cross_compiled.AARCH64, cross_compiled.QEMU_AARCH64))


def compiled_for_aarch64() -> Path:
    """Return the same program for aarch64."""
    return cross_compiled.program(cross_compiled.AARCH64, "counted_kernels.cpp", "qemu_counter.cpp")


def count_by_qemu(program: Path, only: str | None = None) -> Counts:
    """Return the instructions per element, or per matrix, of the kernels for aarch64."""
    begin, end, own = addresses(program)
    listed = f"{min(own | {begin, end}):#x}..{max(own | {begin, end}):#x}"
    options = ["-singlestep", "-d", "exec,nochain", "-dfilter", listed]
    command = [cross_compiled.QEMU_AARCH64, *options, str(program), *([only] if only else [])]
    found: list[int] = []
    counting = False
    with tempfile.TemporaryFile() as printed:
        with subprocess.Popen(command, stdout=printed, stderr=subprocess.PIPE) as qemu:
            assert qemu.stderr is not None
            for line in qemu.stderr:  # Trace 0: 0x7f55a8000100 [00000000/0000000000401234/...
                address = int(line.split(b"/", 2)[1], 16)
                if address == begin:
                    found.append(0)
                if address in {begin, end}:
                    counting = address == begin
                elif counting and address in own:
                    found[-1] += 1
        printed.seek(0)
        names = re.findall(r"^(.*): 0$", printed.read().decode(), re.MULTILINE)
    if qemu.returncode != 0 or len(names) != len(found):
        raise RuntimeError(f"{command}: exit status {qemu.returncode}, {names}, {found}")
    return per_element(dict(zip(names, found, strict=True)))


def addresses(program: Path) -> tuple[int, int, set[int]]:
    """Return where counting starts and stops, and every address of the kernels' code."""
    text = run(["nm", "-S", str(program)])
    symbols = re.findall(r"^(\w+) (\w+) [tTwW] (\S+)$", text, re.MULTILINE)
    places = {name: (int(begin, 16), int(size, 16)) for begin, size, name in symbols}
    own: set[int] = set()
    for name, (first, size) in places.items():
        own |= set(range(first, first + size, 4)) if "9initstats" in name else set()
    return places["start_counting"][0], places["stop_counting"][0], own


def count_small_calls(folder: Path) -> Counts:
    """Return the instructions of one call from Python, in a process of its own."""
    library = folder / "step_counter.so"
    source = str(HERE / "step_counter.cpp")
    run([COMPILER, "-O2", "-shared", "-fPIC", source, "-o", str(library)])
    command = [sys.executable, __file__, str(library)]
    environment = {  # the same on every processor, and from run to run
        "ATEN_CPU_CAPABILITY": "default",
        "INITSTATS_CPU_CAPABILITY": "baseline",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(ROOT),
    }
    return dict(json.loads(run(command, **environment)))


def step_through_small_calls(library: str) -> Counts:
    """Count in this process."""
    import torch

    import initstats

    counter = ctypes.PyDLL(library)
    counter.stop_counting.restype = ctypes.c_uint64
    x = torch.empty(64)

    def count(call: Callable[[], object]) -> int:
        for _ in range(50):  # until caches are filled, those of the interpreter too
            call()
        counter.start_counting()
        call()
        return int(counter.stop_counting())

    gc.disable()
    nothing = count(lambda: None)
    return {
        "normal_ of 64": count(lambda: initstats.normal_(x)) - nothing,
        "stats of 64": count(lambda: initstats.stats(x)) - nothing,
    }


# Valgrind 3.19 cannot execute AVX-512.
COUNT = {
    "baseline": count_by_callgrind,
    "avx2": count_by_callgrind,
    "avx512": count_by_stepping,
}


def toolchain() -> dict[str, str]:
    """Return what the counts depend on besides the source: the compilers, Python and torch."""
    import torch

    cross = cross_compiled.AARCH64
    return {
        "compiler": run([COMPILER, "--version"]).splitlines()[0],
        "cross_compiler": run([cross, "--version"]).splitlines()[0] if shutil.which(cross) else "",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Write the counts; those of a capability that this processor lacks stay."""
    counts = json.loads(FILE.read_text())["counts"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = compiled(folder)
        for capability, count in COUNT.items():
            if offers(program, capability):
                counts[capability] = count(program, capability)
            else:
                print(f"this processor has no {capability}: its counts stay")
        if can_count_for_aarch64():
            counts["aarch64"] = count_by_qemu(compiled_for_aarch64())
        else:
            print("no cross compiler or qemu for aarch64: its counts stay")
        counts["small calls"] = count_small_calls(folder)
    FILE.write_text(json.dumps({"toolchain": toolchain(), "counts": counts}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(step_through_small_calls(sys.argv[1])))
    else:
        main()
