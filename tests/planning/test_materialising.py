"""From the meta device to values: ties, buffers, and what is refused before anything changes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import named_models
from initstats.planning.initialize import init_
from initstats.recipes import Constant, Normal, Recipe, Rule
from initstats.verification.verifier import verify
from named_models import Tree


def on_meta(make: Any) -> Any:
    with torch.device("meta"):
        return make()


def test_a_model_from_meta_is_the_one_that_was_built_on_the_cpu() -> None:
    built, empty = named_models.nano_gpt(), on_meta(named_models.nano_gpt)
    init_(built, "gpt2", seed=3)
    receipt = init_(empty, "gpt2", seed=3, device="cpu")
    for (name, p), (other, q) in zip(
        built.named_parameters(), empty.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(p, q), name
    assert receipt.check(built) == {}
    assert verify(empty, "gpt2").ok


def test_ties_survive_the_way_from_meta() -> None:
    model = on_meta(named_models.nano_gpt)
    init_(model, "gpt2", seed=0, device="cpu")
    assert model["lm_head"].weight is model["transformer"]["wte"].weight
    # to_empty, the usual way, breaks the tie: that is why init_ does not use it.
    broken = on_meta(named_models.nano_gpt).to_empty(device="cpu")
    assert broken["lm_head"].weight is not broken["transformer"]["wte"].weight


def test_attributes_and_gradient_flags_survive_the_way_from_meta() -> None:
    model = on_meta(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    model[0].weight.requires_grad_(False)
    model[1].weight.my_mark = "here"
    init_(model, "mlp", seed=0, device="cpu")
    assert not model[0].weight.requires_grad
    assert model[1].weight.requires_grad
    assert model[1].weight.my_mark == "here"


def test_statistics_of_norms_are_set_with_the_norm() -> None:
    model = on_meta(named_models.resnet)
    receipt = init_(model, "resnet", seed=0, device="cpu")
    norm = model["bn1"]
    assert torch.equal(norm.running_mean, torch.zeros(16))
    assert torch.equal(norm.running_var, torch.ones(16))
    assert norm.num_batches_tracked == 0
    assert "bn1.running_mean" in receipt.buffers
    with torch.no_grad():
        norm.running_mean.fill_(3.0)
        norm.num_batches_tracked.fill_(9)
    receipt = init_(model, "resnet", seed=0)
    assert not norm.running_mean.any()
    assert norm.num_batches_tracked == 0
    assert "bn1" in receipt.buffers


def test_a_partial_recipe_leaves_the_statistics_of_norms() -> None:
    model = named_models.resnet()
    model["bn1"].running_mean.fill_(3.0)
    init_(model, "new_head", seed=0)
    assert model["bn1"].running_mean[0] == 3.0


def test_buffers_of_transformers_are_made_again() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 16}
    config = transformers.LlamaConfig(**small, intermediate_size=48)
    built = transformers.LlamaForCausalLM(config)
    empty = on_meta(lambda: transformers.LlamaForCausalLM(config))
    init_(empty, "llama", seed=0, device="cpu")
    expected = dict(built.named_buffers())
    assert expected
    for name, buffer in empty.named_buffers():
        assert torch.equal(buffer, expected[name]), name
    assert set(empty.state_dict()) == set(built.state_dict())
    text = torch.arange(8)[None]
    assert torch.isfinite(empty(text).logits).all()
    bert = on_meta(
        lambda: transformers.BertModel(transformers.BertConfig(**small, intermediate_size=48))
    )
    init_(bert, "bert", seed=0, device="cpu")
    assert torch.equal(bert.embeddings.position_ids, torch.arange(512)[None])
    assert not bert.embeddings.token_type_ids.any()


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("mask", torch.ones(4, 4).tril(), persistent=False)


def test_an_unknown_buffer_is_refused_and_can_be_given() -> None:
    model = on_meta(Masked)
    with pytest.raises(
        ValueError,
        match=r"^initstats.init_: expected buffers that can be made again, got mask on the meta",
    ):
        init_(model, "mlp", seed=0, device="cpu")
    assert all(p.is_meta for p in model.parameters())
    mask = torch.ones(4, 4).tril()
    for maker in (mask, lambda module: torch.ones(module.fc.weight.shape).tril()):
        model = on_meta(Masked)
        receipt = init_(model, "mlp", seed=0, device="cpu", buffers={"mask": maker})
        assert torch.equal(model.mask, mask)
        assert receipt.buffers == ("mask",)
        assert "mask" not in model.state_dict()


def test_a_parameter_that_would_be_left_without_values_is_refused() -> None:
    model = on_meta(named_models.dit)
    with pytest.raises(
        ValueError, match=r"^initstats.init_: expected a rule for every .* got \['pos_embed'\]"
    ):
        init_(model, "dit", seed=0, device="cpu")
    recipe = Recipe([Rule("weight", Normal(1.0))])
    linear = on_meta(lambda: nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"on the meta device, got \['bias'\] without"):
        init_(linear, recipe, seed=0, device="cpu", allow_unmatched=True)
    assert linear.weight.is_meta


def test_only_what_is_on_meta_moves() -> None:
    model = Tree(a=nn.Linear(2, 2), b=on_meta(lambda: nn.Linear(2, 2)))
    kept = model["a"].weight
    init_(model, Recipe([Rule("*", Constant(1.0))]), seed=0, device="cpu")
    assert model["a"].weight is kept
    assert all(bool((p == 1).all()) for p in model.parameters())


class Computed(nn.Module):
    """Buffers that a reset of its own writes, that a reset draws, and that nothing writes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("written", torch.empty(4))
        self.reset_buffers()

    def reset_buffers(self) -> None:
        self.written.copy_(torch.arange(4.0))


