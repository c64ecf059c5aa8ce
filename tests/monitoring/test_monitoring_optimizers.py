"""The monitor beside several optimizers, and optimizers whose groups change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from initstats.monitoring import Monitor
from monitored import Kept, batch, small_model, train

CLOSE = 1e-5
FIRST, LAST = ["0.weight", "0.bias"], ["2.weight", "2.bias"]


def two_optimizers(model: nn.Sequential) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    return (
        torch.optim.SGD(model[0].parameters(), lr=0.1),
        torch.optim.AdamW(model[2].parameters(), lr=0.01, weight_decay=0.0),
    )


def test_each_of_two_optimizers_has_its_own_gradients_and_all_updates_are_there() -> None:
    model = small_model()
    sgd, adam = two_optimizers(model)
    kept = Kept()
    watch = ("weights", "gradients", "updates", "moments")
    with Monitor(model, optimizer=[sgd, adam], every=1, watch=watch, sinks=[kept]) as monitor:
        model(batch(0)).square().mean().backward()
        first = model[0].weight.grad.norm().item()
        sgd.step()
        # As two networks that take turns: the gradients of the second one come later.
        model.zero_grad()
        model(batch(1)).square().mean().backward()
        second = model[2].weight.grad.norm().item()
        adam.step()
        model.zero_grad()
        monitor.step()
    (row,) = kept.rows
    gradients, updates = row.tables["gradients"], row.tables["updates"]
    assert set(gradients) == set(updates) == {*FIRST, *LAST}
    assert row.missing == {}
    assert gradients["0.weight"].l2 == pytest.approx(first, rel=CLOSE)
    assert gradients["2.weight"].l2 == pytest.approx(second, rel=CLOSE)
    assert gradients["0.weight"].count == model[0].weight.numel()
    assert updates["0.weight"].l2 == pytest.approx(0.1 * first, rel=CLOSE)
    assert updates["2.weight"].abs_max == pytest.approx(0.01, rel=1e-3)  # Adam's first step
    assert list(row.tables["exp_avg"]) == LAST
    total = sum(record.l2**2 for record in gradients.values()) ** 0.5
    assert row.gradient_norm.tolist() == pytest.approx([total])


def test_an_optimizer_that_did_not_step_is_said_and_the_other_one_is_there() -> None:
    model = small_model()
    sgd, adam = two_optimizers(model)
    kept = Kept()
    with Monitor(model, optimizer=(sgd, adam), every=1, sinks=[kept]) as monitor:
        model(batch(0)).square().mean().backward()
        adam.step()
        monitor.step()
        model.zero_grad()
        train(model, sgd, monitor, 1)
    first, second = kept.rows
    assert list(first.tables["updates"]) == LAST
    assert first.missing == {"updates": dict.fromkeys(FIRST, "the optimizer did not step")}
    assert set(first.tables["gradients"]) == {*FIRST, *LAST}
    assert list(second.tables["updates"]) == FIRST
    assert set(second.missing["updates"]) == set(LAST)


def test_two_steps_of_one_optimizer_measure_the_first() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Kept()
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        model(batch(0)).square().mean().backward()
        norm = model[0].weight.grad.norm().item()
        optimizer.step()
        optimizer.step()
        monitor.step()
    record = kept.rows[0].tables["gradients"]["0.weight"]
    assert (record.count, record.l2) == (8 * 16, pytest.approx(norm, rel=CLOSE))
    assert kept.rows[0].tables["updates"]["0.weight"].l2 == pytest.approx(0.1 * norm, rel=CLOSE)


class WritesGradients(torch.optim.SGD):
    """Overwrites the gradients in its update, as some optimizers do."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            torch._foreach_zero_([p.grad for p in group["params"]])
        return loss


