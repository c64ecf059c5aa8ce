"""A model on four processes (FSDP2 × tensor parallel), with the bits of the model on one.

Each rank makes the model on the meta device, shards it, and fills its own shards without a message.
Then every parameter is gathered and compared with the model that one process makes.
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import Experiment
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import initstats
from initstats.auditing.demo.model import DemoConfig, DemoGPT

RANKS = 4


def build(config: DemoConfig) -> DemoGPT:
    """Return the model without memory."""
    with torch.device("meta"):
        return DemoGPT(config)


def rank_main(rank: int, store: str, config: DemoConfig, answers: mp.SimpleQueue) -> None:
    """Shard, fill, gather and compare, on one rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = build(config)
    for block in model.h:
        assert isinstance(block, nn.Module)
        plan = {"mlp.c_fc": ColwiseParallel(), "mlp.c_proj": RowwiseParallel()}
        parallelize_module(block, mesh["tensor"], plan)
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    begin = time.perf_counter()
    initstats.init_(model, "gpt2", seed=0, device="cpu")
    seconds = time.perf_counter() - begin
    whole = build(config)
    initstats.init_(whole, "gpt2", seed=0, device="cpu")
    equal, local = 0, 0
    expected = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        local += parameter.to_local().numel()
        equal += int(torch.equal(parameter.full_tensor(), expected[name]))
    answers.put((rank, equal, len(expected), local, seconds))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Start the ranks, and print what each of them has."""
    run = Experiment("sharded_model", "Does every rank fill its shards with the bits of the whole?")
    layers, width = run.choose((8, 512), (2, 64))
    config = DemoConfig(layers=layers, width=width, heads=4)
    # Forked, so that no rank imports torch again; this process has computed nothing yet.
    answers = mp.get_context("fork").SimpleQueue()
    store = run.out / "sharded_model.store"
    store.unlink(missing_ok=True)
    arguments = (str(store.resolve()), config, answers)
    mp.start_processes(rank_main, arguments, nprocs=RANKS, start_method="fork")  # type: ignore[no-untyped-call]
    store.unlink(missing_ok=True)
    rows = [
        {
            "rank": rank,
            "parameters equal to those of one process": f"{equal} of {count}",
            "elements of this rank": local,
            "seconds to fill": round(seconds, 2),
        }
        for rank, equal, count, local, seconds in sorted(answers.get() for _ in range(RANKS))
    ]

    def draw(axes) -> None:  # type: ignore[no-untyped-def]
        axes.bar([row["rank"] for row in rows], [row["elements of this rank"] for row in rows])
        axes.set(xlabel="rank", ylabel="elements on the rank")

    run.save(
        {"layers": layers, "width": width, "mesh": "2 × 2, FSDP2 × tensor parallel"}, rows, draw
    )


if __name__ == "__main__":
    main()
