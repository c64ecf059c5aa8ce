"""Results on disk: one JSON file per run, with the machine that it ran on."""

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

SCHEMA = "initstats.bench/1"
RESULTS = Path(__file__).resolve().parent / "results"


def machine(device: torch.device) -> dict[str, Any]:
    """Describe where and with what the measurements are made."""
    found: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),  # other work makes all numbers worse
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


def default_path(where: dict[str, Any]) -> Path:
    """Return a name such as results/intel-xeon-platinum-8488c-2-threads-2026-01-31.json."""
    name = where.get("gpu") or f"{where['cpu']} {where['threads']} threads"
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((R|TM)\)|CPU|@.*GHz", "", name).lower()).strip("-")
    return RESULTS / f"{slug}-{dt.date.today().isoformat()}.json"


def write(path: Path, where: dict[str, Any], command: str, measurements: list[Measurement]) -> None:
    """Write one run."""
    results = [dataclasses.asdict(measurement) for measurement in measurements]
    document = {"schema": SCHEMA, "machine": where, "command": command, "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def read(path: Path) -> tuple[dict[str, Any], list[Measurement]]:
    """Read one run: the machine and the measurements.

    Raises:
        ValueError: If the file holds something else.
    """
    document = json.loads(path.read_text())
    if document.get("schema") != SCHEMA:
        raise ValueError(f"{path}: expected schema {SCHEMA}, got {document.get('schema')}")
    return document["machine"], [Measurement(**result) for result in document["results"]]
