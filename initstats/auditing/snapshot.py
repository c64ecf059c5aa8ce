"""Save and restore the state of a model, its optimizer and the random generators."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class RandomStates:
    """Context manager that restores the random generators of torch, numpy and Python.

    Args:
        devices: Devices whose generators are put back too; the CPU always is.
    """

    def __init__(self, devices: Sequence[torch.device] = ()) -> None:
        self._devices = [device for device in set(devices) if device.type == "cuda"]

    def __enter__(self) -> Self:
        self._torch = torch.get_rng_state()
        self._cuda = [(device, torch.cuda.get_rng_state(device)) for device in self._devices]
        self._python = random.getstate()
        numpy = sys.modules.get("numpy")  # a model that uses it has imported it
        self._numpy = None if numpy is None else numpy.random.get_state()
        return self

    def __exit__(self, *exception: object) -> None:
        torch.set_rng_state(self._torch)
        for device, state in self._cuda:
            torch.cuda.set_rng_state(state, device)
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)


class Snapshot:
    """Context manager that undoes everything an audit changes, also after an exception.

    Restored are parameters, gradients, buffers, attributes that modules set on themselves, train
    and eval modes, the optimizer, the tensors of the batch, and the random generators of torch (on
    the CPU and on the devices of the model), numpy and Python.

    Args:
        model: The model.
        optimizer: An optimizer whose state is restored too, or None.
        others: More modules, such as a loss with parameters of its own.
        tensors: Tensors that the model gets, which it may change in place.

    Attributes:
        weights: Copies of the parameters, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        others: Sequence[nn.Module] = (),
        tensors: Sequence[Tensor] = (),
    ) -> None:
        self.weights: dict[str, Tensor] = {}
        self._model = model
        self._optimizer = None if optimizer is None else _OptimizerState(optimizer)
        self._others = others
        self._given = [(t, t.requires_grad, t.grad if t.is_leaf else None) for t in tensors]
        self._inputs = _Values(tensors)

    def __enter__(self) -> Self:
        model = self._model
        modules = list(dict.fromkeys(chain(model.modules(), *(o.modules() for o in self._others))))
        self._random = RandomStates([p.device for p in model.parameters()])
        self._random.__enter__()
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        self._own = dict(model.named_parameters())
        self._foreign = _Values(self._foreign_parameters())
        every: list[Tensor] = [*self._own.values(), *self._foreign.tensors]
        self._gradients = [(tensor, tensor.grad) for tensor in every]
        self._attributes = [(module, dict(vars(module))) for module in modules]
        self._slots = [(module._buffers, dict(module._buffers)) for module in modules]  # noqa: SLF001
        held = chain.from_iterable(slots.values() for slots, _ in self._slots)
        self._buffers = _Values([buffer for buffer in held if buffer is not None])
        for tensor in every:
            tensor.grad = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for slots, held in self._slots:
            slots.clear()
            slots.update(held)  # forward may have put other tensors there
        for module, attributes in self._attributes:
            _restore_dict(vars(module), attributes)
        with torch.no_grad():
            for name, parameter in self._own.items():
                parameter.copy_(self.weights[name])
        self._foreign.restore()
        self._buffers.restore()
        self.restore_inputs()
        for tensor, gradient in self._gradients:
            tensor.grad = gradient
        if self._optimizer is not None:
            self._optimizer.restore()
        self._random.__exit__()

    def restore_inputs(self) -> None:
        """Restore the batch, so that every step gets the same one."""
        self._inputs.restore()
        for tensor, requires_grad, gradient in self._given:
            if tensor.is_leaf:
                tensor.requires_grad_(requires_grad)
                tensor.grad = gradient

    def _foreign_parameters(self) -> list[Tensor]:
        """Return parameters of the optimizer and of other modules that the model does not own."""
        known = {id(parameter) for parameter in self._own.values()}
        others = chain.from_iterable(module.parameters() for module in self._others)
        stepped = () if self._optimizer is None else self._optimizer.parameters()
        return [p for p in dict.fromkeys(chain(others, stepped)) if id(p) not in known]


class _Values:
    """Copies of tensors, written back where a value has changed.

    The counter of in-place changes does not tell: batch norms update their statistics behind it.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)
        self._places = [_without_overlap(tensor.detach()) for tensor in tensors]
        self._copies = [place.clone() for place in self._places]

    def restore(self) -> None:
        """Write the copies back."""
        for place, values in zip(self._places, self._copies, strict=True):
            if not torch.equal(place, values):
                place.copy_(values)


def _without_overlap(tensor: Tensor) -> Tensor:
    """Return a view that holds each element of an expanded tensor once: it can be written."""
    if tensor.layout is torch.strided:
        for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
            if stride == 0 and size > 1:
                tensor = tensor.narrow(dim, 0, 1)
    return tensor


class _OptimizerState:
    """State of an optimizer, put back into the same objects: schedulers may hold them."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._attributes = dict(vars(optimizer))
        self._groups = [(group, self._kept(group)) for group in optimizer.param_groups]
        self._states = {p: (held, self._kept(held)) for p, held in optimizer.state.items()}

    def parameters(self) -> Iterator[Tensor]:
        """Yield all parameters that it steps."""
        for group in self._optimizer.param_groups:
            yield from group["params"]

    def restore(self) -> None:
        """Restore it."""
        optimizer = self._optimizer
        _restore_dict(vars(optimizer), self._attributes)
        optimizer.state.clear()
        for parameter, (held, kept) in self._states.items():
            optimizer.state[parameter] = held
            self._put_back(held, kept)
        for group, kept in self._groups:
            self._put_back(group, kept)

    @staticmethod
    def _kept(held: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return every value with a copy of it."""
        kept: dict[str, tuple[Any, Any]] = {}
        for name, value in held.items():
            if isinstance(value, Tensor):
                kept[name] = (value, value.detach().clone())
            else:
                kept[name] = (value, None if name == "params" else copy.deepcopy(value))
        return kept

    @staticmethod
    def _put_back(held: dict[str, Any], kept: dict[str, tuple[Any, Any]]) -> None:
        held.clear()
        for name, (value, values) in kept.items():
            if isinstance(value, Tensor):
                with torch.no_grad():
                    value.copy_(values)
            held[name] = value if isinstance(value, Tensor) or name == "params" else values


def _restore_dict(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Give names back their objects, and remove names that are new."""
    for name in [name for name in now if name not in before]:
        del now[name]
    for name, value in before.items():
        if name not in now or now[name] is not value:
            now[name] = value
