"""Run checks on several real processes over gloo: one start for all checks of a file."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Check = Callable[[], None]
LIVING: dict[Check, tuple[int, ...]] = {}  # ranks that come to the end of a check that ends others


def run_checks(
    checks: Sequence[Check], ranks: int = 4, seconds: float = 240.0
) -> dict[str, list[str]]:
    """Run checks in order, on as many processes as there are ranks, and stop at the first failure.

    Args:
        checks: Functions of a module that the processes can import, such as one of tests/support.
        ranks: Processes, in one gloo group; each has one thread.
        seconds: After so long whatever still runs is killed.

    Returns:
        For each check what went wrong, one text per rank that it did; empty where it passed on all.
    """
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_be, args=(rank, ranks, folder, tuple(checks)), daemon=True)
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        until = time.monotonic() + seconds
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
        return {
            check.__name__: _told(Path(folder), check.__name__, LIVING.get(check, range(ranks)))
            for check in checks
        }


def _told(folder: Path, check: str, ranks: Iterable[int]) -> list[str]:
    wrong = []
    for rank in ranks:
        file = folder / f"{check}.{rank}"
        text = (
            file.read_text() if file.exists() else "did not end, or did not begin after a failure"
        )
        if text:
            wrong.append(f"[rank {rank}] {text}")
    return wrong


def _failure(check: Check) -> str:
    """Run a check, and return what went wrong."""
    try:
        check()
    except BaseException:  # noqa: BLE001  # whatever it is, it is told
        return traceback.format_exc()[-3000:]
    return ""


def _be(rank: int, ranks: int, folder: str, checks: Sequence[Check]) -> None:
    """Be one rank."""
    torch.set_num_threads(1)
    os.environ.update(  # as torchrun
        RANK=str(rank),
        WORLD_SIZE=str(ranks),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(ranks),
        MASTER_ADDR="127.0.0.1",
    )
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(f"{folder}/store", ranks),
        rank=rank,
        world_size=ranks,
        timeout=dt.timedelta(seconds=30),
    )
    for check in checks:
        text = _failure(check)
        (Path(folder) / f"{check.__name__}.{rank}").write_text(text)
        if text:
            break
    os._exit(0)  # the others may have gone: no rank waits for them
