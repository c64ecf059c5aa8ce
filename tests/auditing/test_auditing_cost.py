"""What an audit keeps of a forward and backward pass: records, small beside the activations."""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType

import torch
from torch import Tensor

from initstats.auditing.demo.data import batch as text_batch
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.auditing.hooks import Collector
from initstats.auditing.loss_mode import LossWatch

SHARE = 0.01  # of the activations


def held_bytes(root: object) -> int:
    """Sum the memory of all tensors that can be reached, each storage once."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    left = [root]
    while left:
        found = left.pop()
        if id(found) in seen or isinstance(found, (type, ModuleType, FunctionType)):
            continue
        seen.add(id(found))
        if isinstance(found, Tensor):
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        else:
            left += gc.get_referents(found)
    return sum(storages.values())


def test_records_hold_at_most_a_hundredth_of_the_activations() -> None:
    # The width of GPT-2 medium, where the bar is stated, in fewer blocks: both grow alike.
    config = DemoConfig(vocabulary=1024, context=512, layers=2, width=1024, heads=16, batch=2)
    model = DemoGPT(config)
    tokens, targets = text_batch(config.vocabulary, config.context, config.batch, seed=0)
    saved: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(tokens, targets)[1]
    activations = sum(saved.values())
    with Collector(model) as collector:
        with collector.operations(), collector.functions(), LossWatch(with_scores=True):
            loss = model(tokens, targets)[1]
        collector.in_backward = True
        loss.backward()
    held = held_bytes(collector.flows)
    records = sum(len(flow.outputs) + len(flow.gradients) for flow in collector.flows.values())
    assert records > 40
    assert 0 < held < SHARE * activations
