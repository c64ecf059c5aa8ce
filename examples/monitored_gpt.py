"""A monitored run in the style of nanoGPT, with the page that the monitor writes.

Trains a small GPT on the help texts of Python, token by token, with warm-up, cosine decay and
clipping; the monitor writes a row every few steps, and `initstats report` makes one page of them.
"""

from __future__ import annotations

import math
import subprocess
import sys

import torch
from common import Experiment, one_thread

import initstats
from initstats.auditing.demo.data import tokens
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.sinks import JsonLines


def main() -> None:
    """Train, watch, report."""
    one_thread()
    run = Experiment("monitored_gpt", "What does a run look like that starts well?")
    steps, every = run.choose(400, 8), run.choose(10, 2)
    layers, width = run.choose((4, 128), (2, 32))
    config = DemoConfig(layers=layers, width=width, context=64, vocabulary=run.choose(2048, 256))
    model = DemoGPT(config)
    initstats.init_(model, "gpt2", seed=0)
    stream = tokens(config.vocabulary)
    train, held_out = stream[: len(stream) * 9 // 10], stream[len(stream) * 9 // 10 :]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 40) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    generator = torch.Generator().manual_seed(0)

    def batch(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(data) - config.context - 1, (16,), generator=generator)
        rows = torch.stack([data[i : i + config.context + 1] for i in starts.tolist()])
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    lines = run.out / "monitored_gpt.jsonl"
    lines.unlink(missing_ok=True)
    rows = []
    with initstats.Monitor(
        model,
        optimizer=optimizer,
        every=every,
        watch=("weights", "gradients", "activations", "updates"),
        sinks=[JsonLines(lines)],
    ) as monitor:
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            _, loss = model(*batch(train))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            monitor.step(loss=loss.detach())
            if step == 1 or step % (steps // 4) == 0:
                with torch.no_grad():
                    test = sum(float(model(*batch(held_out))[1]) for _ in range(4)) / 4
                rows.append(
                    {
                        "step": step,
                        "loss of training, nats": round(loss.item(), 3),
                        "held-out loss, nats": round(test, 3),
                    }
                )
    page = run.out / "monitored_gpt.html"
    command = [sys.executable, "-m", "initstats", "report", str(lines), "--output", str(page)]
    subprocess.run(command, check=True)
    print(f"the page: {page}")

    def draw(axes) -> None:  # type: ignore[no-untyped-def]
        import json

        read = [json.loads(line) for line in lines.read_text().splitlines()]
        found = [(row["step"], row) for row in read if "step" in row]
        axes.plot([s for s, _ in found], [last(row["loss"]) for _, row in found], label="loss")
        norms = [last(row["gradient_norm_before_clipping"]) for _, row in found]
        axes.plot([s for s, _ in found], norms, label="gradient norm before clipping")
        axes.set(xlabel="step", yscale="log")
        axes.legend()

    setting = {"layers": layers, "width": width, "steps": steps, "row every": every}
    run.save(setting, rows, draw)


def last(value: object) -> float:
    """Return the last number of a list, or the number."""
    return float(value[-1] if isinstance(value, list) else value)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
