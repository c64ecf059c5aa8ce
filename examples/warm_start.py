"""Warm start against random: a wider network from a trained one, and from nothing.

The task changes between the two: the small network was trained on the digits 0 to 4, the next one
must tell all ten. `warm_start_` copies what fits and leaves the rest as the recipe made it.
"""

from __future__ import annotations

import torch
from common import Experiment, accuracy, digits, mlp, one_thread, shown, train

import initstats


def main() -> None:
    """Train on half of the classes, then on all from three starts."""
    one_thread()
    run = Experiment(
        "warm_start",
        "Does a start from the layers of a network that was trained on half of the classes beat a"
        " random one, and for how long?",
    )
    seeds, epochs = run.choose(10, 2), run.choose(60, 3)
    images = 100
    checked = [e for e in (1, 2, 5, 10, 20, 40, 60) if e <= epochs]
    starts = ("random", "warm: hidden layers", "warm: everything")
    found: dict[tuple[str, int], list[float]] = {}
    for seed in range(seeds):
        (x, y), test = digits(seed)
        small = y < 5
        teacher = mlp(64)
        initstats.init_(teacher, "mlp", seed=seed)
        optimizer = torch.optim.SGD(teacher.parameters(), lr=0.05, momentum=0.9)
        train(teacher, (x[small], y[small]), epochs=epochs, seed=seed, optimizer=optimizer)
        for start in starts:
            model = mlp(64)
            known = teacher.state_dict()
            if start == "warm: hidden layers":
                known = {name: value for name, value in known.items() if not name.startswith("4.")}
            if start == "random":
                initstats.init_(model, "mlp", seed=1000 + seed)
            else:  # what the small network does not have is made as above
                initstats.warm_start_(model, known, "mlp", seed=1000 + seed)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            done = 0
            for epoch in checked:
                train(
                    model,
                    (x[:images], y[:images]),
                    epochs=epoch - done,
                    seed=seed + epoch,
                    optimizer=optimizer,
                    batch=20,
                )
                done = epoch
                found.setdefault((start, epoch), []).append(accuracy(model, test))
    rows = [
        {"start": start, **{f"epoch {epoch}": shown(found[start, epoch]) for epoch in checked}}
        for start in starts
    ]

    def draw(axes) -> None:  # type: ignore[no-untyped-def]
        for start in starts:
            values = [torch.tensor(found[start, epoch]).mean().item() for epoch in checked]
            axes.plot(checked, values, marker="o", label=start)
        axes.set(xscale="log", xlabel="epoch", ylabel="test accuracy, %")
        axes.legend()

    run.save({"images of the new task": images, "seeds": seeds, "width": 64}, rows, draw)


if __name__ == "__main__":
    main()
