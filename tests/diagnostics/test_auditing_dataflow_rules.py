"""Rules on the batch, the loss, and what depends on what: models they find, and near ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from initstats.auditing import AuditReport, audit
from judged_models import audited, by_rule, demo_gpt

WIDTH = 16


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def labelled(*shape: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape), torch.randint(classes, shape[:1])


def per_position(scores: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(scores.flatten(0, -2), targets.flatten())


def severity(rule: str, model: nn.Module, batch: Any, loss: Any = cross_entropy) -> str:
    """Return the severity of a finding, "" where there is none."""
    return found(rule, audit(model, batch, loss_fn=loss))


def found(rule: str, report: AuditReport) -> str:
    finding = by_rule(report).get(rule)
    return "" if finding is None else finding.severity


def classifier(*end: nn.Module, inputs: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 4), *end)


# ---- the batch


def words(ids: Tensor) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    model = nn.Sequential(nn.Embedding(50, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 50))
    return model, (ids, torch.randint(50, ids.shape))


def test_one_id_everywhere_is_an_error_and_ids_that_differ_are_none() -> None:
    model, batch = words(torch.full((4, 8), 3))
    report = audit(model, batch, loss_fn=per_position)
    finding = by_rule(report)["constant-batch"]
    assert (finding.severity, finding.where, finding.value) == ("error", "0", 3.0)
    model, batch = words(torch.randint(50, (4, 8)))
    assert found("constant-batch", audit(model, batch, loss_fn=per_position)) == ""


class Typed(nn.Module):
    """Words and the type of each, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.types = nn.Embedding(50, WIDTH), nn.Embedding(2, WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        out: Tensor = self.head((self.words(ids) + self.types(types)).mean(1))
        return out


def test_types_may_be_all_one() -> None:
    batch = (torch.randint(50, (8, 6)), torch.zeros(8, 6, dtype=torch.long), torch.arange(8) % 4)
    assert severity("constant-batch", Typed(), batch) == ""
    one_word = (torch.ones(8, 6, dtype=torch.long), torch.randint(2, (8, 6)), batch[2])
    assert severity("constant-batch", Typed(), one_word) == "warning"


def test_examples_that_are_all_equal_are_a_warning() -> None:
    x, y = labelled(16, 8)
    assert severity("constant-batch", classifier(), (x[:1].expand(16, 8), y)) == "warning"
    assert severity("constant-batch", classifier(), (x, y)) == ""


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (cross_entropy, torch.zeros(16, dtype=torch.long)),
        (cross_entropy, torch.tensor([1] * 12 + [-100] * 4)),
        (cross_entropy, torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 16)),
        (functional.binary_cross_entropy_with_logits, torch.ones(16, 4)),
        (functional.mse_loss, torch.full((16, 4), 2.0)),
        (nn.L1Loss(reduction="sum"), torch.zeros(16, 4)),
    ],
    ids=["one class", "one class that counts", "one-hot", "binary", "squares", "a module"],
)
def test_targets_that_are_all_equal_are_a_warning(loss: Any, targets: Tensor) -> None:
    x = torch.randn(16, 8)
    assert severity("constant-targets", classifier(), (x, targets), loss) == "warning"
    other = targets.clone()
    other[0] = 1 - other[0] if targets.dtype is torch.long else other[0].flip(0) + 0.5
    assert severity("constant-targets", classifier(), (x, other), loss) == ""


def test_few_equal_targets_may_be_chance_and_two_losses_have_one_target_each() -> None:
    x = torch.randn(4, 8)
    assert severity("constant-targets", classifier(), (x, torch.zeros(4, dtype=torch.long))) == ""

    def adversarial(scores: Tensor, _: Tensor) -> Tensor:
        judge = functional.binary_cross_entropy_with_logits
        real, made = scores.chunk(2)
        return judge(real, torch.ones_like(real)) + judge(made, torch.zeros_like(made))

    batch = torch.randn(32, 8), torch.zeros(32)
    assert severity("constant-targets", classifier(), batch, adversarial) == ""


