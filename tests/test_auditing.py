"""The audit: what it measures, that it changes nothing, and the files and text it makes."""

from __future__ import annotations

import doctest
import gc
import json
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from initstats.auditing import AuditReport, audit, running
from initstats.auditing.collecting import Collector
from initstats.auditing.demo_model import DemoConfig, DemoGPT
from initstats.auditing.demo_text import batch as text_batch
from initstats.auditing.demo_text import tokens
from initstats.initialising import init_

CONFIG = DemoConfig(vocabulary=64, context=16, layers=3, width=32, heads=2, batch=4)
Pair = tuple[Tensor, Tensor]


def demo_gpt() -> DemoGPT:
    model = DemoGPT(CONFIG)
    init_(model, "gpt2", seed=0)
    return model


def demo_batch() -> Pair:
    return text_batch(CONFIG.vocabulary, CONFIG.context, CONFIG.batch, seed=0)


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)
    )


def labelled() -> Pair:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(32, 8, generator=generator),
        torch.randint(4, (32,), generator=generator),
    )


# --- what it measures


def test_activations_are_those_that_flow_through_the_model() -> None:
    model, data = demo_gpt(), demo_batch()
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        model(*data)
    report = audit(model, data, steps=1)
    assert {layer.name for layer in report.layers} >= {"wte", "h.0.mlp.gelu", "h.2", "lm_head"}
    for layer in report.layers:
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


# --- batches and losses


