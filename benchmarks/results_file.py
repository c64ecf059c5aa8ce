"""Results on disk: the JSON of pytest-benchmark, with the machine that it ran on.

As a program it prints the name of the results file of this machine and this day.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import initstats
from benchmarks.harness import Measurement

SCHEMA = "initstats.bench/1"  # of files from before pytest-benchmark
RESULTS = Path(__file__).resolve().parent / "results"


def machine(device: torch.device) -> dict[str, Any]:
    """Describe where and with what the measurements are made."""
    found: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "torch": torch.__version__,
        "initstats": initstats.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def cpu_model() -> str:
    """Return the name that the processor gives itself."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = re.search(r"model name\s*:\s*(.+)", info.read_text())
        if names:
            return names[1].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def default_path(device: torch.device, threads: int) -> Path:
    """Return a name such as results/intel-xeon-platinum-8488c-2-threads-2026-01-31.json."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{cpu_model()} {threads} threads"
    )
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((R|TM)\)|CPU|@.*GHz", "", name).lower()).strip("-")
    return RESULTS / f"{slug}-{dt.date.today().isoformat()}.json"


def read(path: Path) -> tuple[dict[str, Any], list[Measurement]]:
    """Read one run: the machine and the measurements.

    Raises:
        ValueError: If the file holds something else.
    """
    document = json.loads(path.read_text())
    if document.get("schema") == SCHEMA:
        return document["machine"], [Measurement(**result) for result in document["results"]]
    try:
        found = [benchmark["extra_info"] for benchmark in document["benchmarks"]]
        names = [field.name for field in dataclasses.fields(Measurement)]
        measurements = [Measurement(**{name: info[name] for name in names}) for info in found]
    except KeyError as error:
        raise ValueError(f"{path}: expected results of the benchmarks, found no {error}") from None
    return document["machine_info"], measurements


if __name__ == "__main__":
    print(default_path(torch.device("cpu"), torch.get_num_threads()))
