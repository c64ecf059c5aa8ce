"""One rank of 1,024 with a Llama of 70 or 405 billion parameters, on a fake process group.

As a program, prints what it measured: `python tests/support/models_at_scale.py 405b 1023`.
"""

from __future__ import annotations

import json
import math
import random
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.testing._internal.distributed.fake_pg import FakeStore

import initstats
from initstats import Box
from initstats.sharding import local_boxes, local_tensor, runs_of
from sharded import coordinates

DATA_PARALLEL, TENSOR_PARALLEL = 128, 8
STD = 0.02
SAMPLED = 64  # parameters, one element of each
# Of meta-llama/Llama-3.1-70B and -405B.
SIZES = {
    "70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "405b": {
        "hidden_size": 16384,
        "intermediate_size": 53248,
        "num_hidden_layers": 126,
        "num_attention_heads": 128,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
LAYER = {
    "self_attn.q_proj": ColwiseParallel(),
    "self_attn.k_proj": ColwiseParallel(),
    "self_attn.v_proj": ColwiseParallel(),
    "self_attn.o_proj": RowwiseParallel(),
    "mlp.gate_proj": ColwiseParallel(),
    "mlp.up_proj": ColwiseParallel(),
    "mlp.down_proj": RowwiseParallel(),
}
TABLES = {"model.embed_tokens": RowwiseParallel(), "lm_head": ColwiseParallel()}


@contextmanager
def sharded_model(size: str, rank: int) -> Iterator[nn.Module]:
    """Yield the model on meta, tensor parallel within a node and FSDP2 over nodes, for one rank."""
    from transformers import LlamaConfig, LlamaForCausalLM

    world = DATA_PARALLEL * TENSOR_PARALLEL
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        with torch.device("meta"):
            model = LlamaForCausalLM(LlamaConfig(**SIZES[size])).to(torch.bfloat16)
        shape, names = (DATA_PARALLEL, TENSOR_PARALLEL), ("dp", "tp")
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        for layer in model.model.layers:
            parallelize_module(layer, mesh["tp"], LAYER)
            fully_shard(layer, mesh=mesh["dp"])
        parallelize_module(model, mesh["tp"], TABLES)
        yield fully_shard(model, mesh=mesh["dp"])
    finally:
        dist.destroy_process_group()


def peak_bytes() -> int:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(size: str, rank: int) -> dict[str, float]:
    """Fill one rank's shards and check elements; return counts, bytes and seconds."""
    torch.set_num_threads(1)
    with sharded_model(size, rank) as model:
        names = [name for name, _ in model.named_parameters()]
        total = sum(parameter.numel() for parameter in model.parameters())
        model.to_empty(device="cpu")
        shards: list[DTensor] = []
        for parameter in model.parameters():
            assert isinstance(parameter, DTensor)
            local_tensor(parameter).zero_()  # so that its memory is there before the fill
            shards.append(parameter)
        own = sum(local_tensor(x).nbytes for x in shards)
        start = time.perf_counter()
        pieces = sum(len(local_boxes("scale", x)) for x in shards)
        mapped = time.perf_counter()
        before = peak_bytes()
        initstats.foreach_normal_(shards, 0.0, STD, seed=0, names=names)
        filled = time.perf_counter()
        check_elements(shards, names, random.Random(rank))
        return {
            "parameters": total,
            "tensors": len(shards),
            "pieces": pieces,
            "local_bytes": own,
            "extra_bytes": peak_bytes() - before,
            "mapping_seconds": mapped - start,
            "fill_seconds": filled - mapped,
        }


def check_elements(shards: list[DTensor], names: list[str], rng: random.Random) -> None:
    """Compare elements with fills of one element, which know its place in the whole alone."""
    checked = 0
    for i in rng.sample(range(len(shards)), len(shards)):
        pieces = local_boxes("scale", shards[i])
        if not pieces or checked == SAMPLED:
            continue
        slices, box = rng.choice(pieces)
        view = local_tensor(shards[i])[slices]
        index = [rng.randrange(n) for n in view.shape]
        place = tuple(o + at for o, at in zip(box.offset, index, strict=True))
        one = torch.empty((1,) * view.dim(), dtype=view.dtype)
        initstats.normal_(one, 0.0, STD, seed=0, name=names[i], box=Box(place, box.size))
        assert view[tuple(index)] == one.flatten()[0], (names[i], place)
        checked += 1
    assert checked == min(SAMPLED, len(shards))


def partitions() -> int:
    """Return how many kinds of tensors the 70B model has; all ranks together cover each once."""
    with sharded_model("70b", 0) as model:
        kinds = {
            (tuple(x.shape), tuple(x.device_mesh.shape), x.placements)
            for x in model.parameters()
            if isinstance(x, DTensor)
        }
        for shape, mesh, placements in kinds:
            owned = {runs_of(shape, mesh, at, placements) for at in coordinates(mesh)}
            elements = sum(math.prod(sum(n for _, n in d) for d in runs) for runs in owned)
            assert elements == math.prod(shape), (shape, placements)
        return len(kinds)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
