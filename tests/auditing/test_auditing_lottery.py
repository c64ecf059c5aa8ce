"""The audit over several seeds: what is drawn afresh, what is measured, and what is found."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from audited_models import CONFIG, classifier, demo_batch, demo_gpt, labelled
from initstats.auditing import AuditReport, Lottery, SeedSpread, audit
from initstats.auditing.demo.model import DemoGPT
from initstats.auditing.report.text import lottery_table
from initstats.diagnostics.seed_spread import SeedResult


def relu_net(width: int, depth: int) -> nn.Sequential:
    sizes = [8, *[width] * depth]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def over_seeds(model: Any, **options: Any) -> AuditReport:
    options = {"loss_fn": functional.cross_entropy, "steps": 2, "seeds": 4, **options}
    return audit(model, options.pop("batch", None) or labelled(), **options)


def lottery_of(report: AuditReport) -> Lottery:
    assert report.lottery is not None
    return report.lottery


def spread_findings(report: AuditReport) -> list[Any]:
    return [finding for finding in report.findings if finding.rule == "seed-spread"]


# --- what is drawn


def test_a_recipe_draws_the_weights_of_each_seed_and_the_given_ones_stay() -> None:
    model = demo_gpt()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    report = over_seeds(model, batch=demo_batch(), loss_fn=None, recipe="gpt2", seeds=3, seed=5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    results = lottery_of(report).seeds
    assert [result.seed for result in results] == [5, 6, 7]
    assert len({result.first_loss for result in results}) == 3
    for result in results:
        alone = over_seeds(
            model, batch=demo_batch(), loss_fn=None, recipe="gpt2", seeds=2, seed=result.seed
        )
        assert alone.loss.values[0] == result.first_loss
        assert alone.loss.values[-1] == result.last_loss


def test_the_report_is_that_of_the_first_seed() -> None:
    report = over_seeds(lambda: relu_net(16, 2), seeds=3, seed=7)
    first = over_seeds(lambda: relu_net(16, 2), seeds=1, seed=7)
    assert first.lottery is None
    assert report.loss == first.loss
    assert report.loss.values[0] == lottery_of(report).seeds[0].first_loss


def test_a_builder_is_called_under_each_seed_of_torch_numpy_and_python() -> None:
    import random

    def build() -> nn.Module:
        model = nn.Linear(8, 4)
        with torch.no_grad():
            model.weight += float(np.random.rand()) + random.random()  # noqa: NPY002
        return model

    a = lottery_of(over_seeds(build)).seeds
    random.random()  # another state than that of the first audit
    np.random.rand()  # noqa: NPY002
    states = (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    b = lottery_of(over_seeds(build)).seeds
    assert a == b
    assert len({result.first_loss for result in a}) == 4
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002


def test_a_builder_initialises_and_a_recipe_is_only_compared() -> None:
    options = {"batch": demo_batch(), "loss_fn": None, "recipe": "gpt2", "seeds": 2}
    report = over_seeds(lambda: DemoGPT(CONFIG), **options)
    assert any(finding.rule == "weights-against-recipe" for finding in report.findings)
    assert len({result.first_loss for result in lottery_of(report).seeds}) == 2
    assert over_seeds(demo_gpt(), **options).ok


def test_without_a_recipe_modules_reset_themselves_and_frozen_ones_stay() -> None:
    model = classifier()
    model[0].weight.requires_grad_(requires_grad=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = over_seeds(model, seed=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    stds = [p.weight.std for p in report.evidence.parameters.values() if p.name == "0.weight"]
    assert stds == [pytest.approx(float(before["0.weight"].std()), rel=1e-5)]
    assert len({result.first_loss for result in lottery_of(report).seeds}) == 4


def test_weights_are_as_before_when_one_seed_fails() -> None:
    class SomeSeedsFail(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.weight[0, 0] > 0.1:
                raise RuntimeError("an unlucky seed")
            return super().forward(x)

    model = SomeSeedsFail(8, 4)
    before = model.weight.detach().clone()
    with pytest.raises(RuntimeError, match="an unlucky seed"):
        over_seeds(model, seeds=30)
    assert torch.equal(model.weight, before)


def test_on_step_counts_the_steps_of_all_seeds() -> None:
    told: list[int] = []
    over_seeds(classifier(), seeds=3, on_step=told.append)
    assert told == [1, 2, 3, 4, 5, 6]


class Bare(nn.Module):
    """Owns a parameter that no reset_parameters writes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x) * self.scale
        return out


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(self.one(x))
        return out


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (Bare(), {}, ValueError, r"expected a recipe, a function that builds .*got none for 'sca"),
        (Tied(), {}, ValueError, "because Linear and Linear share a parameter and would both draw"),
        (lambda: 3, {}, TypeError, "expected model to build a torch.nn.Module, got int from '<la"),
        (
            lambda: nn.Linear(8, 4),
            {"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters())},
            TypeError,
            "expected optimizer to be a function from parameters to an optimizer where a function ",
        ),
        (Bare(), {"seed": -1}, ValueError, "expected seed >= 0, got seed=-1"),
        (Bare(), {"seeds": 1.5}, TypeError, "expected seeds to be an int, got seeds=1.5"),
    ],
)
def test_models_that_cannot_be_drawn_again_are_refused(
    model: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    kept = [p.detach().clone() for p in model.parameters()] if isinstance(model, nn.Module) else []
    with pytest.raises(error, match=message) as caught:
        over_seeds(model, **options)
    assert str(caught.value).startswith("initstats.audit: ")
    if kept:
        assert all(torch.equal(a, b) for a, b in zip(kept, model.parameters(), strict=True))


# --- what is measured and found


def test_the_spread_of_a_relu_net_is_that_of_theory() -> None:
    # Hanin & Nica 2018: ln |x|^2 of a Gaussian ReLU net has variance 5 sum(1/n), and 2/n where no
    # ReLU follows, as behind the 16th matrix here; ln rms a quarter of it. Over 60 seeds the sample
    # std is within 4 / sqrt(2 * 59) = 37 % but in 1 of 16000 draws; the seeds are fixed.
    x, y = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1])
    report = over_seeds(lambda: relu_net(32, 16), batch=(x, y), seeds=60, steps=1)
    spread = lottery_of(report).spreads["output rms of 30"]
    assert spread.log_std == pytest.approx(math.sqrt((5 * 15 + 2) / 32 / 4), rel=0.37)


