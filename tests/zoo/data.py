"""Batches with structure: images, features, text, waves, points and a graph, all seeded."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from initstats.auditing.demo import data

SPECIAL = 3  # the first tokens are left for padding, begin and end
Pair = tuple[Tensor, Tensor]


def images(count: int, side: int, seed: int, classes: int = 10) -> Pair:
    """Smooth fields, one per class, each with its own noise; channels have mean 0 and std 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    coarse = torch.randn(classes, 3, 4, 4, generator=generator)
    smooth = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    own = torch.randn(count, 3, side // 4, side // 4, generator=generator)
    x = smooth[labels] + functional.interpolate(own, size=(side, side), mode="bilinear")
    x = x + 0.3 * torch.randn(count, 3, side, side, generator=generator)
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    return (x - mean) / std, labels


def features(count: int, width: int, seed: int, classes: int = 10) -> Pair:
    """Standardised features around one centre per class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    x = centres[labels] + torch.randn(count, width, generator=generator)
    return (x - x.mean(0)) / x.std(0), labels


@cache
def _stream(vocabulary: int) -> Tensor:
    return data.tokens(vocabulary)


def text(count: int, context: int, seed: int, vocabulary: int = 256) -> Tensor:
    """Sequences of word tokens of English text, [count, context], in [SPECIAL, vocabulary)."""
    stream = _stream(vocabulary - SPECIAL) + SPECIAL
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(stream) - context, (count,), generator=generator)
    return torch.stack([stream[start : start + context] for start in starts.tolist()])


def waves(count: int, length: int, seed: int, channels: int = 8) -> Pair:
    """Noisy sine waves, [count, length, channels], and which of four frequencies they have."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    phase = 6.28 * torch.rand(count, 1, channels, generator=generator)
    time = torch.arange(length).view(1, length, 1) / length
    x = 1.4 * torch.sin(6.28 * (1 + labels.view(-1, 1, 1)) * time + phase)
    return x + 0.2 * torch.randn(x.shape, generator=generator), labels


def clouds(count: int, points: int, seed: int) -> Pair:
    """Points on ellipsoids, [count, points, 3], and which of four shapes it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    axes = 0.5 + torch.rand(4, 3, generator=generator)
    sphere = functional.normalize(torch.randn(count, points, 3, generator=generator), dim=-1)
    return 1.5 * sphere * axes[labels].unsqueeze(1), labels


def graph(nodes: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features [nodes, width], a normalised adjacency with self loops, and labels."""
    generator = torch.Generator().manual_seed(seed)
    x, labels = features(nodes, width, seed, classes=4)
    same = labels.view(-1, 1) == labels.view(1, -1)
    chance = torch.where(same, 0.15, 0.01)
    upper = (torch.rand(nodes, nodes, generator=generator) < chance).triu(1)
    adjacency = (upper | upper.T).float() + torch.eye(nodes)
    scale = adjacency.sum(1).rsqrt()
    return x, scale.view(-1, 1) * adjacency * scale, labels
