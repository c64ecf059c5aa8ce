"""Walks of nested batches: containers of all kinds, in order, and rebuilt as what they were."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from initstats.cli.own_model import moved
from initstats.diagnostics.layer_records import floating_tensors
from initstats.diagnostics.nested import map_nested, nested_tensors


class Pair(NamedTuple):
    x: Any
    y: Any


@dataclass(frozen=True)
class Example:
    x: Any
    y: Any
    length: int = field(init=False, default=7)


class Rows(list[Any]):
    pass


def triple(x: Any, y: Any) -> tuple[Any, ...]:
    return (x, y, "label")


KINDS: list[Callable[[Any, Any], Any]] = [
    triple,
    lambda x, y: [x, y, None],
    lambda x, y: Rows([x, y]),
    lambda x, y: deque([x, y]),
    Pair,
    Example,
    lambda x, y: {"x": x, "y": y, "flag": True},
    lambda x, y: OrderedDict(y=x, x=y),
    lambda x, y: defaultdict(list, x=x, y=y),
    lambda x, y: UserDict(x=x, y=y),
    lambda x, y: MappingProxyType({"x": x, "y": y}),
]


@pytest.mark.parametrize("inner", KINDS)
@pytest.mark.parametrize("outer", KINDS)
def test_containers_in_containers_are_walked_in_order_and_rebuilt(
    outer: Callable[[Any, Any], Any], inner: Callable[[Any, Any], Any]
) -> None:
    a, b, c = torch.ones(1), torch.arange(2), torch.zeros(3)
    value = outer(inner(a, b), c)
    assert [id(tensor) for tensor in nested_tensors(value)] == [id(a), id(b), id(c)]
    assert [id(tensor) for tensor in floating_tensors(value)] == [id(a), id(c)]

    lengths = map_nested(lambda x: len(x) if isinstance(x, Tensor) else x, value)
    plain = (UserDict, MappingProxyType)  # pytree does not know them: they become dicts
    assert type(lengths) is (dict if isinstance(value, plain) else type(value))
    expected = outer(inner(1, 2), 3)
    assert repr(lengths) == repr(_plain(expected))


def _plain(value: Any) -> Any:
    """The same with dicts for mappings that pytree does not know."""
    if isinstance(value, (UserDict, MappingProxyType)):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Pair):
        return Pair(*map(_plain, value))
    if isinstance(value, Example):
        return Example(_plain(value.x), _plain(value.y))
    if isinstance(value, (tuple, list, deque)):
        return type(value)(map(_plain, value))  # type: ignore[call-arg, arg-type]
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _plain(item)
    return value


def test_what_is_no_container_has_no_tensors() -> None:
    for value in (None, 3, "text", Example, {torch.ones(1)}):
        assert list(nested_tensors(value)) == []


def test_what_can_move_itself_is_moved_whole() -> None:
    packed = pack_padded_sequence(torch.ones(2, 3), torch.tensor([3, 2]), batch_first=True)
    moving = moved({"x": [packed, torch.ones(2)], "n": 3}, torch.device("meta"))
    assert isinstance(moving["x"][0], PackedSequence)
    assert moving["x"][0].data.device.type == moving["x"][1].device.type == "meta"
    assert moving["n"] == 3


def test_a_batch_encoding_is_walked_and_moved() -> None:
    transformers = pytest.importorskip("transformers")
    batch = transformers.BatchEncoding({"input_ids": torch.ones(2, 3), "labels": torch.ones(2)})
    assert [tensor.shape for tensor in nested_tensors(batch)] == [(2, 3), (2,)]
    moving = moved([batch], torch.device("meta"))[0]
    assert isinstance(moving, transformers.BatchEncoding)
    assert moving["labels"].device.type == "meta"
    sizes = map_nested(lambda x: x.numel(), batch)
    assert sizes == {"input_ids": 6, "labels": 2}
