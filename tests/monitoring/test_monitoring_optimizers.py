"""The monitor beside several optimizers, and optimizers whose groups change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
