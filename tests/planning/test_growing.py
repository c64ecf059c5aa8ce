"""Larger models from smaller checkpoints: more tokens, more blocks, experts."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from initstats import init_, init_new_, warm_start_
from named_models import Tree, blocks, linear

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300,
}  # fmt: skip
GPT2 = {"n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 300, "n_positions": 32}
TOKENS = torch.arange(24).view(2, 12)


def made(name: str, **options: Any) -> Any:
    """Return a small model of transformers; its weights are not those of an initialisation."""
    sizes = GPT2 if name == "GPT2LMHead" else SIZES
    config = name.removesuffix("ForCausalLM").removesuffix("LMHead").removesuffix("ForMaskedLM")
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model" if name.endswith("LMHead") else name)(
        getattr(transformers, f"{config}Config")(**{**sizes, **options})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1).add_(parameter.dim() == 1)
    return model.eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(TOKENS).logits
    return found


# ---- tokens


def resized(name: str, tokens: int, how: str = "covariance", **options: Any) -> tuple[Any, Any]:
    old = made(name, **options)
    new = made(name, **{**options, "vocab_size": tokens})
    report = warm_start_(new, old.state_dict(), "new_layers", seed=3, new_rows=how)
    assert report.initialised == ()
    assert report.mismatched == ()
    assert report.receipt is None
    return old, new


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHead"])
def test_new_tokens_are_like_those_of_transformers(name: str, tied: bool) -> None:
    old, new = resized(name, 340, tie_word_embeddings=tied)
    theirs = copy.deepcopy(old)
    theirs.resize_token_embeddings(340, mean_resizing=True)
    for get in ("get_input_embeddings", "get_output_embeddings"):
        before, ours, his = (getattr(m, get)().weight.detach().double() for m in (old, new, theirs))
        assert torch.equal(ours[:300], before)
        # Both lie around the mean by 1e-9^(1/2) of the std in each direction.
        mean, std = before.mean(0), before.std(0)
        for rows in (ours[300:], his[300:]):
            spread = (rows - mean) / std * 1e9**0.5
            assert 0.9 < float(spread.std()) < 1.1  # 2,560 numbers, and roundings of the rows
            assert float(spread.abs().max()) < 6
        assert torch.unique(ours[300:], dim=0).shape[0] == 40
    assert (new.lm_head.weight is new.get_input_embeddings().weight) is tied
    torch.testing.assert_close(logits(new)[..., :300], logits(old), atol=1e-6, rtol=1e-6)


def test_new_rows_have_the_covariance_of_the_old_ones() -> None:
    torch.manual_seed(0)
    mix = torch.randn(6, 6)
    old = nn.ModuleDict({"wte": nn.Embedding(500, 6)})
    old["wte"].weight.data = torch.randn(500, 6).double() @ mix.double() + 2
    new = nn.ModuleDict({"wte": nn.Embedding(20500, 6)}).double()
    warm_start_(new, old.state_dict(), "embedding", seed=0, new_rows="covariance")
    rows, before = new["wte"].weight.detach()[500:], old["wte"].weight.detach()
    want = torch.cov(before.T, correction=0) * 1e-9
    # 20,000 rows: 1 % of the std for each entry.
    torch.testing.assert_close(torch.cov(rows.T), want, atol=0.05 * float(want.max()), rtol=0)
    torch.testing.assert_close(rows.mean(0), before.mean(0), atol=1e-6, rtol=0)


def test_the_mean_alone_and_fewer_tokens() -> None:
    old, new = resized("LlamaForCausalLM", 310, "mean")
    weight, before = (m.get_input_embeddings().weight.detach() for m in (new, old))
    assert torch.equal(weight[300:], before.double().mean(0).float().expand(10, -1))
    old, new = resized("LlamaForCausalLM", 250)
    assert torch.equal(new.lm_head.weight, old.lm_head.weight[:250])


def test_biases_of_heads_grow_with_their_rows() -> None:
    old, new = resized("BertForMaskedLM", 320)
    bias, before = (m.cls.predictions.bias.detach() for m in (new, old))
    assert torch.equal(bias[:300], before)
    assert float((bias[300:] - before.mean()).abs().max()) < 1e-6


def test_a_new_padding_row_is_zero_and_other_heads_are_the_recipes() -> None:
    old = Tree(wte=nn.Embedding(40, 8), head=linear(8, 5))
    new = Tree(wte=nn.Embedding(50, 8, padding_idx=49), head=linear(8, 6))
    report = warm_start_(new, old.state_dict(), "new_layers", seed=0, new_rows="covariance")
    assert not new["wte"].weight[49].any()
    assert new["wte"].weight[48].any()
    assert report.initialised == ("head.weight", "head.bias")
    assert [name for name, _, _ in report.mismatched] == ["head.weight", "head.bias"]
    assert report.grown == {
        "wte.weight": "40 rows copied, 10 new ones N(mean, 1e-09 covariance) of them"
    }


def test_a_part_of_a_model_grows_rows_under_its_global_name() -> None:
    old, stage = (
        Tree(wte=nn.Embedding(40, 8)),
        nn.Sequential(nn.Embedding(50, 8), nn.BatchNorm1d(8)),
    )
    whole = Tree(wte=nn.Embedding(50, 8))
    options: dict[str, Any] = {"seed": 0, "new_rows": "covariance"}
    state = old.state_dict() | {f"1.{n}": x for n, x in stage[1].state_dict().items()}
    names = {"0": "wte", "1": "norm"}
    report = warm_start_(stage, state, "new_layers", names=names, **options)
    assert list(report.grown) == ["wte.weight"]
    warm_start_(whole, old.state_dict(), "new_layers", **options)
    assert torch.equal(stage[0].weight, whole["wte"].weight)


def test_new_rows_depend_on_the_seed_and_the_name_alone() -> None:
    first, again, other = (
        resized("LlamaForCausalLM", 310)[1].get_input_embeddings().weight.detach(),
        resized("LlamaForCausalLM", 310)[1].get_input_embeddings().weight.detach(),
        resized("LlamaForCausalLM", 310)[1].lm_head.weight.detach(),
    )
    assert torch.equal(first, again)
    assert not torch.equal(first[300:], other[300:])


def test_a_resized_head_stays_when_transformers_initialises_again() -> None:
    # transformers#45079: post_init overwrote the head that resize_token_embeddings had made.
    old, new = resized("LlamaForCausalLM", 320)
    head = new.lm_head.weight.detach().clone()
    new.post_init()
    assert torch.equal(new.lm_head.weight, head)
    # And here: the layers of a resized model that are named as pretrained are left alone.
    old.resize_token_embeddings(320)
    before = {name: x.detach().clone() for name, x in old.named_parameters()}
    old.score = linear(64, 3)
    init_new_(old, set(before), "new_layers", seed=0)
    assert all(torch.equal(x, before[n]) for n, x in old.named_parameters() if n in before)


# ---- blocks


@pytest.mark.parametrize(
    ("name", "depth", "options"),
    [
        ("LlamaForCausalLM", "num_hidden_layers", {"attention_bias": True, "mlp_bias": True}),
        ("Qwen3ForCausalLM", "num_hidden_layers", {"head_dim": 16}),
        ("Gemma2ForCausalLM", "num_hidden_layers", {"head_dim": 16, "sliding_window": 64}),
        ("GPT2LMHead", "n_layer", {}),
        ("GPTNeoXForCausalLM", "num_hidden_layers", {}),
        ("MixtralForCausalLM", "num_hidden_layers", {"num_local_experts": 4}),
        ("MambaForCausalLM", "num_hidden_layers", {"state_size": 4}),
    ],
)
def test_a_deeper_model_computes_what_the_checkpoint_did(
    name: str, depth: str, options: dict[str, Any]
) -> None:
    old = made(name, **options)
    new = made(name, **{**options, depth: 6})
    assert not torch.equal(logits(new), logits(old))
    report = warm_start_(new, old.state_dict(), "new_layers", seed=0, new_blocks="identity")
    assert (report.initialised, report.mismatched, report.unused) == ((), (), ())
    assert torch.equal(logits(new), logits(old))  # bit by bit: 0 is added
    # The new blocks are 2 and 5 (LLaMA-Pro: after every second of 4), and they learn.
    loss = new(TOKENS, labels=TOKENS).loss
    loss.backward()
    made_zero = [n for n, how in report.grown.items() if how.startswith("0 in a copy")]
    assert {re.findall(r"\.(\d)\.", n)[0] for n in made_zero} == {"2", "5"}
    assert all(not new.get_parameter(n).any() for n in made_zero)
    assert any(new.get_parameter(n).grad.any() for n in made_zero)


def test_blocks_are_where_llama_pro_puts_them() -> None:
    old, new = made("LlamaForCausalLM"), made("LlamaForCausalLM", num_hidden_layers=6)
    report = warm_start_(new, old.state_dict(), "llama", seed=0, new_blocks="identity")
    for block, source in enumerate((0, 1, 1, 2, 3, 3)):
        mine, theirs = new.model.layers[block], old.model.layers[source]
        for (name, x), y in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            closed = block in (2, 5) and name.startswith(("self_attn.o_proj", "mlp.down_proj"))
            assert torch.equal(x, torch.zeros_like(y) if closed else y), (block, name)
    assert report.grown["model.layers.3.self_attn.q_proj.weight"] == "of block 2"
    assert report.grown["model.layers.2.mlp.down_proj.weight"] == "0 in a copy of block 1"
    assert "model.layers.0.self_attn.q_proj.weight" in report.copied
    assert json.loads(json.dumps(report.to_dict()))["grown"] == dict(report.grown)


def test_blocks_may_be_placed_one_by_one() -> None:
    old, new = made("LlamaForCausalLM"), made("LlamaForCausalLM", num_hidden_layers=7)
    sources = [0, 0, 1, 2, 3, 3, 3]
    warm_start_(new, old.state_dict(), "llama", seed=0, new_blocks={"*.layers": sources})
    assert torch.equal(logits(new), logits(old))
    closed = [not layer.mlp.down_proj.weight.any() for layer in new.model.layers]
    assert closed == [False, True, False, False, False, True, True]


BLOCKS: dict[str, tuple[Any, type[Exception], str]] = {
    "a word": ("copy", ValueError, "expected new_blocks among identity, got new_blocks='copy'"),
    "a list": ([0], TypeError, "expected new_blocks to be 'identity' or the blocks of each stack"),
    "no such stack": ({"h": [0]}, ValueError, "expected a stack of more blocks than in state_dict"),
    "text": ({"*": ["0"] * 6}, TypeError, "expected indices of blocks for 'model.layers'"),
    "too few": ({"*": [0, 1, 2, 3, 3]}, ValueError, "expected 6 blocks for 'model.layers', each"),
    "one is missing": ({"*": [0, 0, 0, 1, 2, 2]}, ValueError, "each of the 4 in state_dict once"),
    "swapped": ({"*": [1, 0, 2, 3, 3, 3]}, ValueError, "once or more and in order, got [1, 0, 2"),
}


def refused(
    model: nn.Module, state: dict[str, Any], error: type[Exception], words: str, **options: Any
) -> None:
    """Check a refusal, and that nothing was written or drawn."""
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(error, match="^initstats.warm_start_: .*" + re.escape(words)):
        warm_start_(model, state, "new_layers", **options)
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", BLOCKS)
def test_bad_blocks_are_refused_before_anything_is_written(name: str) -> None:
    option, error, words = BLOCKS[name]
    state = made("LlamaForCausalLM").state_dict()
    refused(made("LlamaForCausalLM", num_hidden_layers=6), state, error, words, new_blocks=option)


def test_blocks_that_do_not_fit_are_refused() -> None:
    state = made("LlamaForCausalLM").state_dict()
    three = made("LlamaForCausalLM", num_hidden_layers=7)
    words = "expected a number of new blocks that divides the 4 of state_dict, got 3"
    refused(three, state, ValueError, words, new_blocks="identity")
    six = made("LlamaForCausalLM", num_hidden_layers=6)
    words = "expected a whole model for new_blocks, got names or depth of a part"
    refused(six, state, ValueError, words, new_blocks="identity", depth=6)
    other = made("LlamaForCausalLM", num_hidden_layers=6, attention_bias=True)
    words = "expected blocks like those of state_dict for new_blocks, got model.layers.0.self_attn"
    refused(other, state, ValueError, words, new_blocks="identity")
    plain = Tree(layers=blocks(lambda: Tree(mix=nn.Bilinear(4, 4, 4)), 2))
    deep = Tree(layers=blocks(lambda: Tree(mix=nn.Bilinear(4, 4, 4)), 4))
    words = "expected layers that write to the residual stream in layers.1, got none"
    refused(deep, plain.state_dict(), ValueError, words, new_blocks="identity")
    report = warm_start_(
        deep, plain.state_dict(), "new_layers", seed=0, new_blocks="identity",
        roles={"*.mix.*": "mlp output"},
    )  # fmt: skip
    assert report.grown["layers.1.mix.bias"] == "0 in a copy of block 0"


# ---- experts


def dense_of(name: str, **options: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = made(name, **options).state_dict()
    return state


MOE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Mixtral": (
        "MistralForCausalLM", "MixtralForCausalLM",
        {"num_local_experts": 4, "rms_norm_eps": 1e-6,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    ),
    "Qwen3": (
        "Qwen3ForCausalLM", "Qwen3MoeForCausalLM",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "head_dim": 16,
         "norm_topk_prob": True},
    ),
}  # fmt: skip


def built(name: str, **options: Any) -> tuple[Any, Any]:
    """Return a dense model and one with experts, which has the weights of an initialisation."""
    dense, experts, extra = MOE[name]
    own = {k: v for k, v in extra.items() if not re.search("expert|moe|topk", k)}
    old, new = made(dense, **own), made(experts, **extra, **options)
    init_(new, "moe", seed=5)
    return old, new


@pytest.mark.parametrize("name", MOE)
def test_a_model_of_equal_experts_computes_what_the_dense_one_did(name: str) -> None:
    old, new = built(name)
    report = warm_start_(new, old.state_dict(), "moe", seed=0, new_experts="copy")
    assert report.initialised == tuple(f"model.layers.{i}.mlp.gate.weight" for i in range(4))
    assert (report.mismatched, report.unused) == ((), ())
    mlp = old.model.layers[2].mlp
    experts = new.model.layers[2].mlp.experts
    for expert in range(4):
        packed = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        assert torch.equal(experts.gate_up_proj[expert], packed)
        assert torch.equal(experts.down_proj[expert], mlp.down_proj.weight)
    # The weights of two experts sum to 1 up to rounding.
    torch.testing.assert_close(logits(new), logits(old), atol=1e-5, rtol=1e-5)
    assert report.grown["model.layers.2.mlp.experts.gate_up_proj"] == (
        "copies of model.layers.2.mlp.gate_proj.weight and model.layers.2.mlp.up_proj.weight"
    )
    assert report.receipt is not None
    assert report.receipt.check(new) == {}


def test_everything_grows_at_once() -> None:
    old, new = built("Mixtral", num_hidden_layers=6, vocab_size=320)
    report = warm_start_(
        new, {f"module.{n}": x for n, x in old.state_dict().items()}, "moe", seed=0,
        new_rows="covariance", new_blocks="identity", new_experts="copy",
    )  # fmt: skip
    assert len(report.initialised) == 6  # routers
    assert (report.mismatched, report.unused) == ((), ())
    torch.testing.assert_close(logits(new)[..., :300], logits(old), atol=1e-5, rtol=1e-5)
    assert not new.model.layers[5].mlp.experts.down_proj.any()


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod"])
def test_a_wrapped_model_grows_as_well(wrapper: str) -> None:
    old, new = built("Mixtral", num_hidden_layers=6)
    wrapped = nn.Module()
    wrapped.add_module(wrapper, new)
    options: dict[str, Any] = {"seed": 0, "new_blocks": "identity", "new_experts": "copy"}
    warm_start_(wrapped, old.state_dict(), "moe", **options)
    torch.testing.assert_close(logits(new), logits(old), atol=1e-5, rtol=1e-5)


def test_interleaved_and_transposed_banks_with_biases() -> None:
    state = dense_of("LlamaForCausalLM", attention_bias=True, mlp_bias=True, head_dim=16)
    options = {"num_local_experts": 4, "head_dim": 16, "layer_types": ["full_attention"] * 4}
    model = made("GptOssForCausalLM", **options)
    warm_start_(model, state, "gpt_oss", seed=0, new_experts="copy")
    experts, at = model.model.layers[1].mlp.experts, "model.layers.1.mlp"
    for part, name in enumerate(("gate_proj", "up_proj")):
        weight, bias = (state[f"{at}.{name}.{own}"] for own in ("weight", "bias"))
        for expert in range(4):
            assert torch.equal(experts.gate_up_proj[expert][:, part::2], weight.T)
            assert torch.equal(experts.gate_up_proj_bias[expert][part::2], bias)
    down = state[f"{at}.down_proj.weight"]
    assert all(torch.equal(x, down.T) for x in experts.down_proj)
    assert all(torch.equal(x, state[f"{at}.down_proj.bias"]) for x in experts.down_proj_bias)


def test_banks_of_torchtitan_and_lists_of_experts() -> None:
    def titan() -> Tree:
        banks = Tree(w1=torch.zeros(3, 12, 8), w2=torch.zeros(3, 8, 12), w3=torch.zeros(3, 12, 8))
        return Tree(norm=nn.LayerNorm(8), moe=Tree(router=Tree(gate=linear(8, 3)), experts=banks))

    def listed() -> Tree:
        one = lambda: Tree(fc1=linear(8, 12), fc2=linear(12, 8))  # noqa: E731
        return Tree(norm=nn.LayerNorm(8), moe=Tree(experts=blocks(one, 3)))

    mlp = Tree(w1=linear(8, 12), w2=linear(12, 8), w3=linear(8, 12))
    dense = Tree(norm=nn.LayerNorm(8), feed_forward=mlp)
    model = Tree(layers=blocks(titan, 2))
    state = Tree(layers=nn.ModuleList([dense, copy.deepcopy(dense)])).state_dict()
    warm_start_(model, state, "moe", seed=0, new_experts="copy")
    for bank in ("w1", "w2", "w3"):
        for x in model["layers"][0]["moe"]["experts"].get_parameter(bank):
            assert torch.equal(x, dense["feed_forward"][bank].weight)
    plain = Tree(norm=nn.LayerNorm(8), mlp=Tree(fc1=linear(8, 12), fc2=linear(12, 8)))
    model = Tree(layers=nn.ModuleList([listed(), listed()]))
    state = Tree(layers=nn.ModuleList([plain, copy.deepcopy(plain)])).state_dict()
    warm_start_(model, state, "mlp", seed=0, new_experts="copy")
    for expert in model["layers"][1]["moe"]["experts"]:
        for (name, x), y in zip(expert.named_parameters(), plain["mlp"].parameters(), strict=True):
            assert torch.equal(x, y), name


def test_some_hidden_units_are_drawn_anew() -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 400, "num_hidden_layers": 1}
    old = made("MistralForCausalLM", **sizes)
    with torch.no_grad():
        old.model.layers[0].mlp.down_proj.weight.mul_(3).add_(0.5)
    new = made("MixtralForCausalLM", num_local_experts=4, **sizes)
    report = warm_start_(new, old.state_dict(), "moe", seed=0, new_experts="copy", redrawn=0.5)
    mlp, experts = old.model.layers[0].mlp, new.model.layers[0].mlp.experts
    found = []
    for expert in range(4):
        gate, up = experts.gate_up_proj[expert].detach().chunk(2)
        down = experts.down_proj[expert].detach()
        drawn = (gate != mlp.gate_proj.weight).any(1)
        # The same half of the units in all three matrices.
        assert int(drawn.sum()) == 200
        assert torch.equal(drawn, (up != mlp.up_proj.weight).any(1))
        assert torch.equal(drawn, (down != mlp.down_proj.weight).any(0))
        # Mean and std of what was replaced: 25,600 normals of std 0.1, and 0.3 around 0.5.
        for part, std, mean in ((gate[drawn], 0.1, 0.0), (up[drawn], 0.1, 0.0),
                                (down[:, drawn], 0.3, 0.5)):  # fmt: skip
            assert float(part.std()) == pytest.approx(std, rel=0.03)
            assert float(part.mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(25600) * 2)
        found.append(drawn)
    # Others in each expert: of two random halves of 400, 100 +- 5 are common.
    assert all(70 < int((a & b).sum()) < 130 for a, b in pairwise(found))
    assert "50% of the hidden units" in report.grown["model.layers.0.mlp.experts.down_proj"]
    again = made("MixtralForCausalLM", num_local_experts=4, **sizes)
    warm_start_(again, old.state_dict(), "moe", seed=0, new_experts="copy", redrawn=0.5)
    assert all(torch.equal(x, y) for x, y in zip(new.parameters(), again.parameters(), strict=True))
    warm_start_(again, old.state_dict(), "moe", seed=1, new_experts="copy", redrawn=0.5)
    assert not torch.equal(again.model.layers[0].mlp.experts.down_proj, experts.down_proj)


def without(pattern: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {n: x for n, x in state.items() if not re.search(pattern, n)}


EXPERTS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "a word": ({"new_experts": "noise"}, dict, "expected new_experts among copy, got new_experts="),
    "rows": ({"new_rows": "std"}, dict, "expected new_rows among covariance, mean, got new_rows="),
    "redrawn": (
        {"new_experts": "copy", "redrawn": 1.5}, dict, "expected redrawn in [0, 1], got redrawn=1",
    ),
    "redrawn, alone": ({"redrawn": 0.5}, dict, "expected new_experts='copy' with redrawn, got"),
    "no dense layer": (
        {"new_experts": "copy"}, without(r"layers\.3\.mlp\.up_proj"),
        "state_dict in model.layers.3 for model.layers.3.mlp.experts.gate_up_proj, named up_proj",
    ),
    "another size": (
        {"new_experts": "copy"},
        lambda state: {n: x[:-1] if "0.mlp.gate_proj" in n else x for n, x in state.items()},
        "[96, 64] for model.layers.0.mlp.experts.gate_up_proj, got model.layers.0.mlp.gate_proj",
    ),
    "not finite": (
        {"new_experts": "copy"},
        lambda state: {n: x / 0 if "2.mlp.down_proj" in n else x for n, x in state.items()},
        "in model.layers.2.mlp.down_proj.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPERTS)
def test_bad_experts_are_refused_before_anything_is_written(name: str) -> None:
    options, change, words = EXPERTS[name]
    old, new = built("Mixtral")
    refused(new, change(old.state_dict()), ValueError, words, **options)


@pytest.mark.parametrize("redrawn", ["x", True, None])
def test_a_share_that_is_no_number_is_refused(redrawn: Any) -> None:
    model = made("MixtralForCausalLM")
    message = r"^initstats\.warm_start_: expected redrawn to be a number, got redrawn="
    with pytest.raises(TypeError, match=message):
        warm_start_(model, model.state_dict(), "moe", new_experts="copy", redrawn=redrawn)


def test_a_model_without_new_experts_or_with_unknown_ones_is_refused() -> None:
    old, new = built("Mixtral")
    words = "expected experts that state_dict does not have for new_experts='copy', got none"
    refused(new, new.state_dict(), ValueError, words, new_experts="copy")
    odd = Tree(norm=nn.LayerNorm(8), moe=Tree(experts=Tree(mixing=torch.zeros(3, 8, 8))))
    words = "expected experts of known layers (gate_proj, w1"
    refused(odd, {"norm.weight": torch.ones(8)}, ValueError, words, new_experts="copy")
    del old
