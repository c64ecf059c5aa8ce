"""Runs benchmarks: python -m benchmarks [fills stats ...] [--device cuda] [--match trunc].

Each bench_<name>.py offers cases(device). On a CPU with AVX-512 everything runs a second time, in a
process of its own, on the kernels for AVX2.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import results_file
from benchmarks.harness import Measurement, measure
from initstats._ops import build_info

OVERRIDE = "INITSTATS_CPU_CAPABILITY"


def main() -> int:
    """Measure what the command line asks for, print it line by line, and write the results."""
    folder = Path(__file__).parent
    known = sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(known)} (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, help="of the CPU, default those of torch")
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=6.0, help="per case (default: 6)")
    parser.add_argument("--no-avx2", action="store_true", help="leave out the second run")
    parser.add_argument("--output", type=Path, help="the results file; default: by machine, date")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"expected names among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    where = results_file.machine(device)
    capability = str(build_info()["cpu_capability"])
    print(f"# {where}, kernels for {capability}", flush=True)
    if where["load_before"] > 1:
        print(f"# the machine is busy (load {where['load_before']}): do not publish these numbers")
    measurements = []
    for name in arguments.names or known:
        measurements += run(name, device, capability, arguments)
    if device.type == "cpu" and capability == "avx512" and not arguments.no_avx2:
        measurements += again_with_avx2()
    path = arguments.output or results_file.default_path(where)
    results_file.write(
        path, where, shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), measurements
    )
    print(f"# wrote {path}")
    missed = [f"{m.name} ({m.capability}): {'; '.join(m.missed)}" for m in measurements if m.missed]
    for line in missed:
        print(f"# below the bar: {line}")
    return 0


def run(
    name: str, device: torch.device, capability: str, arguments: argparse.Namespace
) -> list[Measurement]:
    """Measure the cases of one file, printing each."""
    module = importlib.import_module(f"benchmarks.bench_{name}")
    measurements = []
    for case in module.cases(device):
        if arguments.match not in case.name:
            continue
        measurement = measure(case, device, capability, seconds=arguments.seconds)
        print(measurement.line(), flush=True)
        measurements.append(measurement)
    return measurements


def again_with_avx2() -> list[Measurement]:
    """Run this command in a new process with the AVX2 kernels; return what it measured."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        command = [sys.executable, "-m", "benchmarks", *sys.argv[1:], "--output", str(path)]
        subprocess.run(command, check=True, env=os.environ | {OVERRIDE: "avx2"})
        return results_file.read(path)[1]


if __name__ == "__main__":
    sys.exit(main())
