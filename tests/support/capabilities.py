"""Programs that run with the CPU kernels of one capability."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from initstats import _ops

ROOT = Path(__file__).resolve().parents[2]


def output_with_capability(code: str, capability: str, folder: Path) -> str:
    """Return what a program prints with the CPU kernels of one capability, or skip the test.

    The program starts in the folder of a test, so that it can import the test's own module.
    """
    if capability not in _ops.build_info()["cpu_capabilities"]:
        pytest.skip("not built for this processor")
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests/support")))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "INITSTATS_CPU_CAPABILITY": capability, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if "at most" in done.stderr:
        pytest.skip(f"this processor has no {capability}")
    assert done.returncode == 0, done.stderr
    return done.stdout
