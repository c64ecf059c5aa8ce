"""Skip connections divided by √2, and depth scaling: 50 and 200 layers.

x + f(x) doubles the variance with each block if f keeps it, so activations grow like 2^(blocks/2).
(x + f(x)) / √2 keeps it ("skip connections times √2" in the literature), and so does a last weight
of each branch that is divided by √blocks.
"""

from __future__ import annotations

import math

import torch
from common import Experiment, accuracy, digits, one_thread, shown, train
from torch import Tensor, nn

import initstats


class Residual(nn.Module):
    """Blocks of two layers around skip connections.

    Args:
        blocks: Number of blocks.
        width: Of all of them.
        skip: What x + f(x) is multiplied by.
    """

    def __init__(self, blocks: int, width: int, skip: float) -> None:
        super().__init__()
        self.skip = skip
        self.stem = nn.Linear(64, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify: `[n, 64]` to `[n, 10]`."""
        x = self.stem(x)
        for block in self.blocks:
            x = self.skip * (x + block(x))
        out: Tensor = self.head(x)
        return out


FORMS = ("plain", "÷ √2", "depth-scaled", "zero branch")


def make(form: str, layers: int, width: int, seed: int) -> Residual:
    """Return a network of so many layers whose branches keep the variance of what they get."""
    blocks = (layers - 2) // 2
    model = Residual(blocks, width, 0.5**0.5 if form == "÷ √2" else 1.0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            initstats.init.zeros_(parameter)
        else:  # LeCun into the stream, He behind the ReLU: a branch keeps the variance
            gain = 2**0.5 if name.endswith("2.weight") else 1.0
            std = gain * parameter.shape[1] ** -0.5
            initstats.init.normal_(parameter, 0, std, seed=seed, name=name)
    with torch.no_grad():
        for block in model.blocks:
            if form == "depth-scaled":
                block[2].weight.div_(math.sqrt(blocks))
            elif form == "zero branch":
                block[2].weight.zero_()
    return model


def main() -> None:
    """Measure the stream before training, and train."""
    one_thread()
    run = Experiment(
        "residual_scale",
        "What do 50 and 200 layers do to the scale of activations and to training, with x + f(x),"
        " with (x + f(x)) / √2, and with branches scaled by depth?",
    )
    depths, seeds, epochs = run.choose((50, 200), (10,)), run.choose(5, 2), run.choose(15, 1)
    width = run.choose(64, 16)
    rows = []
    streams: dict[tuple[str, int], list[float]] = {}
    for layers in depths:
        for form in FORMS:
            tests, ends, lasts, firsts = [], [], [], []
            for seed in range(seeds):
                data, test = digits(seed)
                model = make(form, layers, width, seed)
                with torch.no_grad():
                    x = model.stem(data[0])
                    scale = [initstats.stats(x).rms]
                    for block in model.blocks:
                        x = model.skip * (x + block(x))
                        scale.append(initstats.stats(x).rms)
                streams.setdefault((form, layers), scale)
                lasts.append(scale[-1] / scale[0])
                optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
                losses = train(model, data, epochs=epochs, seed=seed, optimizer=optimizer)
                firsts.append(losses[0])
                ends.append(losses[-1])
                tests.append(accuracy(model, test))
            rows.append(
                {
                    "layers": layers,
                    "form": form,
                    "rms, last ÷ first block": f"{sum(lasts) / seeds:.3g}",
                    "loss of the first epoch": f"{sum(firsts) / seeds:.3g}",
                    "loss of the last epoch": f"{sum(ends) / seeds:.3g}",
                    "test accuracy, %": shown(tests),
                }
            )

    def draw(axes) -> None:  # type: ignore[no-untyped-def]
        for form in FORMS:
            axes.plot(streams[form, depths[-1]], label=form)
        axes.set(yscale="log", xlabel="block", ylabel=f"rms before training, {depths[-1]} layers")
        axes.legend()

    run.save(
        {"seeds": seeds, "epochs": epochs, "width": width, "optimizer": "AdamW 1e-3"}, rows, draw
    )


if __name__ == "__main__":
    main()
