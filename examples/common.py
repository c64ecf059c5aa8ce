"""What the experiments share: real data that ships with a package, training, intervals, results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
Data = tuple[Tensor, Tensor]


class Experiment:
    """One run of an example: its sizes, its folder, and what it found.

    Args:
        name: Of the files.
        question: What is asked, and what textbooks say.
    """

    def __init__(self, name: str, question: str) -> None:
        parser = argparse.ArgumentParser(description=question)
        parser.add_argument("--quick", action="store_true", help="small sizes, for a first look")
        parser.add_argument("--out", type=Path, default=Path("example-results"), help="folder")
        options = parser.parse_args()
        self.name, self.question = name, question
        self.quick: bool = options.quick
        self.out: Path = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self._begin = time.monotonic()

    def choose(self, full: Any, quick: Any) -> Any:
        """Return what this run uses of two."""
        return quick if self.quick else full

    def save(
        self, setting: dict[str, Any], rows: Sequence[dict[str, Any]], draw: Callable[[Any], None]
    ) -> None:
        """Print the rows, and write them with a figure.

        Args:
            setting: Sizes and seeds.
            rows: One per line of the table.
            draw: Draws on a matplotlib Axes.
        """
        result = {
            "question": self.question,
            "setting": setting,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch"
            f" {torch.__version__}",
            "seconds": round(time.monotonic() - self._begin),
            "rows": rows,
        }
        (self.out / f"{self.name}.json").write_text(json.dumps(result, indent=1) + "\n")
        for row in rows:
            print("  ".join(f"{key}: {value}" for key, value in row.items()))
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
        draw(axes)
        figure.savefig(self.out / f"{self.name}.png", dpi=100)
        plt.close(figure)


def digits(seed: int = 0, train: int = 1000) -> tuple[Data, Data]:
    """Return scikit-learn's 1,797 handwritten digits, normalised and split at random.

    Args:
        seed: Of the split.
        train: Number of images to train with; the rest tests.

    Returns:
        Training and test data: float32 `[n, 64]` and int64 `[n]`.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    x = torch.tensor(pixels[order], dtype=torch.float32)
    y = torch.tensor(labels[order], dtype=torch.int64)
    x = (x - x[:train].mean()) / x[:train].std()
    return (x[:train], y[:train]), (x[train:], y[train:])


def mlp(width: int, hidden: int = 2, classes: int = 10) -> nn.Sequential:
    """Return a ReLU network on 64 inputs; its weights are whatever torch made."""
    layers: list[nn.Module] = []
    inputs = 64
    for _ in range(hidden):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def train(
    model: nn.Module,
    data: Data,
    *,
    epochs: int,
    seed: int,
    optimizer: torch.optim.Optimizer,
    batch: int = 50,
) -> list[float]:
    """Train with cross-entropy.

    Returns:
        Mean loss of each epoch, nats.
    """
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(y), generator=generator).split(batch):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / len(y))
    return losses


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], data: Data) -> float:
    """Return the share of right answers, in percent."""
    x, y = data
    return 100 * float((model(x).argmax(1) == y).float().mean())


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean over seeds and half of its 95 % confidence interval (Student's t)."""
    from scipy.stats import t

    sample = np.array(list(values))
    error = sample.std(ddof=1) / np.sqrt(len(sample)) if len(sample) > 1 else float("nan")
    return float(sample.mean()), float(t.ppf(0.975, max(1, len(sample) - 1)) * error)


def shown(values: Iterable[float], digits: int = 2) -> str:
    """Return the mean with its interval, as text."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def one_thread() -> None:
    """Use one thread: the networks here are too small for more."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
