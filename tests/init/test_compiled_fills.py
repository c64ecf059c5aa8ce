"""Fills inside torch.compile(fullgraph=True): the bits of eager ones, and new ones in every run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

import initstats
from initstats.init._distributions import DISTRIBUTIONS

FILLS: dict[str, Callable[[torch.Tensor], object]] = {
    family.name: partial(
        lambda fill, numbers, t: fill(t, *numbers),
        getattr(initstats, family.name),
        next(iter(family.examples.values())),
    )
    for family in DISTRIBUTIONS
}
FILLS |= {
    "integers": lambda t: initstats.uniform_(t, -1, 2),
    "keyword": lambda t: initstats.trunc_normal_(t, std=0.02),
    "xavier_uniform": lambda t: initstats.xavier_uniform_(t, gain=2.0),
    "kaiming_normal": lambda t: initstats.kaiming_normal_(t, nonlinearity="relu"),
    "kaiming_uniform": lambda t: initstats.kaiming_uniform_(t, nonlinearity="gelu"),
    "lecun_normal": initstats.lecun_normal_,
    "truncated_normal": lambda t: initstats.truncated_normal_(t, 0.1, 0.02),
    "sparse": lambda t: initstats.sparse_(t, 0.5),
    "foreach": lambda t: initstats.foreach_normal_([t, t * 2], [0.0, 1.0], 3.0),
    "foreach_xavier": lambda t: initstats.foreach_xavier_normal_([t], 2.0),
    "orthogonal": lambda t: initstats.orthogonal_(t, 2.0),
    "orthogonal_list": lambda t: initstats.orthogonal_([t, t * 2], [2.0, 1.0]),
    "orthogonal_batch": lambda t: initstats.orthogonal_(t.view(2, 6, 10), batch_dims=1),
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("name", FILLS)
def test_compiled_fill_has_the_bits_of_the_eager_one_and_new_ones_in_every_run(name: str) -> None:
    fill = FILLS[name]

    def function(t: torch.Tensor) -> torch.Tensor:
        fill(t)
        return t + 1

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x, y, again = (torch.zeros(12, 10) for _ in range(3))
    torch.manual_seed(1)
    function(x)
    torch.manual_seed(1)
    assert torch.equal(compiled(y), y + 1)
    assert torch.equal(x, y)
    compiled(again)
    assert not torch.equal(again, y)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_equal_calls_on_equal_tensors_are_not_merged(backend: str) -> None:
    def function() -> tuple[torch.Tensor, torch.Tensor]:
        x, y = torch.zeros(64), torch.zeros(64)
        initstats.normal_(x)
        initstats.normal_(y)
        return x, y

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    torch.manual_seed(2)
    expected = function()
    torch.manual_seed(2)
    first, second = compiled(), compiled()
    assert [torch.equal(a, b) for a, b in zip(first, expected, strict=True)] == [True, True]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("seed", [0, -1, 2**64 - 1])
@pytest.mark.parametrize("name", [None, "", "layer.weight"])
def test_seeds_and_names_are_those_of_eager_fills(seed: int, name: str | None) -> None:
    def function(t: torch.Tensor) -> torch.Tensor:
        return initstats.normal_(t, seed=seed, name=name)

    x = torch.zeros(40)
    state = torch.get_rng_state()
    torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(x, function(torch.zeros(40)))
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_flow_around_a_fill() -> None:
    def function(w: torch.Tensor) -> torch.Tensor:
        noise = initstats.normal_(torch.empty_like(w), seed=1)
        return (w * noise).sum()

    w = torch.ones(8, requires_grad=True)
    torch.compile(function, fullgraph=True, backend="aot_eager")(w).backward()
    assert w.grad is not None
    assert torch.equal(w.grad, initstats.normal_(torch.empty(8), seed=1))


def test_bad_values_are_refused_when_the_graph_runs() -> None:
    def function(t: torch.Tensor) -> torch.Tensor:
        return initstats.normal_(t, 0.0, -1.0)

    x = torch.zeros(4)
    with pytest.raises(ValueError, match="normal_: expected std to be finite and >= 0"):
        torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    assert not x.any()


def test_a_generator_is_refused() -> None:
    generator = torch.Generator()

    def function(t: torch.Tensor) -> torch.Tensor:
        return initstats.normal_(t, generator=generator)

    with pytest.raises(Exception, match="expected no generator inside"):
        torch.compile(function, fullgraph=True, backend="eager")(torch.zeros(4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_op_of_graphs_passes_opcheck() -> None:
    op = torch.ops.initstats.fill_in_graph_.default
    tensors = [torch.zeros(5, 3), torch.zeros(3, 5).t()]
    arguments = ("normal_", "normal_", tensors, [0.0, 1.0, 2.0], [1, 2], "3", ["=a", ""])
    torch.library.opcheck(op, arguments)


def test_importing_the_package_does_not_import_the_compiler() -> None:
    code = "import sys, torch, initstats; assert 'torch._dynamo' not in sys.modules"
    root = str(Path(initstats.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": root})
