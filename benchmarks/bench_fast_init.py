"""Models of transformers, 24 layers of width 1024, constructed inside fast_init and without it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import initstats
from benchmarks.harness import Case, Measure, cases

SIZES: dict[str, Any] = {
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
}
# At least so many times as fast as without, on 2 threads with AVX-512. The constructor itself, its
# page faults included, is in both times.
BARS = {"GPT2LMHeadModel": 5.0, "Dinov2Model": 5.0, "BertModel": 1.6, "ViTModel": 1.6}


def models() -> dict[str, Callable[[], torch.nn.Module]]:
    """Return the constructors, by the name of the class."""
    import transformers as t

    wide: dict[str, Any] = {**SIZES, "intermediate_size": 4096}
    return {
        "GPT2LMHeadModel": partial(
            t.GPT2LMHeadModel, t.GPT2Config(n_layer=24, n_embd=1024, n_head=16)
        ),
        "Dinov2Model": partial(t.Dinov2Model, t.Dinov2Config(**SIZES)),
        "BertModel": partial(t.BertModel, t.BertConfig(**wide)),
        "ViTModel": partial(t.ViTModel, t.ViTConfig(**wide)),
    }


@cases("name", {f"fast_init {name} 24x1024": name for name in BARS})
def bench_fast_init(measure: Measure, device: torch.device, name: str) -> None:
    """Construct one model; on a GPU the parameters are made and filled there."""
    build = models()[name]
    with torch.device("meta"):
        parameters = list(build().parameters())
    model = OneModel(build, device)
    measure(
        Case(
            ours=model.build_fast,
            rival=model.build,
            count=1,
            unit="model",
            bytes_moved=sum(parameter.nbytes for parameter in parameters),
            before=model.drop,
            bar_ratio=BARS[name],
        )
    )
    model.drop()


class OneModel:
    """At most one model at a time: the last one is freed before the next is timed."""

    def __init__(self, build: Callable[[], torch.nn.Module], device: torch.device) -> None:
        self._build = build
        self._device = device
        self._model: torch.nn.Module | None = None

    def build(self) -> None:
        """Construct it as it is."""
        with self._device:
            self._model = self._build()

    def build_fast(self) -> None:
        """Construct it inside fast_init."""
        with initstats.fast_init():
            self.build()

    def drop(self) -> None:
        """Free the memory of the last one."""
        self._model = None
        gc.collect()
