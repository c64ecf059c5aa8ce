"""Scale of the first weights × weight decay × generalisation.

The textbook claim: larger first weights train faster and generalise worse, and strong
regularisation makes the scale matter less (it decays what the large weights brought).
"""

from __future__ import annotations

import torch
from common import Experiment, accuracy, digits, interval, mlp, one_thread, shown, train

import initstats


def main() -> None:
    """Train from scaled copies of the same weights, with and without decay."""
    one_thread()
    run = Experiment(
        "scale_decay",
        "Do larger first weights converge faster and generalise worse, and does strong weight decay"
        " make the scale matter less?",
    )
    seeds, epochs = run.choose(10, 2), run.choose(150, 3)
    scales = run.choose((0.25, 0.5, 1.0, 2.0, 4.0, 8.0), (1.0, 4.0))
    decays = run.choose((0.0, 0.01, 0.1), (0.0, 0.1))
    rows = []
    for decay in decays:
        for scale in scales:
            tests, needed, gaps = [], [], []
            for seed in range(seeds):
                data, test = digits(seed, train=200)
                model = mlp(128)
                initstats.init_(model, "mlp", seed=seed)
                with torch.no_grad():
                    for layer in model:
                        if isinstance(layer, torch.nn.Linear):
                            layer.weight.mul_(scale)
                optimizer = torch.optim.SGD(model.parameters(), lr=0.02, weight_decay=decay)
                losses = train(model, data, epochs=epochs, seed=seed, optimizer=optimizer)
                below = [i + 1 for i, loss in enumerate(losses) if loss < 0.1]
                needed.append(below[0] if below else epochs)
                tests.append(accuracy(model, test))
                gaps.append(accuracy(model, data) - tests[-1])
            rows.append(
                {
                    "weight decay": decay,
                    "scale": scale,
                    "epochs to a loss of 0.1": shown(needed, 1),
                    "test accuracy, %": shown(tests),
                    "training − test, %": shown(gaps),
                    "mean": round(interval(tests)[0], 3),
                    "half": round(interval(tests)[1], 3),
                }
            )

    def draw(axes) -> None:  # type: ignore[no-untyped-def]
        for decay in decays:
            mine = [row for row in rows if row["weight decay"] == decay]
            axes.errorbar(
                [row["scale"] for row in mine],
                [row["mean"] for row in mine],
                [row["half"] for row in mine],
                capsize=3,
                marker="o",
                label=f"decay {decay}",
            )
        axes.set(xscale="log", xlabel="first weights × (1 is He)", ylabel="test accuracy, %")
        axes.legend()

    run.save(
        {
            "training images": 200,
            "epochs": epochs,
            "seeds": seeds,
            "width": 128,
            "optimizer": "SGD 0.02",
            "epochs where 0.1 is not reached": epochs,
        },
        rows,
        draw,
    )


if __name__ == "__main__":
    main()
