"""The rules on low precision: updates that round away, gradients below the smallest number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from initstats.auditing import AuditReport, AuditRule, LostUpdate, Underflow, audit
from judged_models import images, mlp, only, silent


def report(
    dtype: torch.dtype, *, rate: float = 1e-3, scale: float = 1.0, steps: int = 1
) -> AuditReport:
    x, y = images()

    def loss(out: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(out.float(), target) * scale

    def optimizer(parameters: list[nn.Parameter]) -> Any:
        return torch.optim.SGD(parameters, rate)

    model = mlp(2, nn.ReLU, 1.4).to(dtype)
    return audit(model, (x.to(dtype), y), loss_fn=loss, optimizer=optimizer, steps=steps)


@pytest.mark.parametrize(("rate", "severity"), [(1e-6, "error"), (0.02, "warning")])
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_updates_that_round_away_are_found(dtype: torch.dtype, rate: float, severity: str) -> None:
    finding = only(LostUpdate(), report(dtype, rate=rate))
    assert finding.severity == severity
    assert finding.where in {"0.weight", "2.weight", "4.weight"}
    assert "spacing of bfloat16" in finding.cause


@pytest.mark.parametrize(
    ("dtype", "rate"), [(torch.float32, 1e-6), (torch.bfloat16, 30.0), (torch.float64, 1e-9)]
)
def test_updates_that_arrive_are_no_finding(dtype: torch.dtype, rate: float) -> None:
    assert silent(LostUpdate(), report(dtype, rate=rate))


@pytest.mark.parametrize(
    ("dtype", "scale", "severity"),
    [
        (torch.float16, 1e-4, "error"),
        (torch.float16, 0.02, "warning"),
        (torch.bfloat16, 1e-37, "error"),
    ],
)
def test_gradients_below_the_smallest_number_of_their_type_are_found(
    dtype: torch.dtype, scale: float, severity: str
) -> None:
    finding = only(Underflow(), report(dtype, scale=scale))
    assert finding.severity == severity
    assert finding.value > finding.threshold


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float16, 1024.0), (torch.bfloat16, 1.0), (torch.bfloat16, 1e-4), (torch.float32, 1.0)],
)
def test_gradients_that_fit_are_no_finding(dtype: torch.dtype, scale: float) -> None:
    assert silent(Underflow(), report(dtype, scale=scale))


def test_what_float16_would_lose_is_a_hint() -> None:
    finding = only(Underflow(), report(torch.float32, scale=1e-6))
    assert finding.severity == "info"
    assert "would round to 0 in float16" in finding.cause


def changed() -> list[tuple[AuditRule, Callable[[], AuditReport]]]:
    return [
        (LostUpdate(share=-0.1), lambda: report(torch.bfloat16, rate=30.0)),
        (Underflow(share=-0.1), lambda: report(torch.float16, scale=1024.0)),
        (Underflow(would=-0.1), lambda: report(torch.float32)),
    ]


@pytest.mark.parametrize(("rule", "make"), changed())
def test_thresholds_can_be_changed(rule: AuditRule, make: Callable[[], AuditReport]) -> None:
    made = make()
    assert silent(type(rule)(), made)
    assert only(rule, made).rule == rule.id


@pytest.mark.parametrize(
    "rule", [LostUpdate(severe=1.0), Underflow(severe=1.0)], ids=["lost-update", "underflow"]
)
def test_what_is_an_error_can_be_changed(rule: AuditRule) -> None:
    dtype = torch.bfloat16 if isinstance(rule, LostUpdate) else torch.float16
    made = report(dtype, rate=1e-6, scale=1e-4)
    assert only(type(rule)(), made).severity == "error"
    assert only(rule, made).severity == "warning"
