"""The smoke test for a GPU launches every kernel; shown with the kernels executed on the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cuda_on_cpu.toolkit import REPOSITORY

KERNEL = re.compile(
    r"^([0-9a-f]+) t (_ZN9initstats4cuda12_GLOBAL__N_1\d+\w*_kernel[IE]\w*)$", re.MULTILINE
)
RUN = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("initstats._C", sys.argv[1])
sys.modules["initstats._C"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["initstats._C"])
sys.path.insert(0, "tests/gpu")
import smoke
smoke.DEVICE, smoke.SIZES = "cpu", smoke.SIZES[:-1]
smoke.everything()
"""


@pytest.mark.backends("cuda-on-cpu")
@pytest.mark.long
def test_the_smoke_test_for_a_gpu_launches_every_kernel(tmp_path: Path) -> None:
    module = sys.modules["initstats._C"].__file__
    assert module is not None
    launched = tmp_path / "launched"
    env = os.environ | {
        "INITSTATS_CUDA_ON_CPU_LAUNCHED": str(launched),
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-W", "ignore", "-c", RUN, module]
    subprocess.run(command, cwd=REPOSITORY, env=env, check=True, timeout=300)
    symbols = subprocess.run(["nm", module], capture_output=True, text=True, check=True).stdout
    kernels = {int(address, 16): name for address, name in KERNEL.findall(symbols)}
    assert len(kernels) > 70
    missing = kernels.keys() - {int(line, 16) for line in launched.read_text().split()}
    assert not missing, [kernels[address] for address in missing]
