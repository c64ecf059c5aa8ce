"""The training thread never waits: no op of the monitor reads a value back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from initstats.monitoring import Monitor
from monitored import Kept, batch, small_model, train

EVERYTHING = ("weights", "gradients", "activations", "inputs", "updates", "moments")
# What the monitor calls in a step of AdamW: none of these waits for a CUDA device. The histograms
# of a window are added by add_; g^2 / v is taken while it is read.
WITHOUT_SYNC = {
    "initstats.stats",
    "initstats.copy_stats_",
    "aten.detach",
    "aten.empty_like",
    "aten.add_",
    "aten._foreach_copy_",
    "aten.expand",
    "aten.slice",
    "initstats.square_ratio_stats",
}


STEP_COUNTS = len(list(small_model().parameters()))


class Trace(TorchDispatchMode):
    """Notes the ops of this thread, the reading of a number with the device it lies on."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func.overloadpacket)
        if name == "aten._local_scalar_dense":
            name += f" of {tuple(args[0].shape)}"
        self.names.append(name)
        return func(*args, **kwargs or {})


def ops_of_steps(*, monitored: bool) -> list[str]:
    """Return the ops of three steps of training with a monitor or without."""
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    monitor = Monitor(model, optimizer=optimizer, every=1, window=2, watch=EVERYTHING, sinks=[])
    monitor.attach()
    if not monitored:
        monitor.close()
    with Trace() as trace:
        train(model, optimizer, monitor, 3)
    monitor.close()
    return trace.names


def test_the_ops_of_a_measured_step_wait_for_nothing() -> None:
    left = ops_of_steps(monitored=False)
    mine = []
    for name in ops_of_steps(monitored=True):
        if name in left:
            left.remove(name)
        else:
            mine.append(name)
    assert left == []
    # The step counts of AdamW lie on the host, one a parameter and step; nothing else is read.
    read = [name for name in mine if name.startswith("aten._local_scalar_dense")]
    assert read == ["aten._local_scalar_dense of ()"] * (3 * STEP_COUNTS)
    assert set(mine) - set(read) <= WITHOUT_SYNC
    assert sum(name.rstrip("_").endswith("stats") for name in mine) == 7 * 3


@pytest.mark.backends("cuda")
def test_training_on_a_gpu_has_no_synchronisation() -> None:
    model = small_model().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    inputs = [batch(i).cuda() for i in range(20)]
    kept = Kept()
    with Monitor(model, optimizer=optimizer, every=1, window=3, sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 2, lambda i: inputs[i])  # the allocators fill
        torch.cuda.set_sync_debug_mode("error")
        try:
            train(model, optimizer, monitor, 18, lambda i: inputs[i])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [step for row in kept.rows for step in row.steps] == list(range(1, 21))


@pytest.mark.backends("cuda")
def test_weights_gradients_and_updates_of_a_replayed_graph_are_measured() -> None:
    model = small_model().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = batch(0).cuda()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model(x).square().mean().backward()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad(set_to_none=False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x).square().mean().backward()
    kept = Kept()
    watch = ("weights", "gradients", "updates")
    with Monitor(model, optimizer=optimizer, every=1, watch=watch, sinks=[kept]) as monitor:
        for _ in range(3):
            optimizer.zero_grad(set_to_none=False)
            graph.replay()
            optimizer.step()
            monitor.step()
    for row in kept.rows:
        assert row.missing == {}
        gradient, update = (row.tables[kind]["0.weight"].l2 for kind in ("gradients", "updates"))
        assert update == pytest.approx(0.1 * gradient, rel=1e-4)
