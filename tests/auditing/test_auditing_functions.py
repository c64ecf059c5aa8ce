"""Functions, blocks and attention as the audit records them, against a direct computation."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from recorded_models import Calls, evidence, flows, normal

# --- functions


def test_functions_are_named_by_their_module_and_counted() -> None:
    model = Calls(lambda x: functional.gelu(torch.tanh(x.relu()).relu()))
    found = flows(nn.Sequential(model), normal(4, 8))
    assert set(found) == {"0.linear", "0.relu()", "0.tanh()", "0.relu()[2]", "0.gelu()"}
    assert found["0.tanh()"].producers == {"0.relu()": None}


@pytest.mark.parametrize(
    "module", [nn.ReLU(), nn.Tanh(), nn.GELU(), nn.Sigmoid(), nn.SiLU(), nn.Mish(), nn.Softmax(-1)]
)
def test_a_non_linearity_that_is_a_module_is_recorded_once(module: nn.Module) -> None:
    assert set(flows(nn.Sequential(nn.Linear(8, 8), module), normal(4, 8))) == {"0", "1"}


@pytest.mark.parametrize("reentrant", [True, False])
def test_functions_that_a_checkpoint_computes_again_are_recorded_once(reentrant: bool) -> None:
    inner = Calls(torch.relu)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner = nn.Linear(8, 8), inner

        def forward(self, x: Tensor) -> Tensor:
            out = checkpoint(self.inner, self.first(x), use_reentrant=reentrant)
            assert isinstance(out, Tensor)
            return out

    layers = evidence(Outer(), normal(16, 8)).layers
    assert layers["inner.relu()"].calls == 1
    assert layers["inner.linear"].calls == 1
    assert [name for name in layers if name.endswith(")")] == ["inner.relu()"]


# --- residual paths and attention


@pytest.mark.parametrize("shape", [(6, 8), (4096, 8, 8), (1, 70000, 2)])
def test_slope_and_cosine_of_a_block_are_by_the_formula(shape: tuple[int, ...]) -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(shape[-1], shape[-1])

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = 0.5 * x + self.linear(x)
            return out

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Adds(), Adds(), Adds()])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    torch.manual_seed(0)
    stack, x = Stack(), normal(*shape)
    carried = evidence(stack, x).layers["blocks.0"].carried
    assert carried is not None
    y = stack.blocks[0](x).detach()
    rows = 65536 // shape[-1]
    a, b = (t.flatten(0, -2)[:rows].double() for t in (x, y))
    a, b = ((t - t.mean(0)).flatten() for t in (a, b))
    assert carried.slope == pytest.approx(float(a @ b / (a @ a)), rel=1e-5)
    assert carried.cosine == pytest.approx(float(a @ b / (a.norm() * b.norm())), rel=1e-5)


@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("by_name", [True, False])
def test_logits_of_attention_are_those_of_independent_queries_and_keys(
    scale: float | None, by_name: bool
) -> None:
    q, k, v = (normal(4, 2, 64, 32, seed=i) * (i + 1) for i in range(3))

    def attend(x: Tensor) -> Tensor:
        named = {"key": k, "value": v} if by_name else {}
        places = () if by_name else (k, v)
        out = functional.scaled_dot_product_attention(q, *places, **named, scale=scale)
        return x + out.mean()

    logits = evidence(Calls(attend), normal(4, 8)).layers["scaled_dot_product_attention()"].logits
    assert logits is not None
    assert logits.std is not None
    direct = (q @ k.transpose(2, 3)) * (32**-0.5 if scale is None else scale)
    # 8 matrices of 64 x 64 logits that share 64 queries and keys: about 1 / sqrt(2 * 8 * 64) each.
    assert logits.std == pytest.approx(float(direct.std()), rel=5 / math.sqrt(2 * 8 * 64))


@pytest.mark.parametrize(
    ("softmax", "dim", "name"),
    [
        (lambda x: x.softmax(1), 1, "softmax()"),
        (lambda x: torch.softmax(x, dim=-1), -1, "softmax()"),
        (lambda x: functional.softmax(x, 0), 0, "softmax()"),
        (nn.Softmax(1), 1, "then"),
        (nn.Softmax(dim=0), 0, "then"),
    ],
)
def test_the_peak_of_a_softmax_is_the_mean_over_rows_of_the_sum_of_squares(
    softmax: Callable[[Tensor], Tensor], dim: int, name: str
) -> None:
    model, x = Calls(softmax), normal(32, 8)
    logits = evidence(model, x).layers[name].logits
    assert logits is not None
    expected = model(x).detach().square().sum(dim).mean()
    assert logits.peak == pytest.approx(float(expected), rel=1e-5)