def test_a_deep_narrow_relu_net_is_found_to_be_a_lottery() -> None:
    # Lu et al. 2019: width 2 and 20 layers are born dead with a probability near 1.
    report = over_seeds(lambda: relu_net(2, 20), seeds=8)
    (finding,) = spread_findings(report)
    assert finding.severity == "warning"
    assert "seeds" in finding.cause
    assert "are all 0 or not finite" in finding.cause
    assert 0 < finding.value < 1
    results = lottery_of(report).seeds
    dead = sum(result.activations[finding.where] == 0 for result in results)
    assert dead / len(results) == finding.value


def test_a_narrow_net_with_scales_that_vary_is_found() -> None:
    (finding,) = spread_findings(over_seeds(lambda: relu_net(24, 24), seeds=8))
    assert finding.value > finding.threshold == 0.5
    assert "std of ln" in finding.cause


def test_healthy_models_are_no_lottery() -> None:
    gpt = over_seeds(demo_gpt(), batch=demo_batch(), loss_fn=None, recipe="gpt2", steps=5)
    assert spread_findings(gpt) == []
    assert lottery_of(gpt).spreads["output rms of h.2"].log_std < 0.1
    assert spread_findings(over_seeds(classifier(), steps=10)) == []


def results(*losses: float, activations: tuple[float, ...] = (1.0, 1.0)) -> Lottery:
    pairs = zip(losses, activations, strict=True)
    return Lottery(
        tuple(SeedResult(i, 2.0, b, {"a": a}, {}, 0, 0) for i, (b, a) in enumerate(pairs))
    )


def test_a_last_loss_that_the_seed_decides_is_found() -> None:
    assert list(SeedSpread().judge(results(1.0, 1.1))) == []
    (finding,) = SeedSpread().judge(results(1.0, 2.0))
    assert finding.where == "last loss"
    assert finding.value == pytest.approx(math.sqrt(0.5) / 2)
    assert list(SeedSpread(loss=0.5).judge(results(1.0, 2.0))) == []


def test_what_is_zero_with_every_seed_is_no_spread() -> None:
    assert list(SeedSpread().judge(results(1.0, 1.0, activations=(0.0, 0.0)))) == []
    (finding,) = SeedSpread().judge(results(1.0, 1.0, activations=(0.0, 1.0)))
    assert (finding.where, finding.value) == ("a", 0.5)
    (finding,) = SeedSpread().judge(results(1.0, 1.0, activations=(math.nan, 1.0)))
    assert finding.value == 0.5


def test_the_spread_is_in_the_text_and_in_the_values() -> None:
    report = over_seeds(demo_gpt(), batch=demo_batch(), loss_fn=None, recipe="gpt2", seeds=3)
    text = str(report)
    for words in ("the lottery: 3 seeds", "first loss", "output rms of h.0", "gradient rms of h.2"):
        assert words in text
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))["lottery"]
    assert [seed["seed"] for seed in values["seeds"]] == [0, 1, 2]
    losses = sorted(seed["last_loss"] for seed in values["seeds"])
    spread = values["spread"]["last loss"]
    assert [spread["min"], spread["median"], spread["max"]] == losses
    logs = torch.tensor(losses, dtype=torch.float64).log()
    assert spread["log_std"] == pytest.approx(float(logs.std()), rel=1e-9)
    assert (
        audit(classifier(), labelled(), loss_fn=functional.cross_entropy, steps=1).to_dict()[
            "lottery"
        ]
        is None
    )


def test_a_table_of_many_blocks_and_seeds_stays_small() -> None:
    report = over_seeds(lambda: relu_net(8, 30), seeds=9, steps=1)
    table = lottery_table(lottery_of(report).to_dict())
    assert table.row_count == 2 + 2 * 8 + 2
    assert len(table.columns) == 1 + 4 + 6
