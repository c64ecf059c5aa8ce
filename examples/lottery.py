"""The initialisation lottery: how much of the accuracy is the seed of the weights?

The order of the batches is the same for all members, so that only the first weights differ. The
ensemble averages the members' logits.
"""

from __future__ import annotations

import torch
from common import Experiment, accuracy, digits, interval, mlp, one_thread, train

import initstats


def main() -> None:
    """Train an ensemble of independent members, and compare the mean with the whole."""
    one_thread()
    run = Experiment(
        "lottery",
        "Does the seed of the weights decide the accuracy, and does an ensemble of independent"
        " members beat its best member?",
    )
    members, epochs = run.choose(20, 4), run.choose(40, 3)
    data, test = digits(train=300)
    models = initstats.ensemble(lambda: mlp(64), members, "mlp", seed=0)
    found = []
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        train(model, data, epochs=epochs, seed=0, optimizer=optimizer)
        found.append(accuracy(model, test))
    sizes = [n for n in (1, 2, 5, 10, 20) if n <= members]
    rows = []
    for n in sizes:

        def together(x: torch.Tensor, n: int = n) -> torch.Tensor:
            return torch.stack([model(x) for model in models[:n]]).mean(0)

        rows.append(
            {"members": n, "accuracy of the ensemble, %": round(accuracy(together, test), 2)}
        )
    mean, half = interval(found)
    spread = torch.tensor(found).std().item()
    rows.append(
        {
            "members": f"each of {members} alone",
            "accuracy of the ensemble, %": f"{mean:.2f} ± {half:.2f}, std {spread:.2f},"
            f" {min(found):.2f} to {max(found):.2f}",
        }
    )
    noise = 100 * (mean / 100 * (1 - mean / 100) / len(test[1])) ** 0.5
    rows.append(
        {
            "members": "std that the choice of test images alone would give",
            "accuracy of the ensemble, %": round(noise, 2),
        }
    )

    def draw(axes) -> None:  # type: ignore[no-untyped-def]
        axes.hist(found, bins=10, color="tab:blue", alpha=0.7, label=f"{members} seeds")
        for row in rows[: len(sizes)]:
            axes.axvline(row["accuracy of the ensemble, %"], color="black", lw=0.8)
            axes.text(
                row["accuracy of the ensemble, %"],
                axes.get_ylim()[1],
                row["members"],
                rotation=90,
                va="top",
                fontsize=8,
            )
        axes.set(xlabel="test accuracy, %", ylabel="seeds (lines: ensembles of n)")
        axes.legend()

    run.save(
        {"training images": 300, "test images": len(test[1]), "epochs": epochs, "width": 64},
        rows,
        draw,
    )


if __name__ == "__main__":
    main()
