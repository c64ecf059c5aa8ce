"""One rank of 1,024 fills its shards of a Llama with 70 billion parameters, in their memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import models_at_scale

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests/support/models_at_scale.py"


@pytest.mark.long
def test_the_last_rank_of_1024_fills_its_part_of_70_billion_parameters() -> None:
    # A process of its own: the peak of memory is a process's.
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "70b", "1023"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parameters"] == 70_553_706_496
    assert found["extra_bytes"] <= 0.05 * found["local_bytes"]


def test_the_shards_of_1024_ranks_cover_every_kind_of_tensor_once() -> None:
    assert models_at_scale.partitions() == 7
