"""Training loss of a small GPT against learning rate at several widths, under μP and without it.

python -m benchmarks.mup_transfer trains all models on the help topics of Python, which ship with
CPython, writes benchmarks/results/width/mup_transfer.json, draws docs/width_transfer.png and writes
the table of docs/guides/width.md; a run that was cut short goes on where it was. --draw draws and
writes again from the file.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from initstats import init_, recipes
from initstats.auditing.demo import data
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.recipes import Recipe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/width/mup_transfer.json"
FIGURE = ROOT / "docs/width_transfer.png"
PAGE = ROOT / "docs/guides/width.md"
BLOCK = re.compile(r"(<!-- mup_transfer -->\n)(.*?)(\n<!-- end of mup_transfer -->)", re.DOTALL)

BASE, WIDTHS, HEAD_WIDTH = 64, (64, 128, 256, 512), 16
VOCABULARY, CONTEXT, BATCH, LAYERS = 128, 32, 8, 2  # characters
STEPS, WARM_UP, MEASURED = 150, 15, 30
POWERS = {"mup": range(11, 4, -1), "gpt2": range(14, 7, -1)}
# Of the widest model those around the smallest loss: it takes as long as all others together.
WIDEST_POWERS = {"mup": range(11, 5, -1), "gpt2": range(13, 9, -1)}
# A wide model takes most of the time, and its loss varies less with the seed.
SEEDS = {64: 2, 128: 2, 256: 1, 512: 1}
RECIPES: dict[str, Recipe] = {
    # The head has 1/m in it: both recipes train the same model, with the same forward pass.
    # Queries and readouts of 0 need more steps than these before they do anything.
    "mup": recipes.mup(
        base=BASE, std=BASE**-0.5, absorb=True, zero_query=False, zero_readout=False
    ),
    "gpt2": recipes.gpt2(),
}


def rates(name: str, width: int) -> list[float]:
    """Return the learning rates that a recipe is tried with at a width, ascending."""
    powers = WIDEST_POWERS if width == max(WIDTHS) else POWERS
    return [2.0**-power for power in powers[name]]


def characters() -> Tensor:
    """Return the text as codes of its characters, int64 `[n]`; 0 for those beyond ASCII."""
    return torch.tensor([code if (code := ord(c)) < VOCABULARY else 0 for c in data.text()])


def build(width: int) -> nn.Module:
    """Make a GPT with heads of one width and a head of its own."""
    config = DemoConfig(VOCABULARY, CONTEXT, LAYERS, width, width // HEAD_WIDTH, BATCH)
    model = DemoGPT(config)
    model.lm_head = nn.Linear(width, VOCABULARY, bias=False)
    return model


def train(width: int, recipe: Recipe, rate: float, seed: int, stream: Tensor) -> float:
    """Train one model; return the mean loss of the last steps, in nats.

    Args:
        width: Its width.
        recipe: Its initialisation and the groups of its optimizer.
        rate: Learning rate at the base.
        seed: Seed of weights and batches.
        stream: The text as tokens, int64 `[n]`.
    """
    model = build(width)
    init_(model, recipe, seed=seed, fingerprints=False)
    optimizer = torch.optim.AdamW(recipe.param_groups(model, lr=rate), weight_decay=0.0)
    rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(STEPS):
        for group, full in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = full * min(1.0, (step + 1) / WARM_UP)
        starts = torch.randint(len(stream) - CONTEXT, (BATCH,), generator=generator)
        rows = torch.stack([stream[start : start + CONTEXT + 1] for start in starts.tolist()])
        loss = model(rows[:, :-1], rows[:, 1:].contiguous())[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    mean = float(torch.stack(losses[-MEASURED:]).mean())
    return mean if math.isfinite(mean) else math.inf


def train_one(task: tuple[str, int, float, int]) -> float:
    """Train the model of a recipe, a width, a learning rate and a seed, on one thread."""
    torch.set_num_threads(1)
    name, width, rate, seed = task
    return round(train(width, RECIPES[name], rate, seed, characters()), 4)


def run(processes: int) -> None:
    """Train all models that the results file has no loss of, and write it after each of them.

    Args:
        processes: How many models are trained at a time.
    """
    results = read() if RESULTS.exists() else {"runs": []}
    done = {(r["recipe"], r["width"], r["rate"], r["seed"]) for r in results["runs"]}
    # The wide ones first, so that all processes have work until the end.
    tasks = [
        (name, width, rate, seed)
        for width in reversed(WIDTHS)
        for name in RECIPES
        for rate in rates(name, width)
        for seed in range(SEEDS[width])
        if (name, width, rate, seed) not in done
    ]
    settings = {
        "base": BASE,
        "head_width": HEAD_WIDTH,
        "vocabulary": VOCABULARY,
        "context": CONTEXT,
        "batch": BATCH,
        "layers": LAYERS,
        "steps": STEPS,
        "warm_up": WARM_UP,
        "mean_over_the_last": MEASURED,
        "characters_of_text": len(characters()),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if results.setdefault("settings", settings) != settings:
        raise ValueError(f"expected results of these settings in {RESULTS}, got others; remove it")
    with ProcessPoolExecutor(processes) as pool:
        waiting = {pool.submit(train_one, task): task for task in tasks}
        for future in as_completed(waiting):
            name, width, rate, seed = waiting[future]
            loss = future.result()
            values = {"recipe": name, "width": width, "rate": rate, "seed": seed}
            # JSON has no infinity: a loss that is not finite is null.
            results["runs"].append({**values, "loss": loss if math.isfinite(loss) else None})
            results["runs"].sort(key=lambda r: (r["recipe"], r["width"], r["rate"], r["seed"]))
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{name} width {width} rate {rate:.5f} seed {seed} loss {loss}", flush=True)


def read() -> dict[str, Any]:
    """Return the values of the results file."""
    values: dict[str, Any] = json.loads(RESULTS.read_text())
    return values


def losses(results: dict[str, Any]) -> dict[str, dict[int, dict[float, float]]]:
    """Return the loss by recipe, width and learning rate, mean over the seeds.

    Args:
        results: The values of the results file.
    """
    found: dict[str, dict[int, dict[float, list[float]]]] = {}
    for r in results["runs"]:
        by_rate = found.setdefault(r["recipe"], {}).setdefault(r["width"], {})
        by_rate.setdefault(r["rate"], []).append(math.inf if r["loss"] is None else r["loss"])
    return {
        name: {
            width: {rate: sum(seeds) / len(seeds) for rate, seeds in sorted(by_rate.items())}
            for width, by_rate in sorted(widths.items())
        }
        for name, widths in found.items()
    }


def best_rates(results: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Return the learning rate of the smallest loss, by recipe and width.

    It is the minimum of the parabola through the smallest loss and its neighbours, in the logarithm
    of the rate; the rate itself at the edge.

    Args:
        results: The values of the results file.
    """
    found: dict[str, dict[int, float]] = {}
    for name, widths in losses(results).items():
        for width, by_rate in widths.items():
            logs, values = [math.log2(rate) for rate in by_rate], list(by_rate.values())
            i = values.index(min(values))
            place = logs[i]
            if 0 < i < len(values) - 1 and math.isfinite(values[i - 1] + values[i + 1]):
                left, middle, right = values[i - 1 : i + 2]
                place += (
                    0.5 * (left - right) / (left - 2 * middle + right) * (logs[i + 1] - logs[i])
                )
            found.setdefault(name, {})[width] = 2.0**place
    return found


