"""The numbers of the recipes of state-space and linear-attention models, written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

import state_space_models
from initstats import recipes
from initstats.planning.planner import plan
from initstats.recipes import (
    Computed,
    Constant,
    LogUniform,
    Orthogonal,
    Transformed,
    TruncNormal,
    Uniform,
)
from promises import ONE, ZERO, check, normal, uniform

TIME_STEP = Transformed("softplus_inverse_exp", math.log(0.001), math.log(0.1), 1e-4)
ROOT3 = math.sqrt(3)


def states(*shape: int) -> Computed:
    return Computed("log_arange", shape)


def test_mamba1() -> None:
    assert state_space_models.WIDTH == 256
    conv = {"*.conv1d.weight": uniform(0.5), "*.dt_proj.weight": uniform(0.25)}
    start = {
        "*.A_log": states(512, 8),
        "*.D": ONE,
        "*norm*.weight": ONE,
        "*.dt_proj.bias": TIME_STEP,
        **conv,
    }
    promises = {
        **start,
        "*.conv1d.bias": uniform(0.5),
        "*.embedding.weight": normal(0.02),
        "*.in_proj.weight": uniform(1 / 16),
        "*.x_proj.weight": uniform(512**-0.5),
        "*.out_proj.weight": uniform(512**-0.5 / ROOT3),
    }
    check(state_space_models.Mamba(), recipes.mamba1(), dict(promises))
    promises = {
        **start,
        "*.conv1d.bias": ZERO,
        "*.out_proj.weight": uniform(512**-0.5),
        "*": normal(0.1),
    }
    hugging = recipes.mamba1(variant="transformers")
    check(state_space_models.Mamba(), hugging, dict(promises))
    assert TIME_STEP.bounds == pytest.approx((-6.907255, -2.252168), abs=1e-6)
    assert (TIME_STEP.mean, TIME_STEP.std) == pytest.approx((-4.594, 1.340), abs=1e-3)
    assert states(2, 3).values().tolist() == [[0.0, math.log(2), math.log(3)]] * 2


def test_mamba2() -> None:
    start = {"*.D": ONE, "*norm*.weight": ONE, "*.conv1d.weight": uniform(0.5)}
    a_log = LogUniform(1, 16)
    for residuals in (1, 2):
        scaled = uniform(512**-0.5 / math.sqrt(3 * residuals))
        promises = {
            **start,
            "*.A_log": a_log,
            "*.dt_bias": TIME_STEP,
            "*.conv1d.bias": uniform(0.5),
            "*.embedding.weight": normal(0.02),
            "*.in_proj.weight": uniform(1 / 16),
            "*.fc1.weight": uniform(1 / 16),
            "*.out_proj.weight": scaled,
            "*.fc2.weight": scaled,
        }
        recipe = recipes.mamba2(residuals=residuals)
        check(state_space_models.mamba2(), recipe, dict(promises))
    assert (a_log.mean, a_log.std) == pytest.approx((1.957, 0.673), abs=1e-3)
    hugging = {
        **start,
        "*.A_log": states(8),
        "*.dt_bias": TIME_STEP,
        "*.conv1d.bias": ZERO,
        "*.out_proj.weight": uniform(512**-0.5),
        "*": normal(0.1),
    }
    recipe = recipes.mamba2(variant="transformers")
    check(state_space_models.mamba2(), recipe, dict(hugging))
    bamba = {
        "*.A_log": states(8),
        "*.dt_bias": ONE,
        "*.D": ONE,
        "*norm*.weight": ONE,
        "*.bias": ZERO,
        "*": normal(0.02),
    }
    check(state_space_models.mamba2(), recipes.mamba2(variant="bamba"), dict(bamba))


def test_gated_deltanet() -> None:
    start = {
        "*.A_log": LogUniform(2.0**-20, 16),
        "*.dt_bias": TIME_STEP,
        "*norm.weight": ONE,
    }
    model = state_space_models.GatedDeltaNet
    check(model(), recipes.gated_deltanet(), {**start, "*": normal(0.02)})
    for residual, layers in (("rescale", None), ("rescale", 12), ("zero", None)):

        def output(inputs: int, residual: str = residual, layers: int | None = layers) -> object:
            scaled = uniform((inputs * 2 * (layers or 3)) ** -0.5)
            return ZERO if residual == "zero" else scaled

        promises = {
            **start,
            "*.o_proj.weight": output(256),
            "*.down_proj.weight": output(512),
            "*": normal(0.02),
        }
        check(model(), recipes.gated_deltanet(residual=residual, layers=layers), dict(promises))
    hugging = {
        "*.A_log": LogUniform(0.01, 16),
        "*.dt_bias": ONE,
        "*norm.weight": ONE,
        "*": normal(0.01),
    }
    recipe = recipes.gated_deltanet(variant="transformers", std=0.01)
    check(model(), recipe, dict(hugging))


def test_gated_deltanet_of_torchtitan() -> None:
    def by_block(layer: int) -> TruncNormal:
        return TruncNormal(0.02 / math.sqrt(2 * (layer + 1)), -2, 2)

    inputs = ("*.in_proj_?.weight", "*.w[1qkv].weight", "*.w1_EFD")
    promises = {
        "*.A_log": LogUniform(0.01, 16),
        "*.dt_bias": ONE,
        "*.delta_net.norm.weight": ONE,
        "*norm.weight": ZERO,
        "*.conv_?.weight": uniform(0.5),
        "tok_embeddings.weight": normal(1.0),
        "lm_head.weight": TruncNormal(1 / 16, -3 / 16, 3 / 16),
        **dict.fromkeys(inputs, TruncNormal(0.02)),
        "*": by_block,
    }
    recipe = recipes.gated_deltanet(variant="torchtitan")
    check(state_space_models.TitanQwenNext(), recipe, dict(promises))


def test_rwkv7() -> None:
    def mixing(exponent: float) -> Callable[[int], Computed]:
        def of_layer(layer: int) -> Computed:
            arguments = {"exponent": exponent * (1 - layer / 3)}
            return Computed("rwkv_mixing", (1, 1, 256), arguments)

        return of_layer

    def channels(start: float, slope: float, zigzag: float, head_width: int) -> Computed:
        arguments = {"start": start, "slope": slope, "zigzag": zigzag, "head_width": head_width}
        return Computed("rwkv_channels", (1, 1, 256), arguments)

    def decay(layer: int) -> Computed:
        arguments = {"power": 1 + (layer / 2) ** 0.3, "head_width": 32}
        return Computed("rwkv_decay", (1, 1, 256), arguments)

    def channel_mixing(layer: int) -> Computed:
        return Computed("rwkv_mixing", (1, 1, 256), {"exponent": (1 - layer / 3) ** 4})

    promises = {
        "*.ffn.x_k": channel_mixing,
        "*.x_[rg]": mixing(0.2),
        "*.x_[wa]": mixing(0.9),
        "*.x_[kv]": mixing(0.7),
        "*.w0": decay,
        "*.a0": channels(-0.19, 0.4, 0.3, 32),
        "*.v0": channels(0.73, -0.4, 0.0, 2),
        "*.k_k": channels(0.71, -0.1, 0.0, 2),
        "*.k_a": Constant(1.02),
        "*.r_k": Constant(-0.04),
        "*.[wavg]1": ZERO,
        "*.[wavg]2": Orthogonal(32, 256, 0.1),
        "*.receptance.weight": Orthogonal(256, 256),
        "*.att.key.weight": Orthogonal(256, 256, 0.1),
        "*.att.value.weight": Orthogonal(256, 256),
        "*.ffn.key.weight": Orthogonal(1024, 256),
        "*.output.weight": ZERO,
        "*.ffn.value.weight": ZERO,
        "*.ln_x.weight": lambda layer: Constant(((layer + 1) / 3) ** 0.7),
        "*ln*.weight": ONE,
        "*.bias": ZERO,
        "emb.weight": uniform(1e-4),
        "head.weight": Orthogonal(320, 256, math.sqrt(320 / 256) / 2),
    }
    check(state_space_models.RWKV7(), recipes.rwkv7(), dict(promises))
    first = Computed("rwkv_decay", (4,), {"power": 2.0, "head_width": 2}).values().tolist()
    assert first == pytest.approx([-8.0, -5.5 + 6 / 9 + 2.5, -5.5 + 24 / 9 - 2.5, 3.0])
    assert Computed("rwkv_mixing", (4,), {"exponent": 0.5}).values()[1] == 0.5
    doubled = [g for g in recipes.rwkv7().param_groups(state_space_models.RWKV7(), lr=0.25)
               if g["lr"] == 0.5]  # fmt: skip
    assert [len(group["params"]) for group in doubled] == [3]


def test_griffin() -> None:
    decay = Transformed("softplus_inverse_half_log", 0.81, 0.998001)
    final = math.sqrt(2 / 3)
    start = {"*.a_param": decay, "*norm.scale": ZERO, "*.b": ZERO, "*.bias": ZERO}
    promises = {
        **start,
        "*gate.w": normal(32**-0.5),
        "*.conv_1d.w": normal(0.05),
        "*.linear_out.weight": normal(final / 16),
        "*.proj_final.weight": normal(final / 16),
        "*.ffw_down.weight": normal(final * 512**-0.5),
        "*": normal(1 / 16),
    }
    check(state_space_models.Griffin(), recipes.griffin(), dict(promises))
    assert decay.bounds == pytest.approx((-6.907, -2.197), abs=1e-3)


def test_retnet() -> None:
    square = math.sqrt(6 / 512)
    wide = math.sqrt(6 / 768)
    promises = {
        "*norm.weight": ONE,
        "*.[qk]_proj.weight": uniform(square * 2**-2.5),
        "*.[vg]_proj.weight": uniform(wide * 2**-2.5),
        "*.out_proj.weight": uniform(wide / 2),
        "*.fc2.weight": uniform(512**-0.5),
        "*.ffn.*": uniform(1 / 16),
        "*": normal(1 / 16),
    }
    check(state_space_models.RetNet(), recipes.retnet(), dict(promises))


def test_xlstm() -> None:
    promises = {
        "*norm*.weight": ONE,
        "*gate*.weight": ZERO,
        "*.fgate_preact.bias": Computed("linspace", (8,), {"start": 3.0, "end": 6.0}),
        "*.igate_preact.bias": Constant(-10.0),
        "*.out_proj.weight": normal(2 / 3 / 16),
        "*.proj_down.weight": normal(2 / 3 * 512**-0.5),
        "*": normal(math.sqrt(0.4) / 16),
    }
    check(state_space_models.xlstm(), recipes.xlstm(), dict(promises))


def test_s4d() -> None:
    promises = {
        "*.D": normal(1.0),
        "*.kernel.C": normal(0.5**0.5),
        "*.log_dt": Uniform(math.log(0.001), math.log(0.1)),
        "*.log_A_real": Constant(math.log(0.5)),
        "*.A_imag": Computed("linspace", (256, 32), {"start": 0.0, "end": 31 * math.pi}),
        "norms.*.weight": ONE,
        "norms.*.bias": ZERO,
        "encoder.*": uniform(3**-0.5),
        "*": uniform(1 / 16),
    }
    check(state_space_models.S4D(), recipes.s4d(), dict(promises))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mamba1", {"variant": "bamba"}),
        ("mamba1", {"std": 0.0}),
        ("mamba1", {"layers": 0}),
        ("mamba2", {"variant": "mamba3"}),
        ("mamba2", {"residuals": 0}),
        ("gated_deltanet", {"variant": "megatron"}),
        ("gated_deltanet", {"residual": "scaled"}),
        ("gated_deltanet", {"std": -1.0}),
        ("gated_deltanet", {"layers": 0}),
        ("rwkv7", {"layers": 0}),
        ("griffin", {"variant": "hawk"}),
        ("griffin", {"layers": 0}),
        ("xlstm", {"layers": 0}),
        ("rwkv7", {"head_width": 1}),
    ],
)
def test_options_that_are_not_there_are_refused(name: str, options: dict[str, object]) -> None:
    (option,) = options
    with pytest.raises(ValueError, match=rf"initstats\.{name}: expected {option}"):
        getattr(recipes, name)(**options)


def test_rescaling_is_an_option_of_fla_alone() -> None:
    with pytest.raises(ValueError, match='expected residual="plain" with variant'):
        recipes.gated_deltanet(variant="torchtitan", residual="rescale")


def test_the_width_of_a_head_is_asked_for() -> None:
    model = state_space_models.RWKV7()
    for block in model.blocks:
        del block.att.r_k
    with pytest.raises(ValueError, match=r"initstats\.rwkv7: .*give head_width="):
        plan(model, "rwkv7")
    assert plan(model, recipes.rwkv7(head_width=32)).unmatched == ()
