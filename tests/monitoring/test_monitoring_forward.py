"""Forward passes that are no training, and transforms in which hooks stand aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import initstats
from initstats.monitoring import Monitor, Row
from monitored import Kept, batch, small_model, train

KINDS = ("activations", "inputs")
TRANSFORMED = "called under a transform of torch.func, forward-mode AD, torch.jit.trace or make_fx"


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("held_bytes", [0, 1 << 26])
def test_rollouts_without_gradients_do_not_count(
    without: Callable[[], Any], held_bytes: int
) -> None:
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(
        model, optimizer=optimizer, every=1, watch=KINDS, held_bytes=held_bytes, sinks=[kept]
    ) as monitor:
        for _ in range(2):
            with without():
                model(torch.randn(160, 8))
                model[0](torch.randn(160, 8))
            train(model, optimizer, monitor, 1)
    for row in kept.rows:
        for kind in KINDS:
            assert row.tables[kind]["2"].count == 5 * {"activations": 4, "inputs": 16}[kind]
            assert row.tables[kind]["0"].count == 5 * {"activations": 16, "inputs": 8}[kind]


class PartlyFrozen(nn.Module):
    """Runs a part without gradients, inside a training step."""

    def __init__(self, without: Callable[[], Any]) -> None:
        super().__init__()
        self.body, self.head, self.without = small_model(), nn.Linear(4, 2), without

    def forward(self, x: Tensor) -> Tensor:
        with self.without():
            y = self.body(x)
        result: Tensor = self.head(y.clone())
        return result


@pytest.mark.parametrize("held_bytes", [0, 1 << 26])
@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_a_part_that_runs_without_gradients_in_training_counts(
    without: Callable[[], Any], held_bytes: int
) -> None:
    model, kept = PartlyFrozen(without), Kept()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    with Monitor(
        model, optimizer=optimizer, every=1, held_bytes=held_bytes, window=2, sinks=[kept]
    ) as monitor:
        train(model, optimizer, monitor, 2)
    assert kept.rows[0].tables["activations"]["body.0"].count == 2 * 5 * 16


class Parts(nn.Module):
    """Is never called itself: training code calls its parts, as in a LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Reentrant()])


class Reentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_model()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.net, x.requires_grad_(), use_reentrant=True)
        return result


def test_reentrant_checkpoints_of_a_part_count_once() -> None:
    model, kept = Parts(), Kept()
    with Monitor(model, every=1, watch=KINDS, sinks=[kept]) as monitor:
        model.parts[0](batch(0)).sum().backward()
        with torch.no_grad():
            model.parts[0](batch(0))
        monitor.step()
    assert kept.rows[0].tables["activations"]["parts.0.net.0"].count == 5 * 16


def jvp(model: nn.Module, x: Tensor) -> None:
    torch.func.jvp(model, (x,), (x,))


def dual(model: nn.Module, x: Tensor) -> None:
    with forward_ad.dual_level():
        model(forward_ad.make_dual(x, torch.ones_like(x)))


def per_example(model: nn.Module, x: Tensor) -> None:
    weights = dict(model.named_parameters())

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(model, weights, (x,)).square().mean()
        return result

    torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, x: torch.vmap(model)(x),
        jvp,
        dual,
        per_example,
        torch.jit.trace,
    ],
    ids=["vmap", "jvp", "dual", "per example", "trace"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hooks_stand_aside_under_transforms(call: Callable[[nn.Module, Tensor], Any]) -> None:
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1, watch=KINDS, sinks=[kept]) as monitor:
        call(model, batch(0))
        monitor.step()
        call(model, batch(0))
        train(model, optimizer, monitor, 1)
    assert kept.rows[0].missing == {kind: dict.fromkeys("012", TRANSFORMED) for kind in KINDS}
    assert kept.rows[1].tables["activations"]["0"].count == 5 * 16


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_graph_holds_nothing_of_the_monitor(strict: bool) -> None:
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1, watch=KINDS, sinks=[kept]) as monitor:
        graph = torch.export.export(model, (batch(0),), strict=strict).graph
        train(model, optimizer, monitor, 1)
    assert not [node for node in graph.nodes if "initstats" in str(node.target)]
    assert kept.rows[0].tables["activations"]["0"].count == 5 * 16


def test_an_audit_inside_a_measured_step_is_not_recorded() -> None:
    def run(*, audited: bool) -> Row:
        model, kept = small_model(), Kept()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
            if audited:
                examples = torch.randn(7, 8), torch.randint(4, (7,))
                loss = torch.nn.functional.cross_entropy
                initstats.audit(model, examples, loss_fn=loss, optimizer=optimizer, steps=2)
            train(model, optimizer, monitor, 1)
        return kept.rows[0]

    plain, beside = run(audited=False), run(audited=True)
    assert plain.tables.keys() == beside.tables.keys()
    for kind, table in plain.tables.items():
        for name, record in table.items():
            assert record.to_dict() == beside.tables[kind][name].to_dict(), (kind, name)
    assert plain.gradient_norm == beside.gradient_norm


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_watched_model_can_be_scripted_and_is_watched_afterwards() -> None:
    model, kept = small_model(), Kept()
    create = torch.jit._recursive.create_script_module  # type: ignore[attr-defined]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        scripted = torch.jit.script(model)
        assert torch.equal(scripted(batch(0)), model(batch(0)))
        train(model, optimizer, monitor, 1)
    assert kept.rows[0].tables["activations"]["0"].count == 2 * 5 * 16  # the call above as well
    assert torch.jit._recursive.create_script_module is create  # type: ignore[attr-defined]