class Unwritten(Computed):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("drawn", torch.empty(4))
        self.register_buffer("given", torch.ones(4))

    def reset_buffers(self) -> None:
        super().reset_buffers()
        if hasattr(self, "drawn"):
            self.drawn.normal_()


class WithInitWeights(nn.Module):
    """As transformers has it: the whole model writes what its modules need."""

    class Scaled(nn.Embedding):
        def __init__(self) -> None:
            super().__init__(8, 4)
            self.register_buffer("embed_scale", torch.tensor(2.0), persistent=False)

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = self.Scaled()
        self.fc = nn.Linear(4, 4)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, self.Scaled):
            module.weight.normal_()
            module.embed_scale.fill_(2.0)


def test_buffers_are_made_by_the_code_of_the_model() -> None:
    model = nn.ModuleDict(
        {"a": on_meta(Computed), "b": on_meta(WithInitWeights), "c": WithInitWeights()}
    )
    kept = model["c"].embed_tokens.weight
    state = torch.get_rng_state()
    receipt = init_(model, "mlp", seed=0, device="cpu")
    assert receipt.buffers == ("a.written", "b.embed_tokens.embed_scale")
    assert torch.equal(model["a"].written, torch.arange(4.0))
    assert model["b"].embed_tokens.embed_scale == 2
    assert model["b"].embed_tokens.weight.std() < 0.1  # by the recipe
    assert model["c"].embed_tokens.weight is kept
    assert torch.equal(state, torch.get_rng_state())


def test_buffers_that_no_code_makes_are_all_named_at_once() -> None:
    model = nn.ModuleList([on_meta(Unwritten), on_meta(Masked)])
    with pytest.raises(ValueError, match=r"again, got 0\.drawn, 0\.given, 1\.mask on the meta"):
        init_(model, "mlp", seed=0, device="cpu")
    assert model[0].written.is_meta
    given = {"*.drawn": torch.zeros(4), "*.given": torch.ones(4), "*.mask": torch.eye(4)}
    init_(model, "mlp", seed=0, device="cpu", buffers=given)
    assert torch.equal(model[0].written, torch.arange(4.0))


PEAK = """
import torch
from torch import nn
import initstats

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def build(width, layers):
    with torch.device("meta"):
        return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))

initstats.init_(build(64, 2), "mlp", seed=0, device="cpu").to_dict()
before = status("VmRSS")
model = build(2048, 16)
initstats.init_(model, "mlp", seed=0, device="cpu").to_dict()
print((status("VmHWM") - before) / sum(p.nbytes for p in model.parameters()))
"""


def test_the_peak_of_memory_is_that_of_the_parameters() -> None:
    # 268 MB of parameters; a second copy of a single matrix would make it 1.06.
    done = subprocess.run(
        [sys.executable, "-c", PEAK],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) <= 1.02
