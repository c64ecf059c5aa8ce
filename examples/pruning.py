"""Pruning by magnitude after training from first weights of different variance.

The textbook claim: with a larger first variance, what training adds is small beside what the draw
put there, so magnitude says less about what a weight is good for, and pruning hurts more.
"""

from __future__ import annotations

import torch
from common import Experiment, accuracy, digits, interval, mlp, one_thread, shown, train
from torch import nn

import initstats


@torch.no_grad()
def prune(model: nn.Sequential, share: float) -> None:
    """Set the smallest weights of every hidden layer to zero."""
    for layer in list(model)[:-1]:
        if isinstance(layer, nn.Linear):
            count = int(share * layer.weight.numel())
            limit = layer.weight.abs().flatten().kthvalue(max(1, count)).values
            layer.weight[layer.weight.abs() <= limit] = 0


def main() -> None:
    """Train, prune, test."""
    one_thread()
    run = Experiment(
        "pruning",
        "Does a larger variance of the first weights make pruning by magnitude hurt more?",
    )
    seeds, epochs = run.choose(10, 2), run.choose(60, 3)
    scales = run.choose((0.5, 1.0, 2.0, 4.0), (1.0, 4.0))
    shares = run.choose((0.0, 0.5, 0.7, 0.8, 0.9, 0.95), (0.0, 0.8))
    rows = []
    for scale in scales:
        tests: dict[float, list[float]] = {share: [] for share in shares}
        for seed in range(seeds):
            data, test = digits(seed)
            model = mlp(256)
            initstats.init_(model, "mlp", seed=seed)
            with torch.no_grad():
                for layer in list(model)[:-1]:
                    if isinstance(layer, nn.Linear):
                        layer.weight.mul_(scale)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
            train(model, data, epochs=epochs, seed=seed, optimizer=optimizer)
            for share in shares:
                prune(model, share)  # of rising shares: each time what is left of the smallest
                tests[share].append(accuracy(model, test))
        rows += [
            {
                "scale": scale,
                "pruned": share,
                "test accuracy, %": shown(tests[share]),
                "mean": round(interval(tests[share])[0], 3),
                "half": round(interval(tests[share])[1], 3),
            }
            for share in shares
        ]

    def draw(axes) -> None:  # type: ignore[no-untyped-def]
        for scale in scales:
            mine = [row for row in rows if row["scale"] == scale]
            axes.errorbar(
                [row["pruned"] for row in mine],
                [row["mean"] for row in mine],
                [row["half"] for row in mine],
                capsize=3,
                marker="o",
                label=f"first weights × {scale}",
            )
        axes.set(xlabel="share of hidden weights set to 0", ylabel="test accuracy, %")
        axes.legend()

    run.save({"training images": 1000, "epochs": epochs, "seeds": seeds, "width": 256}, rows, draw)


if __name__ == "__main__":
    main()