# ---- what enters the loss


def by_hand(predicted: Tensor, targets: Tensor) -> Tensor:
    return (predicted - targets).square().mean()


def by_hand_turned(predicted: Tensor, targets: Tensor) -> Tensor:
    return (targets - predicted).abs().mean()


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    "loss",
    [
        *(functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss),
        *(functional.huber_loss, nn.MSELoss(reduction="sum"), by_hand, by_hand_turned),
        lambda a, b: functional.mse_loss(a, b, reduction="none").mean(),
    ],
)
def test_predictions_against_the_targets_of_others_are_an_error(loss: Any) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    x, y = torch.randn(12, 8), torch.randn(12)
    report = audit(model, (x, y), loss_fn=loss)
    finding = by_rule(report)["loss-broadcast"]
    assert (finding.severity, finding.value) == ("error", 144)
    assert severity("loss-broadcast", model, (x, y.unsqueeze(1)), loss) == ""


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_one_target_for_all_outputs_is_a_warning() -> None:
    batch = torch.randn(12, 8), torch.randn(12, 1)
    assert severity("loss-broadcast", classifier(), batch, functional.mse_loss) == "warning"


class Clamped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0)


class AsFunction(nn.Module):
    """A model that ends with a function."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.outer, self.act = nn.Linear(8, 32), nn.Linear(32, 4), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.outer(self.inner(x).tanh()))


@pytest.mark.parametrize(
    "model",
    [
        *(
            lambda: classifier(nn.ReLU()),
            lambda: classifier(nn.Tanh()),
            lambda: classifier(nn.GELU()),
        ),
        *(lambda: classifier(nn.Sigmoid()), lambda: classifier(Clamped())),
        *(lambda: AsFunction(torch.relu), lambda: AsFunction(functional.softplus)),
        *(lambda: classifier(nn.Softmax(0)), lambda: classifier(nn.LogSigmoid())),
    ],
)
def test_an_activation_on_scores_is_a_warning(model: Callable[[], nn.Module]) -> None:
    assert severity("score-activation", model(), labelled(32, 8)) == "warning"


def test_scores_without_one_or_with_a_cap_above_them_are_none() -> None:
    assert severity("score-activation", classifier(), labelled(32, 8)) == ""
    head = classifier()
    nn.init.zeros_(head[2].weight)
    nn.init.zeros_(head[2].bias)
    assert severity("score-activation", head, labelled(32, 8)) == ""
    capped = AsFunction(lambda x: 30 * torch.tanh(x / 30))
    assert severity("score-activation", capped, labelled(32, 8)) == ""


@pytest.mark.parametrize(
    ("act", "targets", "expected"),
    [
        (nn.ReLU, (-1.0, 1.0), "warning"),
        (nn.ReLU, (0.0, 1.0), ""),
        (nn.Sigmoid, (0.0, 255.0), "warning"),
        (nn.Sigmoid, (0.0, 1.0), ""),
        (nn.Tanh, (-3.0, 3.0), "warning"),
        (nn.Tanh, (-1.0, 1.0), ""),
        (nn.Identity, (-3.0, 3.0), ""),
    ],
)
def test_an_activation_that_cannot_return_the_targets_is_a_warning(
    act: type[nn.Module], targets: tuple[float, float], expected: str
) -> None:
    batch = torch.randn(32, 8), torch.empty(32, 4).uniform_(*targets)
    loss = functional.mse_loss
    assert severity("score-activation", classifier(act()), batch, loss) == expected


# ---- normalisation


class Rms(nn.Module):
    """A norm by hand."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x * scale


class RmsNorm(Rms):
    """The same under a name that says so."""


