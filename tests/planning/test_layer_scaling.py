"""LSUV: outputs of unit variance, passes counted, hooks and modes put back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from initstats.planning.lsuv import lsuv_


def network(depth: int = 6) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(48, 48), nn.Tanh()]
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(48, 10))


def batch(n: int = 128) -> Tensor:
    return torch.randn(n, 48, generator=torch.Generator().manual_seed(0))


def output_stds(model: nn.Sequential, x: Tensor) -> list[float]:
    """Measure the outputs of Linear layers by a plain loop, without hooks."""
    stds = []
    with torch.no_grad():
        for layer in model.eval():
            x = layer(x)
            if isinstance(layer, nn.Linear):
                stds.append(float(x.std()))
    return stds


def test_every_output_has_unit_std() -> None:
    model = network()
    report = lsuv_(model, batch(), seed=0)
    assert report.ok
    assert report.dead == ()
    assert all(abs(std - 1) <= 0.1 for std in output_stds(model, batch()))
    # The first pass scales each layer as it runs; the second finds nothing to do.
    assert report.passes == 2


def test_weights_stay_orthonormal_up_to_their_factor() -> None:
    model = network()
    report = lsuv_(model, batch(), seed=0)
    for name, factor in report.factors.items():
        matrix = model.get_submodule(name).weight.detach().double() / factor
        gram = matrix @ matrix.T
        assert torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-4), name


def test_a_seed_decides_lsuv() -> None:
    first, second, third = network(), network(), network()
    for model, seed in ((first, 1), (second, 1), (third, 2)):
        lsuv_(model, batch(), seed=seed)
    assert torch.allclose(first[0].weight, second[0].weight)
    assert not torch.allclose(first[0].weight, third[0].weight)


def test_convolutions_and_layers_with_more_inputs_are_scaled() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor, factor: float) -> Tensor:
            out: Tensor = self.fc(torch.relu(self.conv(x)).mean((2, 3)) * factor)
            return out

    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for inputs in ((x, 5.0), {"x": x, "factor": 5.0}):
        report = lsuv_(Two(), inputs, seed=0)
        assert report.ok
        assert set(report.stds) == {"conv", "fc"}


def test_hooks_and_modes_are_put_back_also_after_an_exception() -> None:
    model = network()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    lsuv_(model, batch(), seed=0)
    with pytest.raises(RuntimeError):
        lsuv_(model, torch.zeros(2, 3), seed=0)
    assert [module.training for module in model.modules()] == modes
    assert all(not module._forward_hooks for module in model.modules())


def test_a_layer_whose_output_does_not_vary_is_reported() -> None:
    model = nn.Sequential(nn.Linear(48, 48), nn.ReLU6(), nn.Linear(48, 4))
    report = lsuv_(model, torch.zeros(8, 48), seed=0)
    assert report.dead == ("0", "2")
    assert report.factors == {}


def test_a_layer_that_is_called_twice_is_scaled_once_per_pass() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(48, 48)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.fc(x))
            return out

    report = lsuv_(Twice(), 7 * batch(), seed=0)
    assert report.ok
    assert report.passes == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "expected tolerance finite and > 0, got tolerance=0.0"),
        ({"tries": 0}, "expected tries >= 1, got tries=0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], message: str) -> None:
    model = network()
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=f"^initstats.lsuv_: {message}$"):
        lsuv_(model, batch(), **options)  # type: ignore[arg-type]
    assert torch.equal(model[0].weight, before)


def test_autocast_changes_nothing() -> None:
    plain, inside = network(), network()
    wanted = lsuv_(plain, batch(), seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lsuv_(inside, batch(), seed=0)
        assert torch.is_autocast_enabled("cpu")
    assert found == wanted
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), inside.parameters(), strict=True)
    )


@pytest.mark.parametrize("where", ["batch", "parameter", "forward"])
def test_what_is_not_finite_or_fails_is_refused_and_the_model_as_before(where: str) -> None:
    model, x = network(), batch()
    error: type[Exception] = ValueError
    message = "^initstats.lsuv_: expected finite outputs, got NaN or infinity from the layer '0'"
    if where == "batch":
        x[3, 4] = float("nan")
    elif where == "parameter":
        model.insert(2, nn.LayerNorm(48))
        nn.init.constant_(model[2].bias, float("inf"))  # type: ignore[arg-type]
        message = message.replace("'0'", "'3'")
    else:
        x, error, message = x[:, :3], RuntimeError, "mat1 and mat2"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error, match=message):
        lsuv_(model, x, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("norm", [weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore")  # torch would rather have the new one
def test_the_bias_of_a_parametrized_weight_is_left_alone(
    norm: Callable[[nn.Module], nn.Module],
) -> None:
    model = nn.Sequential(norm(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 8))
    before = {name: value.clone() for name, value in model[0].named_parameters()}
    lsuv_(model, torch.randn(64, 16), seed=0)
    for name, value in model[0].named_parameters():
        assert torch.equal(value, before[name]), name
    assert not model[2].bias.any()


def test_layers_with_a_parametrized_weight_are_left_out() -> None:
    model = nn.Sequential(spectral_norm(nn.Linear(48, 48)), nn.ReLU(), nn.Linear(48, 48))
    report = lsuv_(model, 3 * batch(), seed=0)
    assert report.ok
    assert set(report.stds) == {"2"}
    message = "^initstats.lsuv_: expected a layer whose weight is a parameter, got parametrized"
    with pytest.raises(ValueError, match=message):
        lsuv_(model[:1], batch())


def test_an_output_of_one_element_does_not_vary() -> None:
    report = lsuv_(nn.Sequential(nn.Linear(48, 1)), batch(1), seed=0)
    assert report.dead == ("0",)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^initstats.lsuv_: expected a model with Linear layers"):
        lsuv_(nn.LayerNorm(4), torch.zeros(2, 4))


def test_parameters_that_cannot_be_written_are_refused() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8))
    with pytest.raises(
        ValueError, match=r"expected parameters with values, got 0\.weight on the me"
    ):
        lsuv_(model, torch.randn(9, 8))
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(8, 8))
    before = model[0].weight.clone()
    with pytest.raises(
        ValueError, match=r"expected parameters to write to, got 0\.weight of infer"
    ):
        lsuv_(model, torch.randn(9, 8))
    assert torch.equal(model[0].weight, before)
    with pytest.raises(ValueError, match=r"^initstats\.plan: "):
        lsuv_(nn.Sequential(nn.LazyLinear(8)), torch.randn(9, 8))
