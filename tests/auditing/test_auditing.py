"""The audit: what it measures."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from audited_models import CONFIG, classifier, demo_batch, demo_gpt, labelled
from initstats.auditing import audit
from initstats.auditing.hooks import Collector


def test_activations_are_those_that_flow_through_the_model() -> None:
    model, data = demo_gpt(), demo_batch()
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        model(*data)
    for handle in handles:
        handle.remove()  # the audit runs the model more than once
    report = audit(model, data, steps=1)
    assert {layer.name for layer in report.layers} >= {"wte", "h.0.mlp.gelu", "h.2", "lm_head"}
    for layer in (layer for layer in report.layers if not layer.is_function):
        values = seen_values = seen[layer.name].double()
        assert layer.activation.count == seen_values.numel()
        assert layer.activation.mean == pytest.approx(values.mean().item(), rel=1e-4, abs=1e-7)
        assert layer.activation.std == pytest.approx(values.std().item(), rel=1e-4)
        assert layer.activation.abs_max == pytest.approx(values.abs().max().item(), rel=1e-6)


def test_gradients_are_those_of_autograd() -> None:
    model, data = demo_gpt(), demo_batch()
    outputs: dict[str, Tensor] = {}
    for name in ("h.0", "h.2"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
    loss = model(*data)[1]
    expected = torch.autograd.grad(
        loss, [outputs["h.0"], outputs["h.2"], model.h[1].attn.c_attn.weight], retain_graph=True
    )
    report = audit(model, data, steps=1)
    measured = [
        report.evidence.layers["h.0"].output_gradient,
        report.evidence.layers["h.2"].output_gradient,
        report.evidence.parameters["h.1.attn.c_attn.weight"].gradient,
    ]
    for record, gradient in zip(measured, expected, strict=True):
        assert record is not None
        assert record.rms == pytest.approx(
            gradient.double().square().mean().sqrt().item(), rel=1e-4
        )


def test_the_update_ratio_is_that_of_the_first_step() -> None:
    model, data = classifier(), labelled()
    report = audit(
        model,
        data,
        loss_fn=functional.cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
    )
    parameter = report.evidence.parameters["4.weight"]
    # Plain gradient descent changes a weight by rate * gradient.
    assert parameter.gradient is not None
    ratio = 0.5 * parameter.gradient.rms / parameter.weight.rms
    assert parameter.update_ratio == pytest.approx(ratio, rel=1e-3)


def test_losses_are_those_of_a_plain_training_loop() -> None:
    data = demo_batch()
    report = audit(demo_gpt(), data, steps=4, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))
    model = demo_gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(*data)[1]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert report.loss.values == pytest.approx(losses, rel=1e-5)
    assert report.loss.expected == pytest.approx(math.log(CONFIG.vocabulary))


def test_expected_std_and_its_verdict_come_from_the_recipe() -> None:
    report = audit(demo_gpt(), demo_batch(), steps=1, recipe="gpt2")
    parameters = report.evidence.parameters
    assert parameters["h.0.mlp.c_proj.weight"].expected_std == 0.02 / math.sqrt(6)
    assert parameters["wte.weight"].expected_std == 0.02
    assert report.evidence.verification is not None
    assert report.evidence.verification.ok
    assert audit(demo_gpt(), demo_batch(), steps=1).evidence.verification is None


def test_a_block_holds_the_parameters_inside_and_a_layer_its_own() -> None:
    layers = audit(demo_gpt(), demo_batch(), steps=1).evidence.layers
    assert layers["h.0"].is_block
    assert len(layers["h.0"].parameters) == 12
    assert [p.name for p in layers["h.0.mlp.c_fc"].parameters] == [
        "h.0.mlp.c_fc.weight",
        "h.0.mlp.c_fc.bias",
    ]
    assert [p.name for p in layers["lm_head"].parameters] == ["wte.weight"]  # tied


def test_stacks_inside_a_block_are_no_series_of_their_own() -> None:
    def stack() -> nn.Module:
        return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8)) for _ in range(3)))

    model = nn.ModuleDict({"a": nn.Sequential(stack(), stack(), stack()), "b": stack()})
    model.forward = lambda x: model["b"](model["a"](x)).square().mean()
    series = audit(model, torch.randn(4, 8), steps=1).evidence.series
    assert [(s.name, s.layers) for s in series] == [
        ("a", ("a.0", "a.1", "a.2")),
        ("b", ("b.0", "b.1", "b.2")),
    ]
    alone = nn.Sequential(nn.Linear(8, 8), *(stack() for _ in range(3)), nn.Linear(8, 8))
    report = audit(alone, torch.randn(4, 8), loss_fn=functional.mse_loss, steps=1)
    assert [s.layers for s in report.evidence.series] == [("1", "2", "3")]


def test_a_module_called_twice_is_one_layer_with_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(self.shared(x)).square().mean()

    layer = audit(Twice(), torch.randn(4, 8), steps=1).evidence.layers["shared"]
    assert layer.calls == 2
    assert layer.activation.count == 64
    assert layer.output_gradient is not None
    assert layer.output_gradient.count == 64


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_blocks_are_counted_once(use_reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            out: Tensor = checkpoint(self.second, hidden, use_reentrant=use_reentrant)
            return out.square().mean()

    layers = audit(Checkpointed(), torch.randn(4, 8), steps=1).evidence.layers
    for name in ("first", "second"):
        assert layers[name].calls == 1
        gradient = layers[name].output_gradient
        assert gradient is not None
        assert gradient.count == 32


def test_a_hook_keeps_a_record_and_no_tensor() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    kept: list[weakref.ref[Tensor]] = []
    model[0].register_forward_hook(lambda _m, _i, out: kept.append(weakref.ref(out)))
    with Collector(model) as collector, torch.no_grad():
        model(torch.randn(4, 8))
        gc.collect()
        assert kept[0]() is None
    assert list(collector.flows) == ["0", "1"]
