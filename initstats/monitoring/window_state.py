"""What a monitor saves of a window that is open, as tensors and plain values, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from initstats.monitoring.window import Factor, Segment, Window


def window_state(window: Window) -> dict[str, Any]:
    """Return the records of a window on the CPU. Waits for the device.

    Args:
        window: An open window.

    Returns:
        Tensors, numbers, texts, lists and dictionaries: what `torch.load(weights_only=True)` reads.
    """
    window.transfers.synchronize()
    segments = [
        {
            "kind": kind,
            "layout": list(segment.layout),
            "steps": list(segment.steps),
            "moments": _stacked(segment.moments),
            "counts": _stacked(segment.counts),
            "places": None if segment.places is None else segment.places.cpu().clone(),
            "factors": [_plain(factor) for factor in segment.factors],
        }
        for kind, segment in window.parts()
    ]
    return {
        "histograms": window.histograms,
        "scale": window.scale,
        "segments": segments,
        "expected": {kind: list(names) for kind, names in window.expected.items()},
        "reasons": {kind: dict(names) for kind, names in window.reasons.items()},
        "losses": {step: _plain(loss) for step, loss in window.losses.items()},
        "rates": {name: _plain(rate) for name, rate in window.rates.items()},
        "first_step": window.first_step,
        "last_step": window.last_step,
        "behind": window.behind,
        "clipped": [
            [step, float(norm), _plain(factor), sorted(names)]
            for step, norm, factor, names in window.clipped
        ],
    }


def window_from_state(state: dict[str, Any]) -> Window:
    """Return the window of which `window_state` made this."""
    window = Window(
        state["histograms"],
        state["scale"],
        expected={kind: tuple(names) for kind, names in state["expected"].items()},
        reasons={kind: dict(names) for kind, names in state["reasons"].items()},
        losses=dict(state["losses"]),
        rates=dict(state["rates"]),
        first_step=state["first_step"],
        last_step=state["last_step"],
        behind=state.get("behind", 0),  # not in those of earlier versions
        clipped=[
            (step, torch.tensor(norm), factor, set(names))
            for step, norm, factor, names in state["clipped"]
        ],
    )
    window.earlier = [
        (
            saved["kind"],
            Segment(
                tuple(saved["layout"]),
                list(saved["steps"]),
                [saved["moments"]],
                [saved["counts"]],
                saved["places"],
                list(saved["factors"]),
            ),
        )
        for saved in state["segments"]
    ]
    return window


def _stacked(rows: list[Tensor]) -> Tensor:
    """Return records `[n, 8]` or `[k, n, 8]` as one `[k, n, 8]` on the CPU."""
    parts = [part if part.ndim == 3 else part[None] for part in rows]  # noqa: PLR2004  # [k, n, 8]
    return torch.cat([part.cpu() for part in parts])


def _plain(factor: Factor) -> float:
    return float(factor)