def table(results: dict[str, Any]) -> str:
    """Return the best learning rates and their losses as a table in Markdown.

    Args:
        results: The values of the results file.
    """
    best, lines = best_rates(results), losses(results)
    rows = [
        "| width | `gpt2`: best rate | loss | `mup`: best rate | loss |",
        "| --- | --- | --- | --- | --- |",
    ]
    for width in WIDTHS:
        cells = [str(width)]
        for name in ("gpt2", "mup"):
            smallest = min(lines[name][width].values())
            cells += [f"2^{math.log2(best[name][width]):.1f}", f"{smallest:.2f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def write_page(results: dict[str, Any]) -> None:
    """Write the table between the markers of the guide.

    Args:
        results: The values of the results file.
    """
    text = PAGE.read_text()
    PAGE.write_text(BLOCK.sub(lambda found: found[1] + table(results) + found[3], text))


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw loss against learning rate, one panel per recipe, one line per width.

    Args:
        results: The values of the results file.
        path: The PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"gpt2": "gpt2: the best rate moves", "mup": "mup: the best rate stays"}
    best = best_rates(results)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, name in zip(panels, titles, strict=True):
        for i, (width, by_rate) in enumerate(losses(results)[name].items()):
            colour = ("#86d549", "#1e9b8a", "#38588c", "#440154")[i]
            known = [value if math.isfinite(value) else math.nan for value in by_rate.values()]
            label = f"width {width}"
            panel.plot(list(by_rate), known, "-", color=colour, marker="osD^"[i], label=label)
            panel.axvline(best[name][width], color=colour, linestyle=":", linewidth=1)
        panel.set_xscale("log", base=2)
        panel.set_title(titles[name], fontsize=11)
        panel.set_xlabel("learning rate at the base")
        panel.grid(visible=True, color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("training loss, nats per character")
    panels[1].legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Run and draw, or draw alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", action="store_true", help="draw from the results file")
    parser.add_argument("--processes", type=int, default=2, help="models that train at a time")
    options = parser.parse_args()
    if not options.draw:
        RESULTS.parent.mkdir(exist_ok=True)
        run(options.processes)
    results = read()
    draw(results, FIGURE)
    write_page(results)
    for name, widths in best_rates(results).items():
        print(name, {width: f"{rate:.5f}" for width, rate in widths.items()})


if __name__ == "__main__":
    main()
