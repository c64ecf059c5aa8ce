"""The monitor and torch.compile: the op is part of the graph, or its absence is said."""

from __future__ import annotations

import copy

import pytest
import torch

from initstats.monitoring import Monitor
from monitored import Kept, batch, small_model

CLOSE = 1e-5


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's inductor imports them
@pytest.mark.parametrize(
    ("backend", "fullgraph"), [("aot_eager", True), ("aot_eager", False), ("inductor", True)]
)
def test_a_compiled_model_records_inside_the_graph(backend: str, fullgraph: bool) -> None:
    model = small_model()
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Kept()
    torch._dynamo.reset()
    with Monitor(model, optimizer=optimizer, every=2, sinks=[kept]) as monitor:
        compiled = torch.compile(model, backend=backend, fullgraph=fullgraph)
        for i in range(5):
            optimizer.zero_grad()
            compiled(batch(i)).square().mean().backward()
            optimizer.step()
            monitor.step()
    assert [row.step for row in kept.rows] == [1, 3, 5]
    expected = plain[0](batch(0))
    for row in kept.rows:
        assert row.missing == {}
        assert row.tables["activations"]["0"].count == 5 * 16
    assert kept.rows[0].tables["activations"]["0"].std == pytest.approx(
        expected.std().item(), rel=CLOSE
    )


def test_the_names_of_a_compiled_wrapper_are_those_of_the_model() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(small_model(), backend="aot_eager")
    kept = Kept()
    with Monitor(compiled, every=1, sinks=[kept]) as monitor:
        compiled(batch(0)).sum().backward()
        monitor.step()
    tables = kept.rows[0].tables
    assert list(tables["activations"]) == ["0", "1", "2"]
    assert list(tables["weights"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_monitor_attached_after_compilation_says_that_it_sees_nothing() -> None:
    torch._dynamo.reset()
    model = small_model()
    compiled = torch.compile(model, backend="aot_eager")
    compiled(batch(0)).sum().backward()
    kept = Kept()
    with Monitor(compiled, every=1, watch=("activations",), sinks=[kept]) as monitor:
        compiled(batch(0)).sum().backward()
        with pytest.warns(UserWarning, match="expected the forward pass to run hooks, got none"):
            monitor.step()
    assert set(kept.rows[0].missing["activations"]) == {"0", "1", "2"}