@pytest.mark.parametrize(
    "norm",
    [
        lambda eps: nn.LayerNorm(32, eps=eps),
        lambda eps: nn.LayerNorm(32, eps=eps, elementwise_affine=False),
        lambda eps: nn.BatchNorm1d(32, eps=eps),
        lambda eps: nn.RMSNorm(32, eps=eps),
        lambda eps: RmsNorm(32, eps),
    ],
    ids=["layer", "without parameters", "batch", "rms", "by hand"],
)
def test_an_epsilon_above_the_variance_is_an_error(norm: Callable[[float], nn.Module]) -> None:
    def model(eps: float) -> nn.Module:
        first = nn.Linear(8, 32)
        nn.init.normal_(first.weight, std=0.01)
        nn.init.zeros_(first.bias)
        return nn.Sequential(first, norm(eps), nn.Tanh(), nn.Linear(32, 4))

    assert severity("norm-epsilon", model(1.0), labelled(32, 8)) == "error"
    with_small_input = model(1e-5)
    nn.init.normal_(with_small_input[0].weight, std=1e-5)
    assert severity("norm-epsilon", with_small_input, labelled(32, 8)) == "info"
    assert severity("norm-epsilon", model(1e-5), labelled(32, 8)) == ""


class Stuck(nn.BatchNorm1d):
    """Stays in eval mode."""

    def train(self, mode: bool = True) -> Stuck:  # noqa: ARG002  # that is the fault
        return super().train(False)


class Evaluates(nn.Module):
    """Puts its norm into eval mode on every call."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(32)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm.eval()(x)
        return out


class Functional(nn.Module):
    """Calls the function in the wrong mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(32))
        self.register_buffer("variance", torch.ones(32))

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.mean, self.variance)


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), norm, nn.ReLU(), nn.Linear(32, 4))


@pytest.mark.parametrize(
    "norm", [lambda: Stuck(32), Evaluates, Functional, lambda: nn.BatchNorm1d(32, momentum=0.0)]
)
def test_a_norm_without_statistics_of_the_batch_is_a_warning(norm: Callable[[], nn.Module]) -> None:
    assert severity("norm-mode", normed(norm()), labelled(64, 8)) == "warning"


def test_norms_that_train_or_were_frozen_after_training_are_none() -> None:
    assert severity("norm-mode", normed(nn.BatchNorm1d(32)), labelled(64, 8)) == ""
    assert severity("norm-mode", normed(nn.BatchNorm1d(32, momentum=None)), labelled(64, 8)) == ""
    loaded = Stuck(32)
    loaded.running_mean.normal_()
    assert severity("norm-mode", normed(loaded), labelled(64, 8)) == ""


# ---- parameters that nothing trains


def test_parameters_that_the_optimizer_does_not_hold_are_named() -> None:
    model = classifier()

    def half(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters[2:], 1e-3)

    report = audit(model, labelled(32, 8), loss_fn=cross_entropy, optimizer=half)
    finding = by_rule(report)["optimizer-parameters"]
    assert (finding.where, finding.also) == ("0.weight", ("0.bias",))
    assert "update-ratio" not in by_rule(report)
    assert severity("optimizer-parameters", model, labelled(32, 8)) == ""


def test_an_optimizer_of_replaced_parameters_is_told() -> None:
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model[2] = nn.Linear(32, 4)
    report = audit(model, labelled(32, 8), loss_fn=cross_entropy, optimizer=optimizer)
    assert "2 tensors that are no parameters" in by_rule(report)["optimizer-parameters"].cause


def frozen(model: nn.Sequential) -> nn.Sequential:
    model[:-1].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "fill",
    [
        *(nn.init.kaiming_uniform_, nn.init.xavier_normal_),
        lambda w: nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04),
    ],
)
def test_layers_frozen_at_random_values_are_a_warning(fill: Callable[[Tensor], Tensor]) -> None:
    model = nn.Sequential(
        nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)
    )
    for layer in (model[0], model[2]):
        fill(layer.weight)
    assert severity("frozen-random", frozen(model), labelled(32, 8)) == "warning"


