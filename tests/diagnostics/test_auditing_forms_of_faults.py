"""One fault in several forms and architectures, and the healthy models that look like it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from initstats.auditing import audit
from judged_models import by_rule

Function = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Made(nn.Module):
    """Modules by name, and a function of them."""

    def __init__(self, function: Function, **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def labelled(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape), torch.randint(4, shape[:1])


def severity(rule: str, model: nn.Module, batch: Any, loss: Any = cross_entropy) -> str:
    finding = by_rule(audit(model, batch, loss_fn=loss)).get(rule)
    return "" if finding is None else finding.severity


def net(outputs: int, *end: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, outputs), *end)


def by_hand(scores: Tensor, targets: Tensor) -> Tensor:
    return -scores.log_softmax(-1).gather(-1, targets[..., None]).mean()


# ---- parameters that nobody holds


class Listed(nn.Module):
    """Layers in a container that registers them or does not."""

    def __init__(self, hold: Callable[[list[nn.Module]], Any]) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        self.layers = hold([nn.Linear(16, 16) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers.values() if isinstance(self.layers, dict) else self.layers:
            x = layer(x).relu()
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize(
    ("hold", "where"),
    [
        (list, "layers[1].weight"),
        (lambda layers: {"a": layers[0], "b": layers[1]}, "layers['b'].weight"),
    ],
)
def test_layers_in_a_plain_container_are_named(hold: Any, where: str) -> None:
    report = audit(Listed(hold), labelled(16, 8), loss_fn=cross_entropy)
    finding = by_rule(report)["optimizer-parameters"]
    assert where in (finding.where, *finding.also)
    assert (finding.severity, finding.value) == ("warning", 4)
    assert "nn.ModuleList" in finding.fix


class Loose(nn.Module):
    """A tensor that requires a gradient and is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.loose = nn.Linear(8, 16), torch.randn(4, 16, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.first(x).relu() @ self.loose.T
        return out


def test_loose_tensors_and_layers_made_in_forward_are_named() -> None:
    report = audit(Loose(), labelled(16, 8), loss_fn=cross_entropy)
    assert by_rule(report)["optimizer-parameters"].where == "loose"
    anew = Made(lambda m, x: nn.Linear(16, 4)(m.first(x)), first=nn.Linear(8, 16))
    report = audit(anew, labelled(16, 8), loss_fn=cross_entropy)
    assert "a parameter of shape" in by_rule(report)["optimizer-parameters"].cause


class Arc(nn.Module):
    """A loss with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Linear(16, 4)

    def forward(self, features: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.centres(features), targets)


def energy(model: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (force,) = torch.autograd.grad(model.get_submodule("net")(x).sum(), x, create_graph=True)
    return force


def test_weights_of_a_loss_and_inputs_with_gradients_are_none() -> None:
    x, y = labelled(16, 8)
    rule = "optimizer-parameters"
    assert severity(rule, Listed(nn.ModuleList), (x, y)) == ""
    assert severity(rule, nn.Linear(8, 16), (x, y), Arc()) == ""
    assert severity(rule, net(4), (x.clone().requires_grad_(), y)) == ""
    smooth = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    forces = Made(energy, net=smooth)
    assert severity(rule, forces, (x, torch.randn(16, 8)), functional.mse_loss) == ""


# ---- an epsilon that drowns


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (lambda x: functional.layer_norm(x, (32,), eps=1.0), "warning"),
        (lambda x: functional.layer_norm(0.1 * x, (32,), None, None, 1.0), "error"),
        (lambda x: functional.rms_norm(x, (32,), eps=1.0), "warning"),
        (lambda x: functional.group_norm(x, 4, eps=1.0), "warning"),
        (lambda x: functional.batch_norm(x, None, None, training=True, eps=1.0), "warning"),
        (lambda x: functional.layer_norm(x, (32,)), ""),
        (lambda x: functional.layer_norm(x, (32,), eps=1e-3), ""),
        (lambda x: functional.layer_norm(30 * x, (32,), eps=1.0), ""),
        (lambda x: functional.rms_norm(x, (32,)), ""),
    ],
)
def test_a_large_epsilon_of_a_function_is_found_where_it_matters(
    norm: Function, expected: str
) -> None:
    model = Made(lambda m, x: m.outer(norm(m.inner(x)).relu()), inner=nn.Linear(8, 32))
    model.outer = nn.Linear(32, 4)
    nn.init.normal_(model.inner.weight, std=8**-0.5)
    assert severity("norm-epsilon", model, labelled(32, 8)) == expected


def test_an_epsilon_of_one_over_inputs_of_size_one_is_found() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32, eps=1.0), nn.Linear(32, 4))
    nn.init.normal_(model[0].weight, std=8**-0.5)
    assert severity("norm-epsilon", model, labelled(32, 8)) == "warning"


# ---- causal masks


class Language(nn.Module):
    """Attention over letters; `hidden` tells which later positions are hidden."""

    def __init__(self, hidden: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.words, self.qkv, self.head = nn.Embedding(20, 32), nn.Linear(32, 96), nn.Linear(32, 20)
        self.hidden = hidden

    def forward(self, ids: Tensor) -> Tensor:
        q, k, v = self.qkv(self.words(ids)).chunk(3, -1)
        scores = (q @ k.mT / 32**0.5).masked_fill(self.hidden(ids.shape[1]), -math.inf)
        out: Tensor = self.head(scores.softmax(-1) @ v)
        return out


def later(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def next_ids() -> tuple[Tensor, Tensor]:
    ids = torch.randint(20, (8, 17))
    return ids[:, :-1], ids[:, 1:]


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        (lambda n: torch.zeros(n, n, dtype=torch.bool), "error"),
        (lambda n: later(n).mT, "error"),
        (lambda n: torch.ones(n, n, dtype=torch.bool).triu(2), "error"),
        (later, ""),
    ],
    ids=["none", "inverted", "by one", "right"],
)
def test_masks_are_judged_under_a_loss_by_hand(hidden: Any, expected: str) -> None:
    assert severity("future-inputs", Language(hidden), next_ids(), by_hand) == expected


def test_a_prefix_that_is_no_target_may_see_itself() -> None:
    prefix = 10

    def hidden(length: int) -> Tensor:
        mask = later(length)
        mask[:, :prefix] = False
        return mask

    def per_position(scores: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(scores.flatten(0, -2), targets.flatten())

    ids, targets = next_ids()
    batch = (ids, targets.index_fill(1, torch.arange(prefix - 1), -100))
    assert severity("future-inputs", Language(hidden), batch, per_position) == ""
    assert severity("future-inputs", Language(hidden), (ids, targets), per_position) == "error"
    everywhere = Language(lambda n: torch.zeros(n, n, dtype=torch.bool))
    assert severity("future-inputs", everywhere, batch, per_position) == "error"


# ---- losses that broadcast


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    "loss",
    [
        lambda p, y: (p - (y - y.mean()) / y.std()).square().mean(),
        lambda p, y: (p + -y).square().mean(),
        lambda p, y: (p - y.double()).square().mean().float(),
        lambda p, y: (1 - y.sign() * p).clamp(min=0).mean(),
        lambda p, y: functional.gaussian_nll_loss(p, y, torch.ones_like(p)),
        lambda p, y: (y - p).cosh().log().mean(),
    ],
    ids=["scaled targets", "a sum", "a cast", "hinge", "a likelihood", "log cosh"],
)
def test_computed_targets_that_broadcast_are_an_error(loss: Function) -> None:
    x, y = torch.randn(12, 8), torch.randn(12)
    assert severity("loss-broadcast", net(1), (x, y), loss) == "error"
    assert severity("loss-broadcast", net(1), (x, y.unsqueeze(1)), loss) == ""


def quantiles(p: Tensor, y: Tensor) -> Tensor:
    shares = torch.tensor([0.1, 0.5, 0.9])
    return torch.maximum(shares * (y[:, None] - p), (shares - 1) * (y[:, None] - p)).mean()


def ranking(p: Tensor, y: Tensor) -> Tensor:
    return functional.softplus(-(p - p.T) * torch.sign(y[:, None] - y[None])).mean()


@pytest.mark.parametrize(("outputs", "loss"), [(3, quantiles), (1, ranking)])
def test_losses_of_pairs_by_design_are_none(outputs: int, loss: Function) -> None:
    batch = torch.randn(12, 8), torch.randn(12)
    assert severity("loss-broadcast", net(outputs), batch, loss) == ""


# ---- softmax


def pooling(dim: int, *, squeezed: bool = False) -> nn.Module:
    """Return attention pooling over the states of a GRU, [examples, time, features]."""

    def pool(model: nn.Module, x: Tensor) -> Tensor:
        states = model.get_submodule("cell")(x)[0]
        scores = model.get_submodule("score")(states)
        plain = scores.squeeze(-1) if squeezed else scores
        weights = plain.softmax(dim).view_as(scores)
        out: Tensor = model.get_submodule("head")((weights * states).sum(1))
        return out

    cell = nn.GRU(8, 16, batch_first=True)
    return Made(pool, cell=cell, score=nn.Linear(16, 1), head=nn.Linear(16, 4))


@pytest.mark.parametrize(
    ("dim", "squeezed", "expected"),
    [(0, False, "warning"), (0, True, "warning"), (1, False, ""), (1, True, "")],
)
def test_weights_of_a_sum_add_up_over_what_is_summed(
    dim: int, squeezed: bool, expected: str
) -> None:
    model = pooling(dim, squeezed=squeezed)
    assert severity("softmax-axis", model, labelled(16, 6, 8)) == expected


def test_experts_gated_over_the_batch_are_found() -> None:
    def mixed(dim: int) -> nn.Module:
        def mix(model: nn.Module, x: Tensor) -> Tensor:
            experts = model.get_submodule("experts")(x).unflatten(-1, (4, 16))
            gates = model.get_submodule("gate")(x).softmax(dim)[..., None]
            out: Tensor = model.get_submodule("head")((gates * experts).sum(1))
            return out

        modules = {"experts": nn.Linear(8, 64), "gate": nn.Linear(8, 4), "head": nn.Linear(16, 4)}
        return Made(mix, **modules)

    assert severity("softmax-axis", mixed(0), labelled(16, 8)) == "warning"
    assert severity("softmax-axis", mixed(1), labelled(16, 8)) == ""


@pytest.mark.parametrize(("dim", "expected"), [(0, "warning"), (1, "")])
def test_log_probabilities_that_are_gathered_add_up_over_classes(dim: int, expected: str) -> None:
    def loss(scores: Tensor, targets: Tensor) -> Tensor:
        return -scores.log_softmax(dim).gather(1, targets[:, None]).mean()

    assert severity("softmax-axis", net(4), labelled(16, 8), loss) == expected


def test_gates_over_features_and_soft_targets_are_none() -> None:
    def gated(model: nn.Module, x: Tensor) -> Tensor:
        gate = model.get_submodule("gate")(x).softmax(-1)
        out: Tensor = model.get_submodule("head")((gate * model.get_submodule("value")(x)).sum(1))
        return out

    modules = {"gate": nn.Linear(8, 16), "value": nn.Linear(8, 16), "head": nn.Linear(16, 4)}
    assert severity("softmax-axis", Made(gated, **modules), labelled(16, 6, 8)) == ""

    def soft(scores: Tensor, targets: Tensor) -> Tensor:
        return -(functional.one_hot(targets, 4) * scores.log_softmax(-1)).sum(-1).mean()

    assert severity("softmax-axis", net(4), labelled(16, 8), soft) == ""


# ---- targets and scores of losses by hand


def test_equal_targets_of_a_loss_by_hand_are_a_warning() -> None:
    x, y = labelled(16, 8)
    assert severity("constant-targets", net(4), (x, torch.ones_like(y)), by_hand) == "warning"
    assert severity("constant-targets", net(4), (x, y), by_hand) == ""
    few = (x[:4], torch.ones_like(y[:4]))
    assert severity("constant-targets", net(4), few, by_hand) == ""


@pytest.mark.parametrize("end", [torch.abs, torch.exp, torch.square], ids=["abs", "exp", "square"])
@pytest.mark.parametrize("loss", [cross_entropy, by_hand])
def test_scores_that_cannot_be_negative_are_a_warning(end: Function, loss: Function) -> None:
    model = Made(lambda m, x: end(m.net(x)), net=net(4))
    assert severity("score-activation", model, labelled(32, 8), loss) == "warning"


@pytest.mark.parametrize(
    "loss", [by_hand, lambda s, y: functional.nll_loss(s.log_softmax(-1), y)], ids=["hand", "nll"]
)
def test_an_activation_on_scores_is_found_without_a_cross_entropy(loss: Function) -> None:
    assert severity("score-activation", net(4, nn.ReLU()), labelled(32, 8), loss) == "warning"
    assert severity("score-activation", net(4), labelled(32, 8), loss) == ""


def test_scores_that_happen_to_be_positive_or_are_distances_are_none() -> None:
    shifted = Made(lambda m, x: m.net(x) + 9, net=net(4))
    assert severity("score-activation", shifted, labelled(32, 8)) == ""
    distant = Made(lambda m, x: -torch.cdist(m.net(x), torch.eye(4)), net=net(4))
    assert severity("score-activation", distant, labelled(32, 8)) == ""
    capped = Made(lambda m, x: 30 * torch.tanh(m.net(x) / 30), net=net(4))
    assert severity("score-activation", capped, labelled(32, 8)) == ""


# ---- norms in eval mode


class Frozen(nn.Module):
    """The frozen batch norm of detection models, by hand."""

    def __init__(self, width: int, *, loaded: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.randn(width) if loaded else torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        out: Tensor = (x - self.running_mean) * scale + self.bias
        return out


@pytest.mark.parametrize(("loaded", "expected"), [(False, "warning"), (True, "")])
def test_a_frozen_norm_by_hand_needs_statistics(loaded: bool, expected: str) -> None:
    model = nn.Sequential(nn.Linear(8, 32), Frozen(32, loaded=loaded), nn.ReLU(), nn.Linear(32, 4))
    assert severity("norm-mode", model, labelled(32, 8)) == expected


class Taught(nn.Module):
    """A student beside a teacher in eval mode, which runs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def train(self, mode: bool = True) -> Taught:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            shown = self.teacher(x)
        out: Tensor = self.student(x) + shown
        return out


def test_a_teacher_in_eval_mode_is_none() -> None:
    assert severity("norm-mode", Taught(), labelled(32, 8)) == ""
