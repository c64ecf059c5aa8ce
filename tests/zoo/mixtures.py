"""Healthy models with branches, sets and tables: experts, mixer, points, graph, ranking."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from zoo import data
from zoo.perceptrons import fill
from zoo.specimens import Builder, Size, Specimen, Stepper


class Experts(nn.Module):
    """A mixture of experts behind a norm: each token goes to the two best of four."""

    def __init__(self, width: int, count: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.router = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        best, chosen = self.router(y).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows, slots = (chosen == i).nonzero(as_tuple=True)
            scaled = expert(y[rows]) * best[rows, slots].unsqueeze(1)
            out = out.index_add(0, rows, scaled)
        return x + out


def experts(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    width = size.wide(64)
    blocks = [Experts(width) for _ in range(size.deep(4))]
    model = nn.Sequential(
        nn.Linear(width, width), *blocks, nn.LayerNorm(width), nn.Linear(width, 10)
    )
    fill(model, 1.0)
    return Specimen(model, data.features(size.many(128), width, size.seed), cross_entropy)


class Mixing(nn.Module):
    """A block of an MLP-Mixer: across tokens, then across channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.tokens = nn.Sequential(
            nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens)
        )
        self.norm2 = nn.LayerNorm(width)
        self.channels = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.channels(self.norm2(x))
        return out


class Mixer(nn.Module):
    """An MLP-Mixer on images of 32 pixels in patches of 4."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.Sequential(*(Mixing(64, width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)
        nn.init.zeros_(self.head.weight)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        out: Tensor = self.head(self.norm(x).mean(1))
        return out


def mixer(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = Mixer(size.wide(64), size.deep(4))
    return Specimen(model, data.images(size.many(16), 32, size.seed), cross_entropy)


class PointNet(nn.Module):
    """Points one by one through shared layers, then the largest over the points."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [3, width, width, 2 * width, 4 * width]
        self.shared = nn.ModuleList(nn.Conv1d(a, b, 1) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for b in sizes[1:])
        self.head = nn.Sequential(
            *(nn.Linear(4 * width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3)),
            nn.Linear(width, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for conv, norm in zip(self.shared, self.norms, strict=True):
            x = functional.relu(norm(conv(x)))
        out: Tensor = self.head(x.amax(-1))
        return out


def pointnet(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    batch = data.clouds(size.many(32), 64, size.seed)
    return Specimen(PointNet(size.wide(32)), batch, cross_entropy)


class GraphConvolution(nn.Module):
    """Two layers of Kipf and Welling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, 32)
        self.second = nn.Linear(32, 4)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        hidden = functional.relu(self.first(adjacency @ x))
        out: Tensor = self.second(adjacency @ functional.dropout(hidden, 0.5, self.training))
        return out


def graph(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    batch = data.graph(size.many(128), size.wide(32), size.seed)
    return Specimen(GraphConvolution(size.wide(32)), batch, cross_entropy, Stepper(rate=1e-2))


class Ranking(nn.Module):
    """Tables of categories and dense features, crossed: a click model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(100, 16) for _ in range(4))
        self.bottom = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(16 + 10, 32), nn.ReLU(), nn.Linear(32, 1))
        for table in self.tables:
            nn.init.uniform_(table.weight, -0.1, 0.1)

    def forward(self, dense: Tensor, categories: Tensor) -> Tensor:
        bottom = self.bottom(dense)
        rows = [bottom] + [table(categories[:, i]) for i, table in enumerate(self.tables)]
        stacked = torch.stack(rows, 1)
        i, j = torch.triu_indices(5, 5, 1)
        crossed = (stacked @ stacked.transpose(1, 2))[:, i, j]
        out: Tensor = self.top(torch.cat([bottom, crossed], 1)).squeeze(1)
        return out


def ranking(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    count, width = size.many(64), size.wide(16)
    dense, labels = data.features(count, width, size.seed, classes=2)
    categories = torch.randint(100, (count, 4))
    batch = (dense, categories, labels.float())
    return Specimen(Ranking(width), batch, functional.binary_cross_entropy_with_logits)


class Sigmoids(nn.Module):
    """Three layers of sigmoids, filled by Xavier with gain 1: small, and slow, but it learns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.out = nn.Linear(width, 10)
        fill(self, 1.0)
        nn.init.normal_(self.out.weight, std=1 / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.second(self.hidden(x).sigmoid()).sigmoid())
        return out


def sigmoids(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    width = size.wide(64)
    return Specimen(Sigmoids(width), data.features(size.many(64), width, size.seed), cross_entropy)


MODELS: dict[str, Builder] = {
    f.__name__: f for f in (experts, mixer, pointnet, graph, ranking, sigmoids)
}