def test_frozen_weights_with_heavy_tails_and_copies_of_trained_ones_are_none() -> None:
    model = classifier(inputs=64)
    model[0].weight.data = torch.distributions.StudentT(3.0).sample((32, 64)) * 0.05
    assert severity("frozen-random", frozen(model), labelled(32, 64)) == ""

    class Distilled(nn.Module):
        """A student and its target network."""

        def __init__(self) -> None:
            super().__init__()
            self.student, self.target = nn.Linear(64, 64), nn.Linear(64, 64)
            self.target.load_state_dict(self.student.state_dict())
            self.target.requires_grad_(False)
            self.head = nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.student(x).tanh() + self.target(x).tanh())
            return out

    assert severity("frozen-random", Distilled(), labelled(32, 64)) == ""


# ---- residual paths and gates


class Joined(nn.Module):
    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.outer(functional.gelu(self.inner(self.norm(x)))))


@pytest.mark.parametrize("count", [2, 6])
def test_blocks_that_all_subtract_their_input_are_an_error(count: int) -> None:
    def model(join: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
        blocks = nn.Sequential(*(Joined(join) for _ in range(count)))
        return nn.Sequential(nn.Linear(8, 32), blocks, nn.Linear(32, 4))

    batch = labelled(64, 8)
    wanted = "error" if count > 2 else ""  # a stack of two has no siblings to compare
    assert severity("residual-path", model(lambda x, y: y - x), batch) == wanted
    assert severity("residual-path", model(lambda x, y: x - y), batch) == ""


class Rectified(nn.Module):
    """A block of a ResNet: a norm, a sum, and a rectifier behind it."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.join = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.norm(self.conv(x))).relu()


def test_subtraction_behind_a_rectifier_is_found_and_a_chain_of_rectifiers_is_none() -> None:
    def images(join: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
        blocks = nn.Sequential(*(Rectified(join) for _ in range(5)))
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        )

    batch = labelled(16, 3, 12, 12)
    assert severity("residual-path", images(lambda x, y: y - x), batch) == "error"
    assert severity("residual-path", images(lambda x, y: x + y), batch) == ""
    assert severity("residual-path", images(lambda _, y: y), batch) == ""
    chain = [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(5)]
    plain = nn.Sequential(nn.Linear(8, 32), *chain, nn.Linear(32, 4))
    assert severity("residual-path", plain, labelled(64, 8)) == ""


class Spatial(nn.Module):
    """The spatial gate of a gMLP: weights near 0, bias 1."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(16), nn.Linear(8, 8)
        nn.init.normal_(self.mix.weight, std=1e-6)
        nn.init.constant_(self.mix.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        u, v = x.chunk(2, -1)
        out: Tensor = u * self.mix(self.norm(v).mT).mT
        return out


class Highway(nn.Module):
    """A gate by a sigmoid, opened by its bias."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.inner, self.open = nn.Linear(32, 32), nn.Linear(32, 32)
        nn.init.constant_(self.open.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        share = self.open(x).sigmoid()
        out: Tensor = share * self.inner(x).tanh() + (1 - share) * x
        return out


class Interpolated(Highway):
    """The same in one function."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, self.inner(x).tanh(), self.open(x).sigmoid())


@pytest.mark.parametrize(("bias", "expected"), [(1.0, ""), (3.0, ""), (20.0, "warning")])
@pytest.mark.parametrize("gate", [Spatial, Highway, Interpolated])
def test_the_bias_of_a_gate_may_be_1(gate: Any, bias: float, expected: str) -> None:
    width = 16 if gate is Spatial else 32
    model = nn.Sequential(nn.Linear(4, 32), gate(bias), nn.Linear(width, 10))
    batch = torch.randn(32, 8, 4), torch.randint(10, (32, 8))
    assert severity("bias-scale", model, batch, per_position) == expected


# ---- what depends on what


class Attending(nn.Module):
    """Attention of torch in front of a head; `whole` pools the positions."""

    def __init__(self, *, batch_first: bool, whole: bool) -> None:
        super().__init__()
        self.stem, self.whole = nn.Linear(8, WIDTH), whole
        self.attend = nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = self.attend(h, h, h)[0]
        out: Tensor = self.head(h.mean(1) if self.whole else h)
        return out


class Running(nn.Module):
    """A recurrent layer that takes examples for time."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.run, self.head = nn.LSTM(8, WIDTH, batch_first=batch_first), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.run(x)[0][:, -1])
        return out


class Centred(nn.Module):
    """Subtracts the mean of the examples, of which a norm takes care."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Scrambled(nn.Module):
    """view where transpose is meant."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (lambda: Attending(batch_first=False, whole=True), "attend"),
        (lambda: Running(batch_first=False), "run"),
        (lambda: nn.Sequential(nn.Linear(8, 16), Pooled(), Centred(), nn.Linear(16, 4)), "2"),
        (lambda: nn.Sequential(nn.Linear(8, 16), Scrambled(), Pooled(), nn.Linear(16, 4)), "1"),
        (lambda: nn.Sequential(Pooled(), nn.Linear(8, 4), nn.Softmax(0), nn.Linear(4, 4)), "2"),
    ],
    ids=["batch_first", "recurrent", "centred", "view", "softmax"],
)
def test_examples_that_see_each_other_are_a_warning(
    model: Callable[[], nn.Module], place: str
) -> None:
    report = audit(model(), labelled(16, 5, 8), loss_fn=cross_entropy)
    finding = by_rule(report)["mixed-examples"]
    assert (finding.severity, finding.where) == ("warning", place)


class Pairs(nn.Module):
    """Scores of all pairs, as CLIP returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, WIDTH), nn.Linear(8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) @ self.right(x).T


def contrastive(scores: Tensor, _: Tensor) -> Tensor:
    return cross_entropy(scores, torch.arange(len(scores)))


def test_examples_apart_batch_norms_and_pairs_are_none() -> None:
    sequences, flat = labelled(16, 5, 8), labelled(16, 8)
    rule = "mixed-examples"
    assert severity(rule, Attending(batch_first=True, whole=True), sequences) == ""
    assert severity(rule, Running(batch_first=True), sequences) == ""
    assert severity(rule, normed(nn.BatchNorm1d(32)), flat) == ""
    assert severity(rule, normed(nn.BatchNorm1d(32, track_running_stats=False)), flat) == ""
    assert (
        severity(rule, nn.Sequential(nn.Linear(8, 32), nn.Dropout(), nn.Linear(32, 4)), flat) == ""
    )
    assert severity(rule, Pairs(), flat, contrastive) == ""


def test_time_first_is_told_as_a_possibility() -> None:
    batch = torch.randn(12, 5, 8), torch.randint(4, (12, 5))
    model = Attending(batch_first=False, whole=False)
    report = audit(model, batch, loss_fn=per_position)
    assert "if that is the batch, nothing is wrong" in by_rule(report)["mixed-examples"].cause


class Masked(nn.Module):
    """Attention under a mask of what is hidden, and the scores of the next id."""

    def __init__(self, hidden: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.ids, self.qkv = nn.Embedding(20, 32), nn.Linear(32, 96)
        self.head, self.hidden = nn.Linear(32, 20), hidden

    def forward(self, ids: Tensor) -> Tensor:
        x = self.ids(ids)
        q, k, v = self.qkv(x).chunk(3, -1)
        all_pairs = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
        scores = (q @ k.mT).masked_fill(self.hidden(all_pairs), -1e9)
        out: Tensor = self.head(x + scores.softmax(-1) @ v)
        return out


class Convolved(nn.Module):
    """A convolution over time, padded on both sides or on the left."""

    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.ids, self.head = nn.Embedding(20, 32), nn.Linear(32, 20)
        self.mix, self.both = nn.Conv1d(32, 32, 3, padding=1 if both else 2), both

    def forward(self, ids: Tensor) -> Tensor:
        x = self.mix(self.ids(ids).mT).mT
        out: Tensor = self.head(x if self.both else x[:, : ids.shape[1]])
        return out


def next_ids() -> tuple[Tensor, Tensor]:
    ids = torch.randint(20, (8, 17))
    return ids[:, :-1], ids[:, 1:]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda: Masked(torch.zeros_like), "missing"),
        (lambda: Masked(lambda pairs: pairs.tril(-1)), "inverted"),
        (lambda: Masked(lambda pairs: pairs.triu(3)), "missing"),
        (lambda: Convolved(both=True), "missing"),
    ],
    ids=["no mask", "inverted", "too late", "convolution"],
)
def test_scores_that_depend_on_their_targets_are_an_error(
    model: Callable[[], nn.Module], why: str
) -> None:
    finding = by_rule(audit(model(), next_ids(), loss_fn=per_position))["future-inputs"]
    assert finding.severity == "error"
    assert f"mask is {why}" in finding.cause


