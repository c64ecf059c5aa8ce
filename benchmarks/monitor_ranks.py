"""Measures what the monitor costs the training threads of several ranks, in processor time.

python -m benchmarks.monitor_ranks trains a GPT of 24 million parameters on four processes over
gloo, each with one thread, with everything watched in every step, writes a results file and the
table of docs/guides/monitoring_ranks.md. Processor time of a thread says nothing about other
processes on the machine, of which there are more than cores: wall clocks would.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard

from benchmarks.bench_monitor import CONFIG, EVERYTHING, OwnTime
from benchmarks.results_file import RESULTS, machine
from initstats._ops import build_info
from initstats.auditing.demo import data
from initstats.auditing.demo.model import DemoGPT
from initstats.monitoring import Monitor
from initstats.sinks import JsonLines

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/guides/monitoring_ranks.md"
FOLDER = RESULTS / "ranks"
BLOCK = re.compile(r"<!-- measured: (\S+) -->\n(.*?)<!-- end of measured -->", re.DOTALL)
CAPABILITY = str(build_info()["cpu_capability"])
BAR = 0.03  # of the training thread's own processor time
WARM_UP = 2
CASES: dict[str, tuple[str, ...]] = {
    "DDP": EVERYTHING,
    "FSDP2": EVERYTHING,
    "DDP, moments too": (*EVERYTHING, "moments"),
}


def main() -> None:
    """Measure, and write file and table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitor_ranks", description=__doc__)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="measured, after two to warm up")
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument("--output", type=Path, help="the results file; default: by date")
    arguments = parser.parse_args()
    output = arguments.output or FOLDER / f"gloo-{arguments.ranks}-{dt.date.today()}.json"
    found: dict[str, Any] = {
        "machine": machine(torch.device("cpu")) | {"threads": 1, "capability": CAPABILITY},
        "ranks": arguments.ranks,
        "tokens": CONFIG.batch * CONFIG.context,
        "cases": {},
    }
    for case in CASES:
        if arguments.match in case:
            found["cases"][case] = measured(case, arguments.ranks, arguments.steps)
            print(row_of(case, found["cases"][case]), flush=True)
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")
    if output.is_relative_to(ROOT) and not arguments.match:
        name = output.relative_to(ROOT).as_posix()
        block = f"<!-- measured: {name} -->\n{table(output)}<!-- end of measured -->"
        PAGE.write_text(BLOCK.sub(block, PAGE.read_text()))


def measured(case: str, ranks: int, steps: int) -> list[dict[str, Any]]:
    """Return what each rank measured."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (case, ranks, steps, folder)
        mp.spawn(be, arguments, nprocs=ranks)  # type: ignore[attr-defined, no-untyped-call]
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(ranks)]


def be(rank: int, case: str, ranks: int, steps: int, folder: str) -> None:
    """Be one rank: train, and write seconds of processor time per step."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", ranks)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    torch.manual_seed(0)
    gpt = DemoGPT(CONFIG)
    for parameter in gpt.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
    net: nn.Module = gpt
    if case.startswith("FSDP2"):
        for layer in (*gpt.h, gpt):
            fully_shard(layer)
    else:
        net = nn.parallel.DistributedDataParallel(gpt)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    tokens, targets = data.batch(CONFIG.vocabulary, CONFIG.context, CONFIG.batch, seed=rank)
    monitor = Monitor(
        net,
        optimizer=optimizer,
        every=1,
        watch=CASES[case],
        sinks=[JsonLines(Path(folder) / "run.jsonl")],
        group=dist.group.WORLD,
    )
    thread, own, others = [], [], []
    with OwnTime(monitor, time.thread_time) as clock, monitor:
        for _ in range(WARM_UP + steps):
            begin = time.thread_time(), clock.in_training(), clock.in_threads()
            optimizer.zero_grad()
            net(tokens, targets)[1].backward()
            optimizer.step()
            monitor.step()
            thread.append(time.thread_time() - begin[0])
            own.append(clock.in_training() - begin[1])
            others.append(clock.in_threads() - begin[2])
    seconds = {"thread": thread, "monitor": own, "other_threads": others}
    text = json.dumps({name: values[WARM_UP:] for name, values in seconds.items()})
    (Path(folder) / f"{rank}.json").write_text(text)
    dist.barrier()
    dist.destroy_process_group()


def shares(ranks: list[dict[str, Any]], what: str = "monitor") -> list[float]:
    """Return for each rank the median share of the training thread's own processor time."""
    return [
        statistics.median(
            ours / (whole - monitor)
            for ours, whole, monitor in zip(
                rank[what], rank["thread"], rank["monitor"], strict=True
            )
        )
        for rank in ranks
    ]


def row_of(case: str, ranks: list[dict[str, Any]]) -> str:
    """Return one row of the table."""
    ours, others = shares(ranks), shares(ranks, "other_threads")
    alone = [
        statistics.median(w - m for w, m in zip(r["thread"], r["monitor"], strict=True))
        for r in ranks
    ]
    return (
        f"| {case} | {statistics.median(alone):.2f} s | {statistics.median(ours):.2%} |"
        f" {max(ours):.2%} | {others[0]:.2%} | {max(others[1:]):.2%} |"
    )


def table(path: Path) -> str:
    """Return the table of one results file as Markdown."""
    found = json.loads(path.read_text())
    where = found["machine"]
    title = (
        f"{found['ranks']} processes over gloo, each with {where['threads']} thread, on"
        f" {where['cores']} cores of {where['cpu']} ({where['capability']}), torch"
        f" {where['torch']}; {found['tokens']} tokens per rank and step."
    )
    heads = (
        "everything, every step",
        "training thread alone",
        "the monitor in it",
        "at most, any rank",
        "its other threads, rank that writes",
        "other ranks",
    )
    rows = [row_of(case, ranks) for case, ranks in found["cases"].items()]
    lines = [title, "", f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * 5, *rows, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