class WithLoss(nn.Module):
    """Returns its loss in the ways that libraries do."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        scores = self.linear(x)
        loss = functional.cross_entropy(scores, y)
        forms: dict[str, Any] = {
            "tensor": loss,
            "tuple": (scores, loss),
            "mapping": {"scores": scores, "penalty": scores.mean(), "loss": loss},
        }
        if self.form == "attribute":
            return type("Output", (), {"loss": loss, "scores": scores})()
        return forms[self.form]


@pytest.mark.parametrize("form", ["tensor", "tuple", "mapping", "attribute"])
def test_the_loss_is_found_in_the_output(form: str) -> None:
    x, y = labelled()
    by_order = audit(WithLoss(form), (x, y), steps=2)
    assert by_order.loss.expected == pytest.approx(math.log(4))
    assert by_order.loss.values[0] == pytest.approx(by_order.loss.cross_entropies[0].value)
    by_name = audit(WithLoss(form), {"x": x, "y": y}, steps=2)
    assert len(by_name.loss.values) == 2


def test_a_loss_function_gets_the_last_item_or_the_whole_batch() -> None:
    x, y = labelled()
    scores = audit(nn.Linear(8, 4), (x, y), loss_fn=nn.CrossEntropyLoss(), steps=1)
    assert scores.loss.cross_entropies[0].classes == 4
    rebuilt = audit(nn.Linear(8, 8), x, loss_fn=functional.mse_loss, steps=1)
    assert rebuilt.loss.expected is None
    named = audit(
        nn.Linear(8, 4),
        {"input": x},
        loss_fn=lambda out, batch: (out.mean() - batch["input"].mean()) ** 2,
        steps=1,
    )
    assert math.isfinite(named.loss.values[0])


def test_only_means_of_cross_entropies_are_compared_with_a_uniform_guess() -> None:
    def losses(out: Tensor, y: Tensor) -> Tensor:
        total = functional.cross_entropy(out, y, reduction="sum")
        mean = functional.nll_loss(functional.log_softmax(out, dim=1), y)
        return total + mean + functional.cross_entropy(out, y)

    calls = audit(nn.Linear(8, 4), labelled(), loss_fn=losses, steps=1).loss.cross_entropies
    assert [call.classes for call in calls] == [4, 4]


# --- that it changes nothing


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_everything_is_as_before() -> None:
    model, data = classifier(), labelled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    functional.cross_entropy(model(data[0]), data[1]).backward()
    optimizer.step()
    model[1].eval()
    before, modes = state(model), [module.training for module in model.modules()]
    gradients = [(p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
    moments = {k: {n: v.clone() for n, v in s.items()} for k, s in optimizer.state.items()}
    random = torch.get_rng_state()

    audit(model, data, loss_fn=functional.cross_entropy, optimizer=optimizer, steps=3)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    for parameter, (gradient, values) in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, values)
    for parameter, kept in moments.items():
        for name, value in kept.items():
            assert torch.equal(optimizer.state[parameter][name], value), name
    assert torch.equal(torch.get_rng_state(), random)


def test_everything_is_as_before_also_after_an_exception() -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1  # another tensor, not in place
            if self.calls > self.limit:
                raise RuntimeError("broken layer")
            out: Tensor = self.linear(x).square().mean()
            return out

    for limit in (0, 2):
        model = Fragile().eval()
        model.limit = limit
        before, random = state(model), torch.get_rng_state()
        with pytest.raises(RuntimeError, match="broken layer"):
            audit(model, torch.randn(2, 8))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not model.training
        assert all(p.grad is None for p in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())
        del random


def test_no_hook_stays() -> None:
    model = demo_gpt()
    audit(model, demo_batch(), steps=1)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_audit_can_be_repeated_with_the_same_result() -> None:
    model, data = demo_gpt(), demo_batch()
    first, second = audit(model, data, steps=3), audit(model, data, steps=3)
    assert first.loss == second.loss


def test_on_step_is_told_of_every_step() -> None:
    told: list[int] = []
    audit(demo_gpt(), demo_batch(), steps=3, on_step=told.append)
    assert told == [1, 2, 3]


# --- bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "expected steps >= 1, got steps=0"),
        ({"seeds": 0}, ValueError, "expected seeds >= 1, got seeds=0"),
        ({"seeds": 3}, NotImplementedError, r"expected seeds=1 .*, got seeds=3; call init_ and"),
        ({"batch": None}, TypeError, "expected a batch, got batch=None"),
        ({"model": 3}, TypeError, "expected model to be a torch.nn.Module, got model=int"),
        ({"optimizer": 3}, TypeError, "expected optimizer to be a torch optimizer or a function"),
        (
            {"loss_fn": lambda out, _y: out},
            ValueError,
            r"expected a scalar loss, got shape=\(32, 4\)",
        ),
        ({"loss_fn": lambda _out, _y: 1.0}, TypeError, "expected loss_fn to return a tensor, got"),
        (
            {"loss_fn": lambda out, _y: out.detach().mean()},
            ValueError,
            "expected a loss that depends on the parameters, got loss.requires_grad=False",
        ),
        (
            {"model": WithLoss("nothing").requires_grad_(False)},
            ValueError,
            "expected a model with tr",
        ),
        (
            {"model": nn.Linear(8, 4, device="meta")},
            ValueError,
            "expected parameters with values, got device=meta",
        ),
        (
            {"batch": (torch.empty(2, 8, device="meta"), torch.zeros(2))},
            ValueError,
            "expected the batch on the device of the model, cpu, got device=meta; move it",
        ),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters())},
            ValueError,
            "expected an optimizer over parameters of the model, got optimizer=SGD over others",
        ),
    ],
)
def test_bad_arguments_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "model": nn.Linear(8, 4),
        "batch": labelled(),
        "loss_fn": functional.cross_entropy,
        **options,
    }
    with pytest.raises(error, match=f"^initstats.audit: {message}"):
        audit(arguments.pop("model"), arguments.pop("batch"), **arguments)


def test_a_model_that_returns_no_loss_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"expected a scalar loss, got shape=\(2, 4\); .* pass loss_fn"
    ):
        audit(nn.Linear(8, 4), torch.randn(2, 8))

    class TwoScores(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), super().forward(x)

    with pytest.raises(
        TypeError, match=r"expected a loss in the output of the model, got output=tup"
    ):
        audit(TwoScores(8, 4), torch.randn(2, 8))


# --- report


def example() -> AuditReport:
    return audit(demo_gpt(), demo_batch(), steps=3, recipe="gpt2")


def test_a_report_is_strict_json_with_a_schema() -> None:
    values = json.loads(json.dumps(example().to_dict(), allow_nan=False))
    assert values["schema"] == "initstats.audit/1"
    assert values["ok"] is True
    assert values["settings"]["recipe"] == "gpt2"
    assert len(values["loss"]["values"]) == 3
    names = [layer["name"] for layer in values["layers"]]
    assert names.index("wte") < names.index("h.0") < names.index("h.1") < names.index("lm_head")
    assert values["series"] == [{"name": "h", "layers": ["h.0", "h.1", "h.2"]}]


def test_not_finite_numbers_become_strings_in_json() -> None:
    model, data = demo_gpt(), demo_batch()
    with torch.no_grad():
        model.ln_f.weight[0] = math.nan
    values = audit(model, data, steps=2).to_dict()
    text = json.dumps(values, allow_nan=False)
    assert json.loads(text)["loss"]["values"] == ["nan", "nan"]


def test_a_report_is_saved_as_json_and_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = example()
    files = report.save(tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["audit.json", "audit.png"]
    assert json.loads(files[0].read_text()) == json.loads(json.dumps(report.to_dict()))
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert report.save(tmp_path / "no plot", plot=False) == [tmp_path / "no plot" / "audit.json"]


@pytest.mark.parametrize(("value", "words"), [(math.nan, "not-finite"), (0.0, "no findings")])
def test_what_a_logarithm_cannot_show_is_drawn_and_printed(
    value: float, words: str, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    model = demo_gpt()
    with torch.no_grad():
        model.wte.weight.fill_(value)  # at 0 no gradient passes the head, at first
    report = audit(model, demo_batch(), steps=2)
    report.save(tmp_path)
    assert words in str(report)


def test_a_missing_extra_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = example()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ImportError, match=r"got matplotlib=missing; install initstats\[plot\]"):
        report.save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_the_printed_report_shows_layers_losses_and_findings_in_80_columns() -> None:
    from initstats.tables import render

    text = render(example(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    for words in ("h.0.attn.c_attn", "h.2", "lm_head", "ln(64) = 4.159", "no findings"):
        assert words in text
    assert "…" not in text
    row = next(line for line in text.splitlines() if line.startswith("h.1.mlp.c_proj"))
    measured, promised = map(float, row.split()[1:3])
    assert promised == 0.0082
    assert measured == pytest.approx(promised, rel=0.05)


def test_the_examples_of_the_docstrings_run() -> None:
    failures, examples = doctest.testmod(running)
    assert (failures, examples > 0) == (0, True)


# --- demo


def test_the_text_is_english_and_the_batch_is_shifted_by_one() -> None:
    stream = tokens(2048)
    assert len(stream) > 50_000
    assert int(stream.max()) == 2047
    unknown = float((stream == 0).double().mean())
    assert unknown < 0.05
    inputs, targets = text_batch(2048, 16, 4, seed=0)
    assert inputs.shape == targets.shape == (4, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs, text_batch(2048, 16, 4, seed=0)[0])
    assert not torch.equal(inputs, text_batch(2048, 16, 4, seed=1)[0])


def test_gpt2_of_transformers_is_healthy() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=3,
        n_embd=64,
        n_head=2,
        vocab_size=512,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(512, (2, 32))
    report = audit(model, {"input_ids": ids, "labels": ids}, steps=5, recipe="gpt2")
    assert report.findings == ()
    assert report.loss.expected == pytest.approx(math.log(512))
    assert report.evidence.series[0].name == "transformer.h"
