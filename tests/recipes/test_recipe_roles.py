"""Roles of parameters in the layouts of common code bases, and how a user corrects them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import named_models
from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.recipes import ROLES, Constant, Match, Recipe, Rule
from initstats.recipes.parameters import Slot, slots
from initstats.text import block_pattern
from named_models import Tree, linear


def roles_of(model: nn.Module) -> dict[str, str]:
    """Return the role of each weight, by the name that all blocks share."""
    return {
        block_pattern(slot.name): slot.role.name
        for group in slots(model)
        for slot in group
        if slot.kind == "weight" and slot.role.name != "norm"
    }


def test_roles_in_nano_gpt() -> None:
    assert roles_of(named_models.nano_gpt()) == {
        "transformer.wte.weight": "embedding",
        "transformer.wpe.weight": "position",
        "transformer.h.*.attn.c_attn.weight": "attention input",
        "transformer.h.*.attn.c_proj.weight": "attention output",
        "transformer.h.*.mlp.c_fc.weight": "mlp input",
        "transformer.h.*.mlp.c_proj.weight": "mlp output",
        "lm_head.weight": "head",
    }


def test_roles_in_torchtitan() -> None:
    assert roles_of(named_models.titan_llama()) == {
        "tok_embeddings.weight": "embedding",
        "layers.*.attention.wq.weight": "attention input",
        "layers.*.attention.wk.weight": "attention input",
        "layers.*.attention.wv.weight": "attention input",
        "layers.*.attention.wo.weight": "attention output",
        "layers.*.feed_forward.w1.weight": "mlp input",
        "layers.*.feed_forward.w2.weight": "mlp output",
        "layers.*.feed_forward.w3.weight": "mlp input",
        "output.weight": "head",
    }


def test_roles_in_olmo_and_megatron() -> None:
    assert roles_of(named_models.olmo()) == {
        "transformer.wte.weight": "embedding",
        "transformer.blocks.*.att_proj.weight": "attention input",
        "transformer.blocks.*.attn_out.weight": "attention output",
        "transformer.blocks.*.ff_proj.weight": "mlp input",
        "transformer.blocks.*.ff_out.weight": "mlp output",
        "transformer.ff_out.weight": "head",
    }
    assert roles_of(named_models.megatron_gpt()) == {
        "embedding.word_embeddings.weight": "embedding",
        "decoder.layers.*.self_attention.linear_qkv.weight": "attention input",
        "decoder.layers.*.self_attention.linear_proj.weight": "attention output",
        "decoder.layers.*.mlp.linear_fc1.weight": "mlp input",
        "decoder.layers.*.mlp.linear_fc2.weight": "mlp output",
        "output_layer.weight": "head",
    }


def test_roles_in_timm() -> None:
    assert roles_of(named_models.timm_vit()) == {
        "cls_token": "token",
        "reg_token": "token",
        "pos_embed": "position",
        "patch_embed.proj.weight": "convolution",
        "blocks.*.attn.qkv.weight": "attention input",
        "blocks.*.attn.proj.weight": "attention output",
        "blocks.*.mlp.fc1.weight": "mlp input",
        "blocks.*.mlp.fc2.weight": "mlp output",
        "head.weight": "head",
    }
    assert roles_of(named_models.convnext())["stages.*.*.gamma"] == "gate"
    assert roles_of(named_models.resnet())["fc.weight"] == "head"


def test_roles_in_torch_and_dit() -> None:
    assert roles_of(named_models.deep_encoder()) == {
        "embedding.weight": "embedding",
        "encoder.layers.*.self_attn.in_proj_weight": "attention input",
        "encoder.layers.*.self_attn.out_proj.weight": "attention output",
        "encoder.layers.*.linear1.weight": "mlp input",
        "encoder.layers.*.linear2.weight": "mlp output",
    }
    found = roles_of(named_models.dit())
    assert found["blocks.*.adaLN_modulation.*.weight"] == "gate"
    assert found["y_embedder.embedding_table.weight"] == "embedding"
    assert set(roles_of(named_models.recurrent()).values()) == {"embedding", "recurrent", "head"}


def test_roles_in_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
    config = transformers.BertConfig(**small, intermediate_size=32)
    found = roles_of(transformers.BertForMaskedLM(config))
    assert {name.removeprefix("bert."): role for name, role in found.items()} == {
        "embeddings.word_embeddings.weight": "embedding",
        "embeddings.position_embeddings.weight": "position",
        "embeddings.token_type_embeddings.weight": "embedding",
        "encoder.layer.*.attention.self.query.weight": "attention input",
        "encoder.layer.*.attention.self.key.weight": "attention input",
        "encoder.layer.*.attention.self.value.weight": "attention input",
        "encoder.layer.*.attention.output.dense.weight": "attention output",
        "encoder.layer.*.intermediate.dense.weight": "mlp input",
        "encoder.layer.*.output.dense.weight": "mlp output",
        "cls.predictions.transform.dense.weight": "head",
        "cls.predictions.decoder.weight": "head",
    }


def test_heads_of_many_names_are_heads_outside_the_blocks_only() -> None:
    outside = ("proj_out", "fc", "output", "decoder", "vocab_projector", "cls_classifier", "score")
    model = Tree(**{name: linear(4, 4) for name in outside})
    assert set(roles_of(model).values()) == {"head"}
    inside = Tree(layers=nn.ModuleList([Tree(proj_out=linear(4, 4), mlp=Tree(fc1=linear(4, 4)))]))
    assert roles_of(inside)["layers.*.proj_out.weight"] == "mlp output"


def test_experts_and_routers_have_roles() -> None:
    model = Tree(
        mlp=Tree(
            gate=linear(8, 4),
            experts=Tree(gate_up_proj=torch.zeros(4, 8, 16), down_proj=torch.zeros(4, 16, 8)),
        )
    )
    assert roles_of(model) == {
        "mlp.gate.weight": "router",
        "mlp.experts.gate_up_proj": "mlp input",
        "mlp.experts.down_proj": "mlp output",
    }


def test_roles_in_modernbert() -> None:
    layer = Tree(
        attn=Tree(Wqkv=linear(8, 24), Wo=linear(8, 8)), mlp=Tree(Wi=linear(8, 32), Wo=linear(16, 8))
    )
    assert roles_of(Tree(layers=nn.ModuleList([layer]))) == {
        "layers.*.attn.Wqkv.weight": "attention input",
        "layers.*.attn.Wo.weight": "attention output",
        "layers.*.mlp.Wi.weight": "mlp input",
        "layers.*.mlp.Wo.weight": "mlp output",
    }


def test_adapters_have_a_role_wherever_they_are() -> None:
    model = Tree(attn=Tree(q_proj=named_models.LoraLinear(8, 8)), adapter=named_models.Adapter(8))
    found = roles_of(model)
    assert found["attn.q_proj.lora_A.default.weight"] == "adapter"
    assert found["attn.q_proj.lora_B.default.weight"] == "adapter"
    assert found["adapter.up.weight"] == "adapter"


def test_every_role_can_be_recognised() -> None:
    makers = ("nano_gpt", "timm_vit", "convnext", "dit", "recurrent")
    models: list[nn.Module] = [getattr(named_models, make)() for make in makers]
    models += [
        named_models.LoraLinear(4, 4),
        nn.Sequential(nn.Linear(2, 2)),
        nn.PReLU(),
        Tree(router=linear(4, 4)),
    ]
    seen = {slot.role.name for model in models for group in slots(model) for slot in group}
    assert seen == set(ROLES)


def test_a_user_gives_roles_and_the_plan_tells_it() -> None:
    model = Tree(weird=linear(4, 4, bias=False), other=linear(4, 4, bias=False))
    recipe = Recipe(
        [Rule(Match(role="mlp output"), Constant(0.0)), Rule("*", Constant(1.0), "rest")]
    )
    planned = plan(model, recipe, roles={"weird*": "mlp output"})
    assert [(entry.role, entry.distribution) for entry in planned] == [
        ("mlp output", Constant(0.0)),
        ("linear", Constant(1.0)),
    ]
    assert planned.entries[0].why == "mlp output (given for weird*)"
    init_(model, recipe, roles={"weird*": "mlp output"}, seed=0)
    assert not model["weird"].weight.any()


def test_a_role_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^initstats.plan: expected roles among embedding, .*"):
        plan(nn.Linear(2, 2), "mlp", roles={"*": "middle"})
    with pytest.raises(ValueError, match=r"^initstats.Match: expected roles among .*'middle'"):
        Match(role="middle")
    with pytest.raises(ValueError, match=r'^initstats.Match: expected kind "weight" or "bias"'):
        Match(kind="both")


def test_a_match_on_blocks_counts_from_both_ends() -> None:
    rules = [
        Rule(Match("*.weight", blocks=(0, 0)), Constant(1.0), "first"),
        Rule(Match("*.weight", blocks=(-2, -1)), Constant(3.0), "last two"),
        Rule("*", Constant(2.0), "middle"),
    ]
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(5)))
    planned = plan(model, Recipe(rules))
    assert [entry.distribution.mean for entry in planned] == [1, 2, 2, 3, 3]
    assert planned.entries[0].why == "name matches *.weight, block 0 of 5"
    assert rules[1].condition == "*.weight in blocks -2 to -1"


def only_slot(model: nn.Module) -> Slot:
    return slots(model)[0][0]


def test_fans_are_those_of_what_the_layer_does() -> None:
    assert tuple(only_slot(nn.Conv2d(64, 64, 3, groups=64)).fans) == (9, 9)
    assert tuple(only_slot(nn.ConvTranspose2d(8, 4, 3)).fans) == (72, 36)
    assert tuple(only_slot(Tree(attn=Tree(qkv=linear(16, 48)))).fans) == (16, 16)
    assert tuple(only_slot(nn.MultiheadAttention(16, 2)).fans) == (16, 16)
    assert tuple(only_slot(nn.LSTM(8, 16)).fans) == (8, 16)
    assert tuple(only_slot(Tree(mlp=Tree(fc1=linear(16, 48)))).fans) == (16, 48)


def bank(*, first: tuple[int, int], second: tuple[int, int], **around: object) -> Tree:
    experts = Tree(w1=torch.zeros(8, *first), w2=torch.zeros(8, *second))
    if "is_transposed" in around:
        experts.is_transposed = around.pop("is_transposed")  # type: ignore[assignment]
    return Tree(layers=nn.ModuleList([Tree(**around, experts=experts)]))


BANKS: dict[str, tuple[Tree, tuple[int, int], tuple[int, int]]] = {
    # Fans of one expert of width 16: w1 (16, 48), w2 (48, 16), with gates beside it (16, 96).
    "alone": (bank(first=(48, 16), second=(16, 48)), (16, 48), (48, 16)),
    "norm": (bank(first=(16, 48), second=(48, 16), norm=nn.LayerNorm(16)), (16, 48), (48, 16)),
    "norm, [out, in]": (
        bank(first=(48, 16), second=(16, 48), norm=nn.LayerNorm(16)),
        (16, 48),
        (48, 16),
    ),
    "stated": (bank(first=(16, 48), second=(48, 16), hidden_size=16), (16, 48), (48, 16)),
    "fused": (bank(first=(16, 96), second=(48, 16)), (16, 96), (48, 16)),
    "fused, [out, in]": (bank(first=(96, 16), second=(16, 48)), (16, 96), (48, 16)),
    "is_transposed": (
        bank(first=(16, 48), second=(48, 16), is_transposed=True),
        (16, 48),
        (48, 16),
    ),
    "square": (
        bank(first=(16, 16), second=(16, 16), norm=nn.LayerNorm(16)),
        (16, 16),
        (16, 16),
    ),
}


@pytest.mark.parametrize("name", BANKS)
def test_fans_of_a_bank_of_experts_are_those_of_one_expert(name: str) -> None:
    model, wanted_first, wanted_second = BANKS[name]
    first, second = (s for group in slots(model) for s in group if s.own_name in {"w1", "w2"})
    assert (tuple(first.fans), tuple(second.fans)) == (wanted_first, wanted_second)
    assert (first.width, second.width) == (16, 16)
    promised = {e.name: e.distribution for e in plan(model, "neox")}
    assert promised["layers.0.experts.w1"].std == pytest.approx((2 / (5 * 16)) ** 0.5)
    assert promised["layers.0.experts.w2"].std == pytest.approx(2 / 16**0.5)


def test_fans_of_experts_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32}
    for kind in ("Mixtral", "GptOss"):  # [experts, out, in] and [experts, in, out]
        config = getattr(transformers, f"{kind}Config")(
            **sizes, **heads, num_local_experts=4, head_dim=16
        )
        with torch.device("meta"):
            model = getattr(transformers, f"{kind}Model")(config)
        found = {s.own_name: s for group in slots(model) for s in group}
        assert tuple(found["gate_up_proj"].fans) == (64, 192), kind
        assert tuple(found["down_proj"].fans) == (96, 64), kind


def test_names_of_wrappers_are_no_part_of_a_key() -> None:
    model = named_models.tanh_mlp()
    # The names that torch.compile and DistributedDataParallel put in front.
    wrapped = Tree(module=Tree(_orig_mod=model))
    init_(model, "mlp", seed=0)
    before = [p.detach().clone() for p in model.parameters()]
    init_(wrapped, "mlp", seed=0)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert next(iter(plan(wrapped, "mlp"))).key_name == "0.weight"
