"""Scaled fills of many tensors: the bits of one call per tensor, with one launch for all."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import initstats

CASES: list[tuple[str, dict[str, Any]]] = [
    ("xavier_uniform_", {"gain": 2.0}),
    ("xavier_normal_", {"packed": 2}),
    ("kaiming_uniform_", {"a": 5**0.5}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "gelu"}),
    ("kaiming_normal_", {"transposed": True}),
    ("variance_scaling_", {"scale": 2.0, "mode": "fan_avg", "distribution": "truncated_normal"}),
    ("variance_scaling_", {"distribution": "uniform", "groups": 2}),
]


def weights(device: torch.device) -> list[torch.Tensor]:
    return [
        torch.zeros(32, 16, device=device),
        torch.zeros(8, 4, 3, 3, dtype=torch.bfloat16, device=device),
        torch.zeros(10, 6, dtype=torch.float64, device=device).t().contiguous().t(),
        torch.zeros(2, 2, dtype=torch.float16, device=device),
    ]


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_bits_are_those_of_one_call_per_tensor(
    name: str, arguments: dict[str, Any], device: torch.device
) -> None:
    single, many = getattr(initstats, name), getattr(initstats, f"foreach_{name}")
    tensors = weights(device)
    names = [str(i) for i in range(len(tensors))]
    many(iter(tensors), seed=3, names=names, **arguments)
    for tensor, key in zip(tensors, names, strict=True):
        assert bool(tensor.any())
        expected = single(torch.zeros_like(tensor), seed=3, name=key, **arguments)
        assert torch.equal(tensor, expected)
    torch.manual_seed(4)
    many(tensors, **arguments)
    torch.manual_seed(4)
    for tensor in tensors:
        assert torch.equal(tensor, single(torch.zeros_like(tensor), **arguments))


def test_gains_may_be_one_per_tensor(device: torch.device) -> None:
    tensors = [torch.zeros(8, 8, device=device) for _ in range(3)]
    initstats.foreach_xavier_uniform_(tensors, [1.0, 2.0, 0.0], seed=1, names=["a", "a", "a"])
    assert torch.equal(tensors[1], 2 * tensors[0])
    assert not tensors[2].any()


def test_lecun_is_variance_scaling(device: torch.device) -> None:
    x = torch.zeros(8, 8, device=device)
    initstats.foreach_variance_scaling_([x], 1.0, "fan_in", "truncated_normal", seed=1)
    assert torch.equal(x, initstats.lecun_normal_(torch.zeros_like(x), seed=1))


def test_empty_tensors_warn_and_keep_their_place(device: torch.device) -> None:
    x = torch.zeros(4, 4, device=device)
    with pytest.warns(UserWarning, match="Initializing zero-element tensors is a no-op") as caught:
        initstats.foreach_kaiming_normal_([torch.zeros(0, 3), x], seed=1, names=["e", "x"])
    assert [warning.filename for warning in caught] == [__file__]
    assert torch.equal(x, initstats.kaiming_normal_(torch.zeros_like(x), seed=1, name="x"))
    for name in ("xavier_normal_", "kaiming_uniform_", "variance_scaling_"):
        getattr(initstats, f"foreach_{name}")([])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: initstats.foreach_xavier_normal_([x, x.clone()], [1.0]),
            ValueError,
            "foreach_xavier_normal_: expected one gain per tensor, 2, got 1",
        ),
        (
            lambda x: initstats.foreach_xavier_uniform_([x], -1.0),
            ValueError,
            "foreach_xavier_uniform_: expected gain to be finite and >= 0, got gain=-1.0",
        ),
        (
            lambda x: initstats.foreach_kaiming_normal_([x, x[0]]),
            ValueError,
            "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions",
        ),
        (
            lambda x: initstats.foreach_kaiming_uniform_([x], mode="fan"),  # type: ignore[arg-type]
            ValueError,
            "Mode fan not supported",
        ),
        (
            lambda x: initstats.foreach_variance_scaling_([x], -1.0),
            ValueError,
            "foreach_variance_scaling_: expected scale to be finite and >= 0, got scale=-1",
        ),
        (
            lambda x: initstats.foreach_variance_scaling_([x], distribution="cauchy"),  # type: ignore[arg-type]
            ValueError,
            "expected distribution to be one of normal, truncated_normal, uniform",
        ),
        (lambda x: initstats.foreach_kaiming_normal_([x, x]), ValueError, "every tensor once"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(  # type: ignore[no-untyped-def]
    call, error, message, device: torch.device
) -> None:
    x = torch.zeros(3, 4, device=device)
    with pytest.raises(error, match=message):
        call(x)
    assert not x.any()
