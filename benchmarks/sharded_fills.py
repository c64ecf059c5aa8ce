"""Fills of DTensors against torch's own, on real ranks: time, and bits across meshes.

`python -m benchmarks.sharded_fills` runs four gloo processes; `--device cuda` one per GPU with
NCCL. It prints the table of docs/guides/sharded_fills.md and writes `benchmarks/results/sharded`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, zeros
from torch.distributed.tensor.placement_types import Placement

import initstats
from benchmarks.results_file import RESULTS, machine

LARGE, SMALL = (4096, 4096), (32, 8)
ROUNDS = 15
CASES: list[tuple[str, torch.dtype, tuple[int, ...]]] = [
    ("normal_", torch.float32, LARGE),
    ("uniform_", torch.float32, LARGE),
    ("trunc_normal_", torch.float32, LARGE),
    ("normal_", torch.bfloat16, LARGE),
    ("trunc_normal_", torch.bfloat16, LARGE),
    ("normal_", torch.float32, SMALL),
]


def layouts(ranks: int) -> list[tuple[tuple[int, ...], list[Placement]]]:
    """Return meshes and placements of one tensor: rows, columns, and both."""
    both = (2, ranks // 2) if ranks % 2 == 0 else (1, ranks)
    return [((ranks,), [Shard(0)]), ((ranks,), [Shard(1)]), (both, [Shard(0), Shard(1)])]


def fills(name: str) -> dict[str, Callable[[torch.Tensor], object]]:
    """Return the two functions that are compared."""
    ours: Any = getattr(initstats, name)
    theirs: Any = getattr(torch.nn.init, name)
    return {"initstats": lambda x: ours(x, seed=0, name="w"), "torch": theirs}


def sharded(
    shape: Sequence[int], dtype: torch.dtype, device: str, layout: tuple[Any, Any]
) -> torch.Tensor:
    """Return a DTensor of zeros."""
    mesh = init_device_mesh(device, layout[0])
    return zeros(*shape, dtype=dtype, device_mesh=mesh, placements=layout[1])


def times(case: tuple[str, torch.dtype, tuple[int, ...]], device: str) -> dict[str, float]:
    """Return the median milliseconds of each, the slowest rank's, measured in turns."""
    name, dtype, shape = case
    x = sharded(shape, dtype, device, layouts(dist.get_world_size())[0])
    found: dict[str, list[float]] = {"initstats": [], "torch": []}
    for measured in range(-2, ROUNDS):
        for which, fill in fills(name).items():
            dist.barrier()
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            fill(x)
            if device == "cuda":
                torch.cuda.synchronize()
            took = torch.tensor((time.perf_counter() - start) * 1e3, device=device)
            dist.all_reduce(took, dist.ReduceOp.MAX)
            if measured >= 0:
                found[which].append(float(took))
    return {which: statistics.median(each) for which, each in found.items()}


def equal_bits(case: tuple[str, torch.dtype, tuple[int, ...]], device: str) -> dict[str, bool]:
    """Tell of each whether all layouts give one tensor, from one seed."""
    name, dtype, shape = case
    found = {}
    for which, fill in fills(name).items():
        wholes = []
        for layout in layouts(dist.get_world_size()):
            x = sharded(shape, dtype, device, layout)
            torch.manual_seed(0)
            fill(x)
            wholes.append(x.full_tensor())  # type: ignore[attr-defined]
        found[which] = all(torch.equal(wholes[0], other) for other in wholes[1:])
    return found


def rank_of(rank: int, ranks: int, device: str, folder: str) -> None:
    """Be one rank; the first writes the results."""
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    store = dist.FileStore(f"{folder}/store", ranks)  # type: ignore[attr-defined]
    backend = "gloo" if device == "cpu" else "nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)
    warnings.simplefilter("ignore")  # of torch, that a CPU mesh has no random state of its own
    rows = []
    for case in CASES:
        name, dtype, shape = case
        rows.append(
            {
                "fill": name,
                "dtype": str(dtype).removeprefix("torch."),
                "shape": list(shape),
                "milliseconds": times(case, device),
                "equal_bits": equal_bits(case, device),
            }
        )
    if rank == 0:
        Path(folder, "rows.json").write_text(json.dumps(rows))
    dist.destroy_process_group()


def table(results: dict[str, Any]) -> str:
    """Return the table of the guide."""
    columns = ["fill", "dtype", "tensor", "initstats, `seed=`", "torch"]
    columns += ["one tensor on all meshes: initstats", "torch"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in results["rows"]:
        took, equal = row["milliseconds"], row["equal_bits"]
        cells = [f"{took[which]:.3g}" for which in ("initstats", "torch")]
        cells += ["yes" if equal[which] else "no" for which in ("initstats", "torch")]
        shape = " x ".join(map(str, row["shape"]))
        lines.append(f"| `{row['fill']}` | {row['dtype']} | {shape} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--ranks", type=int, default=None, help="default: 4, or one per GPU")
    options = parser.parse_args()
    device = options.device
    ranks = options.ranks or (4 if device == "cpu" else torch.cuda.device_count())
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank_of, (ranks, device, folder), nprocs=ranks)  # type: ignore[attr-defined, no-untyped-call]
        rows = json.loads(Path(folder, "rows.json").read_text())
    results = {
        "schema": "initstats.sharded/1",
        "machine": {**machine(torch.device(device)), "threads": 1},
        "ranks": ranks,
        "rounds": ROUNDS,
        "rows": rows,
    }
    path = RESULTS / f"sharded/{device}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
