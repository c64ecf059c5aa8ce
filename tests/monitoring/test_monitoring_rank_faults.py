"""Faults on four processes; what each rank checks is in tests/support/fault_ranks.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fault_ranks
from gloo_ranks import Check, run_checks
from initstats.sinks.jsonl import read_rows


@pytest.fixture(scope="module")
def wrong() -> dict[str, list[str]]:
    """What went wrong in each check, by rank."""
    return run_checks(fault_ranks.CHECKS, seconds=150.0 + 2 * fault_ranks.STOPPED)


@pytest.mark.long
@pytest.mark.parametrize("check", fault_ranks.CHECKS, ids=lambda check: check.__name__)
def test_on_every_rank(check: Check, wrong: dict[str, list[str]]) -> None:
    assert not wrong[check.__name__], "\n".join(wrong[check.__name__])


@pytest.mark.long
def test_a_group_that_is_destroyed_before_the_monitor_closes_hangs_nobody() -> None:
    check = fault_ranks.check_a_group_that_is_destroyed_before_the_monitor_closes_hangs_nobody
    wrong = run_checks([check])
    assert not wrong[check.__name__], "\n".join(wrong[check.__name__])


TRAIN = """
import os, sys, time
import torch, torch.distributed as dist
import initstats

torch.set_num_threads(1)
begun = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
# A store per attempt: in that of torchrun gloo may meet addresses of the attempt before.
store = dist.FileStore(f"{sys.argv[1]}.store{begun}", 2)
dist.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=2)
torch.manual_seed(0)
net = torch.nn.Linear(4, 3)
sink = initstats.sinks.JsonLines(sys.argv[1])
first = 4 if begun else 1  # the checkpoint is of step 3
with initstats.Monitor(
    net, every=1, first_step=first, watch=("weights",), sinks=[sink], group=dist.group.WORLD
) as monitor:
    for step in range(first, 7):
        if step == 5 and not begun:
            time.sleep(2.0)  # the rows so far are written
            if dist.get_rank() == 1:
                os._exit(3)
            time.sleep(60.0)
        monitor.step()
dist.barrier()
"""


@pytest.mark.long
def test_a_run_that_is_restarted_has_every_row_once_and_counts_its_restarts(tmp_path: Path) -> None:
    script, rows = tmp_path / "train.py", tmp_path / "run.jsonl"
    script.write_text(TRAIN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "--max-restarts=1", str(script), str(rows)]
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-9000:]
    found = [row for row in read_rows(rows) if row.ranks is not None]
    assert [row.step for row in found] == [1, 2, 3, 4, 5, 6]
    ranks = [row.ranks for row in found if row.ranks is not None]
    assert [each.restarts for each in ranks] == [0, 0, 0, 1, 1, 1]
    assert len({each.run for each in ranks}) == 1
    assert {each.world for each in ranks} == {2}
