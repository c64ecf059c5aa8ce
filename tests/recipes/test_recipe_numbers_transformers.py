"""The numbers of the decoders of transformers, of RWKV-4 and of xLSTM, written out by hand."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import pytest
import torch
from torch import Tensor, nn

import decoder_families
import state_space_models
from initstats import recipes
from initstats.planning.planner import plan
from initstats.recipes import Computed, Constant, Distribution, Orthogonal, Part, Stacked
from initstats.verification.verifier import verify
from named_models import Tree, blocks, linear
from promises import ONE, ZERO, assert_same, check, normal, uniform
from recipe_checks import accepts, initialises, rejects, rejects_wrong_std
from state_space_models import RWKV4


def decoder() -> Tree:
    def block() -> Tree:
        return Tree(
            input_residual=torch.empty(256),
            self_attn=Tree(
                q_proj=linear(256, 256, bias=False),
                o_proj=linear(256, 256, bias=False),
                lambda_q1=torch.empty(64),
                sinks=torch.empty(4),
            ),
            mlp=Tree(
                up_proj=linear(256, 512),
                act_fn=Tree(alpha_p=torch.empty(1), alpha_n=torch.empty(1)),
            ),
            norm=nn.RMSNorm(256),
        )

    embedding = nn.Embedding(300, 256, padding_idx=0)
    return Tree(embed_tokens=embedding, layers=blocks(block), lm_head=linear(256, 300, bias=False))


def test_decoder_transformers() -> None:
    def slope(value: float) -> Computed:
        return Computed("inverse_softplus", (1,), {"value": value})

    promises: dict[str, Distribution] = {
        "embed_tokens.weight": normal(0.02),
        "*.input_residual": ONE,
        "*proj.weight": normal(0.02),
        "*.bias": ZERO,
        "*.lambda_q1": normal(0.1),
        "*.sinks": ZERO,
        "*.alpha_p": slope(0.8),
        "*.alpha_n": slope(0.3),
        "*.norm.weight": ONE,
        "lm_head.weight": normal(0.02),
    }
    check(decoder(), recipes.decoder_transformers(), dict(promises))
    assert slope(0.8).values().item() == pytest.approx(0.2033823, rel=1e-6)
    assert slope(0.3).values().item() == pytest.approx(-1.0502256, rel=1e-6)
    options = {"std": 0.006, "embedding_std": 0.5, "lambda_std": 0.2}
    promises |= {
        "embed_tokens.weight": normal(0.5),
        "*proj.weight": normal(0.006),
        "*.lambda_q1": normal(0.2),
        "lm_head.weight": normal(0.006),
    }
    check(decoder(), recipes.decoder_transformers(**options), dict(promises))


def test_decoder_transformers_finds_mistakes() -> None:
    recipe = recipes.decoder_transformers()
    model = initialises(decoder, recipe)
    rejects_wrong_std(model, recipe)
    rejects(model, recipe, "*.sinks", lambda x: x.normal_(0, 0.02))
    rejects(model, recipe, "*.input_residual", lambda x: x.zero_())
    rejects(model, recipe, "*.alpha_n", lambda x: x.fill_(0.2034))


class HYV4HyperConnection(nn.Module):  # by this name the recipe knows it
    def __init__(self) -> None:
        super().__init__()
        self.hc_mult = 4
        self.base, self.scale = (nn.Parameter(torch.empty(n)) for n in (8, 2))


def test_hyper_connections_have_the_numbers_of_their_family() -> None:
    def planned(hyper: nn.Module) -> dict[str, Distribution]:
        model = Tree(attn_hc=hyper, lm_head=linear(8, 8))
        found = plan(nn.ModuleDict({"model": model}), "decoder_transformers")
        return {entry.name.rpartition(".")[2]: entry.distribution for entry in found}

    hunyuan = planned(HYV4HyperConnection())
    away = Part(Constant(-math.log(3)), 4, "streams")
    assert hunyuan["base"] == Stacked([away, Part(Constant(0.0), 4, "other")])
    assert hunyuan["scale"] == Constant(0.01)
    deepseek = planned(Tree(base=torch.empty(8), scale=torch.empty(2)))
    assert (deepseek["base"], deepseek["scale"]) == (ZERO, ONE)


def test_rwkv4() -> None:
    width, wide = 256, 512

    def mixing(power: float, shift: float = 0.0) -> Computed:
        return Computed("rwkv4_mixing", (1, 1, width), {"power": power, "shift": shift})

    promises: dict[str, object] = {
        "rwkv.embeddings.weight": Orthogonal(320, width, 1e-4 * math.sqrt(320)),
        "*ln*.weight": ONE,
        "*ln*.bias": ZERO,
        "*.time_decay": lambda layer: Computed(
            "rwkv4_decay", (width,), {"power": 0.7 + 1.3 * (layer / 2)}
        ),
        "*.time_first": Computed("rwkv4_bonus", (width,)),
        "*.attention.time_mix_value": lambda layer: mixing(1 - layer / 3, 0.3 * (layer / 2)),
        "*.attention.time_mix_receptance": lambda layer: mixing(0.5 * (1 - layer / 3)),
        "*.time_mix_*": lambda layer: mixing(1 - layer / 3),
        "*.feed_forward.key.weight": Orthogonal(wide, width, math.sqrt(2)),
        "*.feed_forward.value.weight": Orthogonal(width, wide, 1.0),
        "rwkv.blocks.*.weight": Orthogonal(width, width, 1.0),
        "head.weight": Orthogonal(320, width, 0.5 * math.sqrt(320 / 256)),
    }
    check(RWKV4(), recipes.rwkv4(), dict(promises))
    promises["*.time_first"] = ONE
    check(RWKV4(), recipes.rwkv4(variant="transformers"), promises)


def test_formulas_of_rwkv4() -> None:
    def of(name: str, **arguments: float) -> Tensor:
        return Computed(name, (5,), arguments).values()

    assert of("rwkv4_mixing", power=0.5, shift=0.1).tolist() == pytest.approx(
        [0.1, 0.1 + 0.2**0.5, 0.1 + 0.4**0.5, 0.1 + 0.6**0.5, 0.1 + 0.8**0.5]
    )
    assert of("rwkv4_decay", power=2.0).tolist() == pytest.approx([-5.0, -4.5, -3.0, -0.5, 3.0])
    assert (of("rwkv4_bonus") - math.log(0.3)).tolist() == pytest.approx([0, 0.5, -0.5, 0, 0.5])


def test_the_bonus_that_transformers_computes_and_loses_is_an_alarm() -> None:
    """transformers writes ones_like(time_first * ln 0.3 + zigzag)."""
    pytest.importorskip("transformers")
    model = decoder_families.build("rwkv")
    lost = {entry.name for entry in verify(model, "rwkv4").failures}
    assert lost == {f"rwkv.blocks.{i}.attention.time_first" for i in (0, 1)}


def test_rwkv7_by_the_names_of_fla() -> None:
    shape, head = (256,), {"head_width": 32}

    def channels(start: float, slope: float, zigzag: float = 0.0) -> Computed:
        width = head if zigzag else {"head_width": 2}
        return Computed(
            "rwkv_channels", shape, {"start": start, "slope": slope, "zigzag": zigzag, **width}
        )

    promises: dict[str, object] = {
        "*.attn.x_r": lambda layer: Computed(
            "rwkv_mixing", (1, 1, 256), {"exponent": 0.2 * (1 - layer / 3)}
        ),
        "*.ffn.x_k": lambda layer: Computed(
            "rwkv_mixing", shape, {"exponent": (1 - layer / 3) ** 4}
        ),
        "*.w_lora.lora.2.bias": lambda layer: Computed(
            "rwkv_decay", shape, {"power": 1 + (layer / 2) ** 0.3, **head}
        ),
        "*.a_lora.lora.2.bias": channels(-0.19, 0.4, 0.3),
        "*.v_lora.lora.2.bias": channels(0.73, -0.4),
        "*.lora.0.weight": ZERO,
        "*.g_lora.lora.2.weight": Orthogonal(256, 512, 0.1 * math.sqrt(2)),
        "*.lora.2.weight": Orthogonal(256, 64, 0.1),
        "*.[rv]_proj.weight": Orthogonal(256, 256),
        "*.k_proj.weight": Orthogonal(256, 256, 0.1),
        "*.o_proj.weight": ZERO,
        "*.g_norm.weight": lambda layer: Constant(((layer + 1) / 3) ** 0.7),
        "*.ffn.key.weight": Orthogonal(512, 256),
        "*.ffn.value.weight": ZERO,
        "*.embeddings.weight": uniform(1e-4),
        "lm_head.weight": Orthogonal(320, 256, 0.5 * math.sqrt(320 / 256)),
        "*norm.bias": ZERO,
    }
    found = {e.name: e for e in plan(state_space_models.fla_rwkv7(), "rwkv7")}
    used = set()
    for name, entry in found.items():
        pattern = next((p for p in promises if fnmatchcase(name, p)), None)
        if pattern is None:
            continue
        used.add(pattern)
        expected = promises[pattern]
        assert_same(entry, expected(entry.slot.block) if callable(expected) else expected)
    assert used == set(promises)
    assert plan(state_space_models.fla_rwkv7(), "rwkv7").unmatched == ()
    model = initialises(state_space_models.fla_rwkv7, recipes.rwkv7())
    rejects(model, "rwkv7", "*.r_proj.weight", 1.03)
    rejects(model, "rwkv7", "*.w_lora.lora.2.bias", lambda x: x.zero_())


def test_rwkv7_accepts_the_model_of_fla() -> None:
    package = pytest.importorskip("fla.models.rwkv7")
    sizes = {"hidden_size": 256, "num_hidden_layers": 3, "vocab_size": 320, "fuse_norm": False}
    config = package.RWKV7Config(**sizes, intermediate_size=512, fuse_cross_entropy=False)
    accepts(package.RWKV7ForCausalLM(config), "rwkv7")


def test_xlstm_of_its_authors() -> None:
    inner, width, heads, layers = 512, 256, 8, 3
    small = normal(math.sqrt(2 / (5 * width)))
    bias = {"heads": heads, "power": 0.3 + 1.3 * (1 / 2), "gates_first": True}
    promises: dict[str, object] = {
        "*norm.weight": ZERO,
        "*.mlstm_cell.?gate.weight": ZERO,
        "*.mlstm_cell.fgate.bias": Computed("linspace", (heads,), {"start": 3.0, "end": 6.0}),
        "*.mlstm_cell.igate.bias": normal(0.1),
        "*.learnable_skip": ONE,
        "*.conv.*": uniform(0.5),
        "*._recurrent_kernel_": ZERO,
        "*._bias_": Computed("slstm_bias", (4 * width,), bias),
        "*.proj_down.weight": normal(2 / (layers * math.sqrt(width))),
        "*.weight": small,
    }
    model = state_space_models.nx_ai_xlstm()
    recipe = recipes.xlstm(variant="nx_ai")
    check(model, recipe, promises)
    assert model["xlstm_block_stack"]["blocks"][0].xlstm["proj_down"].weight.shape == (width, inner)
    started = initialises(state_space_models.nx_ai_xlstm, recipe)
    rejects_wrong_std(started, recipe)
    rejects(started, recipe, "*.proj_down.weight", 2**-0.5)  # by its fan-in
    rejects(started, recipe, "*._bias_", lambda x: x.zero_())


def test_the_bias_of_an_slstm_cell() -> None:
    arguments = {"heads": 2, "power": 2.0, "gates_first": True}
    ramp = [5.0, 2.0, -7.0]  # 5 - 12 (i / 2)^2
    first = Computed("slstm_bias", (24,), arguments).values()
    assert first.view(4, 2, 3)[1].tolist() == [ramp, ramp]
    assert first.count_nonzero() == 6
    last = Computed("slstm_bias", (2, 4, 3), {**arguments, "gates_first": False}).values()
    assert last[:, 1].tolist() == [ramp, ramp]
    assert last.count_nonzero() == 6


def test_xlstm_of_its_authors_accepts_their_package() -> None:
    package = pytest.importorskip("xlstm")
    mlstm = package.mLSTMBlockConfig(mlstm=package.mLSTMLayerConfig(num_heads=4))
    slstm = package.sLSTMBlockConfig(
        slstm=package.sLSTMLayerConfig(backend="vanilla", num_heads=4),
        feedforward=package.FeedForwardConfig(),
    )
    config = package.xLSTMLMModelConfig(
        mlstm_block=mlstm, slstm_block=slstm, context_length=8, num_blocks=4, embedding_dim=256,
        slstm_at=[1, 3], vocab_size=300,
    )  # fmt: skip
    torch.manual_seed(0)
    model = package.xLSTMLMModel(config)
    model.reset_parameters()
    recipe = recipes.xlstm(variant="nx_ai")
    accepts(model, recipe)
    rejects_wrong_std(model, recipe)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("decoder_transformers", {"std": 0.0}),
        ("decoder_transformers", {"position_std": math.inf}),
        ("rwkv4", {"variant": "rwkv_lm"}),
        ("rwkv4", {"layers": 0}),
        ("xlstm", {"variant": "original"}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"initstats.{name}: expected {next(iter(options))}"):
        getattr(recipes, name)(**options)
