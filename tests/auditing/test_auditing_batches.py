"""The audit takes batches and outputs of all kinds."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from audited_models import LOSS, labelled, net, run


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Example:
    x: Tensor
    y: Tensor


class TakesExample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, example: Example) -> Tensor:
        return LOSS(self.body(example.x), example.y)


class TakesNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        scores = self.body(x)
        return {"scores": scores, "loss": LOSS(scores, y)}


class TakesSeveral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.body(a + b)
        return out


def test_batches_of_all_kinds_give_the_same_losses() -> None:
    x, y = labelled()
    expected = run(net()).loss.values
    assert run(net(), Pair(x, y)).loss.values == expected
    assert run(net(), [x, y]).loss.values == expected
    assert run(TakesExample(), Example(x, y), loss_fn=None).loss.values == expected
    for mapping in ({"x": x, "y": y}, UserDict(x=x, y=y)):  # HF's BatchEncoding is a UserDict
        assert run(TakesNames(), mapping, loss_fn=None).loss.values == expected
    assert run(TakesSeveral(), (x / 2, x / 2, y)).loss.values == pytest.approx(expected)


def test_a_dataclass_on_another_device_is_refused() -> None:
    x, y = labelled()
    with pytest.raises(ValueError, match="expected the batch on the device of the model"):
        run(TakesExample(), Example(x.to("meta"), y), loss_fn=None)


def test_a_batch_encoding_and_a_model_output_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=16, loss_type="ForCausalLM"
    )
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))
    batch = transformers.BatchEncoding({"input_ids": tokens, "labels": tokens})
    report = run(model, batch, loss_fn=None, recipe="gpt2")
    assert report.loss.expected is not None
    assert any(layer.name == "transformer.h.1" for layer in report.layers)