def test_causal_models_and_targets_that_are_not_the_next_inputs_are_none() -> None:
    rule = "future-inputs"
    causal = Masked(lambda pairs: pairs.triu(1))
    assert severity(rule, causal, next_ids(), per_position) == ""
    assert severity(rule, Convolved(both=False), next_ids(), per_position) == ""
    assert found(rule, audited(demo_gpt())) == ""
    ids = torch.randint(20, (8, 16))
    tags = torch.randint(20, (8, 16))
    assert severity(rule, Masked(torch.zeros_like), (ids, tags), per_position) == ""
    assert severity(rule, causal, (ids, tags), per_position) == ""


@pytest.mark.parametrize(("ahead", "expected"), [(0, "warning"), (1, ""), (2, "warning")])
def test_targets_of_a_causal_model_are_one_position_ahead(ahead: int, expected: str) -> None:
    ids = torch.randint(20, (8, 18))
    batch = ids[:, :16], ids[:, ahead : ahead + 16]
    causal = Masked(lambda pairs: pairs.triu(1))
    assert severity("future-inputs", causal, batch, per_position) == expected


class Teacher(nn.Module):
    """Gets its targets under a name that does not say so, and returns the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, past: Tensor, future: Tensor) -> Tensor:
        return functional.mse_loss(self.inner(past), future)


def test_targets_among_the_inputs_are_not_their_own_inputs() -> None:
    batch = {"past": torch.randn(8, 16, 8), "future": torch.randn(8, 16, 8)}
    assert severity("future-inputs", Teacher(), batch, None) == ""


def test_an_autoencoder_may_have_its_inputs_for_targets() -> None:
    ids = torch.randint(20, (8, 16))
    assert severity("future-inputs", Masked(torch.zeros_like), (ids, ids), per_position) == ""


def test_the_causal_probe_has_measured_the_demo() -> None:
    dependence = audited(demo_gpt()).evidence.dependence
    assert dependence.later == 0.0
    assert dependence.examples == 0.0


class Forecast(nn.Module):
    """Predicts the next value of a series, from both sides."""

    def __init__(self, *, bidirectional: bool) -> None:
        super().__init__()
        self.run = nn.GRU(3, WIDTH, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(WIDTH * (1 + bidirectional), 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.run(x)[0])
        return out


def test_series_are_judged_as_ids_are() -> None:
    series = torch.randn(8, 17, 3)
    batch, loss = (series[:, :-1], series[:, 1:]), functional.mse_loss
    assert severity("future-inputs", Forecast(bidirectional=True), batch, loss) == "error"
    assert severity("future-inputs", Forecast(bidirectional=False), batch, loss) == ""


class Heads(nn.Module):
    """Attention of two heads; `weigh` makes outputs of scores [batch, heads, queries, keys]."""

    def __init__(self, weigh: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.qkv, self.head, self.weigh = nn.Linear(16, 48), nn.Linear(16, 4), weigh

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = self.weigh(q @ k.mT / 8**0.5, v)
        out: Tensor = self.head(y.transpose(1, 2).flatten(2).mean(1))
        return out


@pytest.mark.parametrize(
    "weigh",
    [
        lambda s, v: s.softmax(1) @ v,
        lambda s, v: s.softmax(-2) @ v,
        lambda s, v: functional.dropout(functional.softmax(s, dim=1), 0.1) @ v,
        lambda s, v: torch.einsum("bhqk,bhkd->bhqd", s.softmax(2), v),
        lambda s, v: (s.softmax(1).flatten(0, 1) @ v.flatten(0, 1)).view(v.shape),
        lambda s, v: nn.Softmax(dim=1)(s).matmul(v),
    ],
    ids=["heads", "queries", "dropout", "einsum", "bmm", "module"],
)
def test_a_softmax_over_another_axis_than_is_summed_over_is_a_warning(weigh: Any) -> None:
    assert severity("softmax-axis", Heads(weigh), labelled(16, 6, 16)) == "warning"


@pytest.mark.parametrize(
    "weigh",
    [
        lambda s, v: s.softmax(-1) @ v,
        lambda s, v: torch.einsum("bhqk,bhkd->bhqd", functional.dropout(s.softmax(-1), 0.1), v),
        lambda s, v: (s.softmax(-1).flatten(0, 1) @ v.flatten(0, 1)).view(v.shape),
        lambda s, v: s.mT.softmax(-2).mT @ v,
        lambda s, v: (v.mT @ s.softmax(-1).mT).mT,
        lambda s, v: torch.baddbmm(
            torch.zeros(()), s.softmax(-1).flatten(0, 1), v.flatten(0, 1), beta=0
        ).view(v.shape),
        # Slot attention: queries compete, then the weights of each are made to add up to 1.
        lambda s, v: (s.softmax(-2) / s.softmax(-2).sum(-1, keepdim=True)) @ v,
    ],
    ids=["keys", "einsum", "bmm", "transposed", "turned", "baddbmm", "slots"],
)
def test_softmaxes_over_the_keys_are_none(weigh: Any) -> None:
    assert severity("softmax-axis", Heads(weigh), labelled(16, 6, 16)) == ""


def test_log_probabilities_over_the_examples_and_weights_of_one_are_found() -> None:
    def over_examples(scores: Tensor, y: Tensor) -> Tensor:
        return functional.nll_loss(scores.log_softmax(0), y)

    def over_classes(scores: Tensor, y: Tensor) -> Tensor:
        return functional.nll_loss(scores.log_softmax(1), y)

    assert severity("softmax-axis", classifier(), labelled(32, 8), over_examples) == "warning"
    assert severity("softmax-axis", classifier(), labelled(32, 8), over_classes) == ""

    class Weighed(nn.Module):
        """Attention pooling, over the wrong axis: [batch, positions, 1]."""

        def __init__(self, dim: int) -> None:
            super().__init__()
            self.score, self.head, self.dim = nn.Linear(8, 1), nn.Linear(8, 4), dim

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head((self.score(x).softmax(self.dim) * x).sum(1))
            return out

    assert severity("softmax-axis", Weighed(2), labelled(32, 5, 8)) == "warning"
    assert severity("softmax-axis", Weighed(1), labelled(32, 5, 8)) == ""


def test_probes_leave_model_and_batch_as_they_were() -> None:
    model, batch = Masked(torch.zeros_like), next_ids()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    ids = batch[0].clone()
    model.eval()
    random = torch.get_rng_state()
    audit(model, batch, loss_fn=per_position)
    assert not model.training
    assert torch.equal(batch[0], ids)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


class Picky(nn.Module):
    """Raises on any batch but its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 16 or not self.training:
            raise RuntimeError("not this batch")
        out: Tensor = self.linear(x)
        return out


def test_a_model_that_cannot_be_probed_is_audited_all_the_same() -> None:
    report = audit(Picky(), labelled(16, 8), loss_fn=cross_entropy)
    assert report.ok
    assert report.evidence.dependence.examples is None
    assert math.isfinite(report.loss.values[-1])