def closure_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, norms: list[float]
) -> Callable[[], Tensor]:
    """Return a closure that notes the gradient norm of each of its calls."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(batch(seed)).square().mean() * 10.0**seed
        loss.backward()
        squares = [p.grad.double().square().sum() for p in model.parameters()]
        norms.append(torch.stack(squares).sum().sqrt().item())
        return loss

    return closure


@pytest.mark.parametrize("keyword", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=1e-3),
        lambda p: torch.optim.AdamW(p, lr=1e-3),
        lambda p: torch.optim.Rprop(p, lr=1e-3, foreach=True),
        lambda p: torch.optim.LBFGS(p, lr=1e-3, max_iter=4),
        lambda p: torch.optim.LBFGS(p, max_iter=3, line_search_fn="strong_wolfe"),
        lambda p: WritesGradients(p, lr=1e-3),
    ],
    ids=["SGD", "AdamW", "Rprop", "LBFGS", "LBFGS wolfe", "overwritten"],
)
def test_gradients_of_a_closure_are_those_of_its_last_call(
    make: Callable[[Any], torch.optim.Optimizer], keyword: bool
) -> None:
    model, kept = small_model(), Kept()
    optimizer = make(model.parameters())
    expected, losses = [], []
    with Monitor(model, optimizer=optimizer, every=2, sinks=[kept]) as monitor:
        for i in range(5):
            norms: list[float] = []
            closure = closure_of(model, optimizer, i, norms)
            before = model[0].weight.detach().clone()
            losses.append(optimizer.step(closure=closure) if keyword else optimizer.step(closure))
            monitor.step()
            if i % 2 == 0:
                expected.append((norms[-1], (model[0].weight.detach() - before).norm().item()))
    assert all(isinstance(loss, Tensor) for loss in losses)
    assert [row.step for row in kept.rows] == [1, 3, 5]
    for row, (norm, change) in zip(kept.rows, expected, strict=True):
        assert row.gradient_norm.tolist() == pytest.approx([norm], rel=CLOSE)
        record = row.tables["gradients"]["0.weight"]
        assert (record.count, record.histogram.total) == (8 * 16, 8 * 16)
        assert row.tables["updates"]["0.weight"].l2 == pytest.approx(change, rel=CLOSE)
        assert row.missing == {}


def test_closures_of_two_optimizers_and_of_a_second_step_measure_the_first_step_of_each() -> None:
    model, kept = small_model(), Kept()
    sgd, adam = two_optimizers(model)
    first, second, again = [], [], []
    with Monitor(model, optimizer=[sgd, adam], every=1, sinks=[kept]) as monitor:
        for norms, optimizer, seed in ((first, sgd, 0), (second, adam, 1), (again, sgd, 2)):

            def closure(seed: int = seed, norms: list[float] = norms) -> None:
                model.zero_grad()
                model(batch(seed)).square().mean().backward()
                norms += [model[0].weight.grad.norm().item(), model[2].weight.grad.norm().item()]

            optimizer.step(closure)
        monitor.step()
    gradients = kept.rows[0].tables["gradients"]
    assert {name: record.count for name, record in gradients.items()} == {
        name: p.numel() for name, p in model.named_parameters()
    }
    assert gradients["0.weight"].l2 == pytest.approx(first[0], rel=CLOSE)
    assert gradients["2.weight"].l2 == pytest.approx(second[1], rel=CLOSE)


class Breaks(torch.optim.SGD):
    """Raises after its closure has run."""

    def step(self, closure: Any = None) -> Any:
        if closure is not None:
            closure()
            raise FloatingPointError
        return super().step()


def test_a_step_that_raised_after_its_closure_leaves_nothing_behind() -> None:
    model, kept = small_model(), Kept()
    optimizer = Breaks(model.parameters(), lr=0.1)
    norms: list[float] = []
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        with pytest.raises(FloatingPointError):
            optimizer.step(closure_of(model, optimizer, 0, norms))
        monitor.step()
        closure_of(model, optimizer, 1, norms)()
        optimizer.step()
        monitor.step()
    assert [row.gradient_norm[0] for row in kept.rows] == pytest.approx(norms, rel=CLOSE)
    assert all(row.tables["gradients"]["0.weight"].count == 8 * 16 for row in kept.rows)


def test_parameter_groups_may_come_and_change() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    kept = Kept()
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 1)
        optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.5})
        train(model, optimizer, monitor, 1)
        optimizer.param_groups[1]["lr"] = 0.0
        train(model, optimizer, monitor, 1)
    sizes = [row.tables["updates"]["2.weight"].l2 for row in kept.rows]
    gradient = kept.rows[1].tables["gradients"]["2.weight"].l2
    assert sizes == [0.0, pytest.approx(0.5 * gradient, rel=CLOSE), 0.0]
    assert all(row.tables["updates"]["0.weight"].l2 > 0 for row in kept.rows)


def test_one_optimizer_given_twice_is_refused() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"initstats\.Monitor: expected different optimizers"):
        Monitor(model, optimizer=[optimizer, optimizer])


@pytest.mark.parametrize("unscaled", [False, True])
def test_gradients_of_a_fused_optimizer_under_a_scaler_are_unscaled(unscaled: bool) -> None:
    model, kept = small_model(), Kept()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loss = model(batch(0)).square().mean()
    true = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    watch = ("gradients", "moments")
    with Monitor(model, optimizer=optimizer, every=1, watch=watch, sinks=[kept]) as monitor:
        scaler.scale(loss).backward()
        if unscaled:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        monitor.step()
    norm = torch.nn.utils.get_total_norm(true).item()
    row = kept.rows[0]
    assert row.gradient_norm.tolist() == pytest.approx([norm], rel=CLOSE)
    record = row.tables["gradients"]["0.weight"]
    assert (record.l2, record.histogram.total) == (pytest.approx(true[0].norm().item()), 128)
    assert row.tables["square_gradient_ratio"]["0.weight"].mean == pytest.approx(1.0, rel=CLOSE)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_an_optimizer_that_did_not_step_shows_no_old_gradients(
    every: int, set_to_none: bool
) -> None:
    model, kept = small_model(), Kept()
    first, last = two_optimizers(model)
    with Monitor(model, optimizer=[first, last], every=every, sinks=[kept]) as monitor:
        for i in range(5):
            last.zero_grad(set_to_none=set_to_none)
            model[2](model[1](model[0](batch(i))).detach()).square().mean().backward()
            last.step()
            if i == 0:
                first.zero_grad(set_to_none=set_to_none)
                model(batch(i)).square().mean().backward()
                first.step()
            monitor.step()
    assert set(kept.rows[0].tables["gradients"]) == {*FIRST, *LAST}
    assert len(kept.rows) == len(range(0, 5, every))
    for row in kept.rows[1:]:
        gradients = row.tables["gradients"]
        assert list(gradients) == LAST
        why = "left by an earlier step: nothing was written to it in this one"
        assert row.missing["gradients"] == dict.fromkeys(FIRST, why)
        total = sum(record.l2**2 for record in gradients.values()) ** 0.5
        assert row.gradient_norm.tolist() == pytest.approx([total])


MOMENTS = ("exp_avg", "exp_avg_sq", "square_gradient_ratio")


def test_moments_that_no_optimizer_keeps_are_named() -> None:
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with Monitor(model, optimizer=optimizer, every=1, watch=("moments",), sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 1)
        monitor.step()
    lost = [*FIRST, *LAST]
    for row, why in zip(
        kept.rows,
        ("not in the state of the optimizer", "the optimizer did not step"),
        strict=True,
    ):
        assert row.missing == {kind: dict.fromkeys(lost, why) for kind in MOMENTS}


def test_a_moment_that_one_parameter_lacks_is_named() -> None:
    model, kept = small_model(), Kept()
    sgd, adam = two_optimizers(model)
    with Monitor(
        model, optimizer=[sgd, adam], every=1, watch=("moments",), sinks=[kept]
    ) as monitor:
        model(batch(0)).square().mean().backward()
        model[2].bias.grad = None
        sgd.step()
        adam.step()
        monitor.step()
    why = {"2.bias": "not in the state of the optimizer"}
    row = kept.rows[0]
    assert {kind: row.missing[kind] for kind in MOMENTS[:2]} == dict.fromkeys(MOMENTS[:2], why)
    assert list(row.tables["exp_avg"]) == ["2.weight"]
