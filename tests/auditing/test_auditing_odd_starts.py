"""Starts that look odd and are healthy raise no error, and their sick neighbours do."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from initstats.auditing import AuditReport, audit


def audited(model: nn.Module, *shape: int, classes: int = 10) -> AuditReport:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator)
    y = torch.randint(classes, shape[:1], generator=generator)
    return audit(model, (x, y), loss_fn=cross_entropy)


def errors(report: AuditReport) -> dict[str, str]:
    return {f.rule: f.where for f in report.findings if f.severity == "error"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 4), nn.Linear(4, width)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(functional.relu(self.down(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


class Basic(nn.Module):
    """A residual block whose last norm starts at 0."""

    def __init__(self, inputs: int, outputs: int, *, squeeze: bool = False) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
        self.second, self.norm2 = nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
        self.squeeze = Squeeze(outputs) if squeeze else nn.Identity()
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm2(self.second(functional.relu(self.norm1(self.first(x)))))
        return functional.relu(self.shortcut(x) + self.squeeze(branch))


def stages(*, squeeze: bool) -> nn.Module:
    """Two stages of one block each: no stack has two blocks."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        *(
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Sequential(Basic(16, 16, squeeze=squeeze)),
            nn.Identity(),
        ),
        nn.Sequential(Basic(16, 32, squeeze=squeeze)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


@pytest.mark.parametrize("squeeze", [False, True], ids=["plain", "squeeze-and-excitation"])
def test_a_zero_last_norm_is_healthy_in_a_stage_of_one_block(squeeze: bool) -> None:
    assert errors(audited(stages(squeeze=squeeze), 32, 3, 8, 8)) == {}


def test_a_zero_norm_on_the_only_path_is_an_error() -> None:
    model = nn.Sequential(
        *(nn.Linear(16, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 32), nn.LayerNorm(32)),
        nn.Linear(32, 10),
    )
    nn.init.zeros_(model[1].weight)
    assert errors(audited(model, 32, 16))["norm-identity"] == "1.weight"


@pytest.mark.parametrize("kind", [nn.GELU, nn.SiLU, nn.Mish])
def test_a_smooth_rectifier_of_small_values_is_alive(kind: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(16, 64), kind(), nn.LayerNorm(64), nn.Linear(64, 10))
    nn.init.normal_(model[0].weight, std=1e-5)
    nn.init.zeros_(model[0].bias)
    assert "dead-units" not in errors(audited(model, 64, 16))


def test_a_smooth_rectifier_far_below_zero_is_dead() -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 10))
    nn.init.constant_(model[0].bias, -9.0)
    assert errors(audited(model, 64, 16))["dead-units"] == "0"


class Branch(nn.Module):
    """A perceptron behind a norm, added to its input."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = norm, nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.outer(functional.gelu(self.inner(self.norm(x))))
        return out


def without_first_norm(*stem: nn.Module) -> nn.Module:
    norms = [nn.Identity(), *(nn.LayerNorm(32) for _ in range(3))]
    blocks = nn.Sequential(*(Branch(norm) for norm in norms))
    return nn.Sequential(nn.Linear(16, 32), *stem, blocks, nn.Linear(32, 10))


def test_the_first_block_needs_no_norm_behind_the_norm_of_an_embedding() -> None:
    model = without_first_norm(nn.LayerNorm(32), nn.Dropout(0.1))
    report = audited(model, 64, 16)
    assert "block-structure" not in {finding.rule for finding in report.findings}


def test_a_first_block_without_norm_is_a_warning_where_nothing_normalises_before() -> None:
    findings = audited(without_first_norm(), 64, 16).findings
    assert [f.severity for f in findings if f.rule == "block-structure"] == ["warning"]


class Mask(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return scores.masked_fill(later, -math.inf)


class Masked(nn.Module):
    """Attention whose mask is a module."""

    def __init__(self, mask: nn.Module) -> None:
        super().__init__()
        self.qkv, self.mask, self.out = nn.Linear(8, 24), mask, nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        out: Tensor = self.out(self.mask(q @ k.mT).softmax(-1) @ v)
        return out.mean(1)


class Everything(nn.Module):
    """Masks all keys of the first query."""

    def forward(self, scores: Tensor) -> Tensor:
        return torch.cat([torch.full_like(scores[:, :1], -math.inf), scores[:, 1:]], 1)


def test_a_mask_of_minus_infinity_is_no_finding_and_a_row_of_it_is_an_error() -> None:
    assert audited(Masked(Mask()), 8, 6, 8).findings == ()
    assert "not-finite" in errors(audited(Masked(Everything()), 8, 6, 8))


class Argument(nn.Module):
    """Attention of torch with a mask that is the output of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.mask, self.out = nn.Linear(8, 24), Mask(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = self.mask(torch.zeros(x.shape[1], x.shape[1]))
        out: Tensor = self.out(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        return out.mean(1)


def test_a_mask_may_be_an_argument_of_attention() -> None:
    assert "not-finite" not in errors(audited(Argument(), 8, 6, 8))


class Grouped(nn.Module):
    """A bottleneck with a grouped convolution, filled as torch counts its fans."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, padding=1, groups=32)
        self.conv3, self.norm = nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64)
        for conv in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        return functional.relu(x + self.norm(self.conv3(y)))


def test_layers_of_other_kinds_in_a_block_are_no_peers() -> None:
    stages = [nn.Sequential(*(Grouped() for _ in range(3))) for _ in range(2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64), *stages, *head)
    assert "weight-peers" not in {f.rule for f in audited(model, 16, 3, 8, 8).findings}
    with torch.no_grad():
        stages[1][1].conv2.weight.mul_(10)
    assert errors(audited(model, 16, 3, 8, 8))["weight-peers"] == "3.1.conv2.weight"


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_identity_matrices_are_no_symmetry(act: type[nn.Module]) -> None:
    layers = [layer for _ in range(3) for layer in (nn.Linear(64, 64), act())]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for layer in model[::2][:-1]:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert audited(model, 64, 64).findings == ()


@pytest.mark.parametrize("width", [1, 2, 64])
def test_a_table_of_twenty_thousand_ids_is_no_error(width: int) -> None:
    model = nn.Sequential(nn.Embedding(20_000, width), nn.Flatten(1), nn.Linear(4 * width, 10))
    batch = torch.randint(20_000, (32, 4)), torch.randint(10, (32,))
    assert errors(audit(model, batch, loss_fn=cross_entropy)) == {}


class Reparametrised(nn.Module):
    """A block of a RepVGG: a norm on the identity, where there is one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, stride=1 + (inputs != outputs))
        self.norm = nn.BatchNorm2d(outputs)
        self.identity = nn.BatchNorm2d(outputs) if inputs == outputs else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        return functional.relu(out if self.identity is None else out + self.identity(x))


def test_a_block_that_changes_the_size_has_no_identity_to_normalise() -> None:
    widths = [16, 16, 16, 16, 32, 32, 32]
    blocks = nn.Sequential(*(Reparametrised(a, b) for a, b in itertools.pairwise(widths)))
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    report = audited(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), blocks, pool), 32, 3, 8, 8)
    assert "block-structure" not in {finding.rule for finding in report.findings}
    blocks[1].norm = nn.Identity()  # of the same size as its siblings
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), blocks, pool)
    assert errors(audited(model, 32, 3, 8, 8))["block-structure"] == "1.1.norm"
