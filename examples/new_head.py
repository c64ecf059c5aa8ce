"""A new head for a trained network: small or large first weights?

The textbook claim: a large random head sends large random gradients into the features and spoils
them, a small one (or zero) lets them be.
"""

from __future__ import annotations

import torch
from common import Experiment, accuracy, digits, mlp, one_thread, shown, train
from torch import nn

import initstats


def main() -> None:
    """Train on even against odd, then give the network a head for ten classes."""
    one_thread()
    run = Experiment(
        "new_head", "When fine-tuning, does a large new head spoil the features that a small keeps?"
    )
    seeds, before, after = run.choose(10, 2), run.choose(60, 3), run.choose(30, 2)
    scales = run.choose((0.0, 0.01, 0.1, 1.0, 4.0, 16.0), (0.0, 1.0))
    images = 100
    rows = []
    drawn = []
    for scale in scales:
        tests, moved, first = [], [], []
        for seed in range(seeds):
            (x, y), test = digits(seed)
            model = mlp(128, classes=2)
            initstats.init_(model, "mlp", seed=seed)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            train(model, (x, y % 2), epochs=before, seed=seed, optimizer=optimizer)
            head = nn.Linear(128, 10)
            initstats.init.normal_(head.weight, 0, scale * 128**-0.5, seed=seed, name="head")
            initstats.init.zeros_(head.bias)
            model[4] = head
            old = model[2].weight.detach().clone()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
            few = x[:images], y[:images]
            losses = train(model, few, epochs=after, seed=seed, optimizer=optimizer, batch=20)
            first.append(losses[0])
            tests.append(accuracy(model, test))
            change = model[2].weight.detach() - old
            moved.append(100 * initstats.stats(change).rms / initstats.stats(old).rms)
        rows.append(
            {
                "std of the head × √128": scale,
                "loss of the first epoch": shown(first),
                "features moved by, %": shown(moved),
                "test accuracy, %": shown(tests),
            }
        )
        drawn.append((sum(moved) / seeds, sum(tests) / seeds))

    def draw(axes) -> None:  # type: ignore[no-untyped-def]
        places = range(len(scales))
        axes.plot(places, [test for _, test in drawn], marker="o")
        axes.set_xticks(places, [str(scale) for scale in scales])
        axes.set(xlabel="std of the new head × √fan_in", ylabel="test accuracy, %")

    run.save(
        {"images of the new task": images, "seeds": seeds, "epochs": after, "width": 128},
        rows,
        draw,
    )


if __name__ == "__main__":
    main()
