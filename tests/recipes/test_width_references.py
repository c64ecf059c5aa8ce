"""Width transfer against the packages of its authors: `pip install mup unit-scaling`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from initstats import recipes
from initstats.verification.verifier import verify
from width_models import Gpt, perceptron

BASE, WIDTH, LR, DECAY = 32, 128, 1e-3, 0.1


def with_readout(mup: Any, model: Gpt) -> Gpt:
    """Return the model with the package's readout."""
    model.lm_head = mup.MuReadout(model.d_model, 64, bias=False)
    return model


def as_mup_makes_it(mup: Any, model: nn.Module, base: nn.Module) -> nn.Module:
    """Return the model after `set_base_shapes`, with torch's own initialisation rescaled."""
    return mup.set_base_shapes(model, base)  # type: ignore[no-any-return]


def groups_of(optimizer: torch.optim.Optimizer) -> dict[int, tuple[float, float]]:
    return {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_the_rescaled_default_is_that_of_the_package() -> None:
    mup = pytest.importorskip("mup")
    torch.manual_seed(0)
    model = as_mup_makes_it(mup, with_readout(mup, Gpt(WIDTH)), with_readout(mup, Gpt(BASE)))
    assert verify(model, recipes.mup(base=Gpt(BASE), form="torch")).ok
    assert not verify(model, recipes.torch_default()).ok
    plain = perceptron(WIDTH)
    plain[4] = mup.MuReadout(WIDTH, 4)
    base = perceptron(BASE)
    base[4] = mup.MuReadout(BASE, 4)
    assert verify(as_mup_makes_it(mup, plain, base), recipes.mup(base=base, form="torch")).ok


def test_fixed_standard_deviations_are_those_of_the_package() -> None:
    mup = pytest.importorskip("mup")
    torch.manual_seed(0)
    model = as_mup_makes_it(mup, with_readout(mup, Gpt(WIDTH)), with_readout(mup, Gpt(BASE)))
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            mup.init.normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    recipe = recipes.mup(base=Gpt(BASE), zero_query=False, zero_readout=False)
    assert verify(model, recipe).ok


@pytest.mark.parametrize("make", [Gpt, perceptron])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_learning_rates_and_decays_are_those_of_the_package(optimizer: str, make: Any) -> None:
    mup = pytest.importorskip("mup")
    model, base = make(WIDTH), make(BASE)
    if make is Gpt:
        model, base = with_readout(mup, model), with_readout(mup, base)
    else:
        model[4], base[4] = mup.MuReadout(WIDTH, 4), mup.MuReadout(BASE, 4)
    as_mup_makes_it(mup, model, base)
    theirs = {"adam": mup.MuAdam, "adamw": mup.MuAdamW, "sgd": mup.MuSGD}[optimizer](
        model.parameters(), lr=LR, weight_decay=DECAY
    )
    groups = recipes.mup(base=base).param_groups(
        model, lr=LR, weight_decay=DECAY, optimizer=optimizer
    )
    ours = torch.optim.SGD(groups, lr=LR)
    for place, numbers in groups_of(theirs).items():
        assert groups_of(ours)[place] == pytest.approx(numbers, rel=1e-12)


def test_unit_scaling_has_these_weights_and_learning_rates() -> None:
    uu = pytest.importorskip("unit_scaling")
    from unit_scaling.optim import lr_scale_func_adam

    torch.manual_seed(0)
    block = nn.ModuleDict({"c_fc": uu.Linear(64, 256), "c_proj": uu.Linear(256, 64)})
    model = nn.ModuleDict(
        {
            "wte": uu.Embedding(512, 64),
            "h": uu.DepthModuleList([block, copy.deepcopy(block)]),
            "ln_f": uu.LayerNorm(64),
            "lm_head": uu.LinearReadout(64, 512),
        }
    )
    for parameter in model["h"][1].parameters():  # type: ignore[index]
        nn.init.normal_(parameter)
    recipe = recipes.u_mup()
    assert verify(model, recipe).ok
    groups = recipe.param_groups(model, lr=1.0, optimizer="adam")
    ours = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert ours[id(parameter)] == pytest.approx(lr_scale_func_adam(parameter)), name
