"""The CPU kernels compiled for another processor, with a program that qemu executes."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
AARCH64, QEMU_AARCH64 = "aarch64-linux-gnu-g++", "qemu-aarch64"
# As csrc/build/compile.py compiles the baseline.
FLAGS = "-std=c++17 -O3 -ffp-contract=off -DINITSTATS_BASELINE_ONLY"


def run(*command: str | Path) -> bytes:
    """Return what a command prints, which must succeed."""
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def program(compiler: str, *sources: str) -> Path:
    """Compile the kernels and sources of this folder, once per state of them all.

    The program is static, and named as the first source.
    """
    own = [HERE / source for source in sources]
    headers = sorted((ROOT / "csrc").rglob("*.[ch]*"))
    text = b"".join(path.read_bytes() for path in [*headers, *own])
    mark = hashlib.sha256(text + FLAGS.encode()).hexdigest()[:16]
    name = own[0].stem
    folder = ROOT / f"build/test-cache/{name}-{compiler}-{mark}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            _compile(compiler, own, folder).rename(folder / name)
    return folder / name


def _compile(compiler: str, own: list[Path], folder: Path) -> Path:
    flags = [*FLAGS.split(), f"-I{ROOT / 'csrc'}", f"-I{HERE}"]

    def compiled(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        capability = [] if source.stem == "dispatch" else ["-DINITSTATS_CAPABILITY=baseline"]
        run(compiler, *flags, *capability, "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, [*(ROOT / "csrc/cpu").rglob("*.cpp"), *own]))
    run(compiler, "-static", *objects, "-o", folder / "unfinished")
    return folder / "unfinished"
