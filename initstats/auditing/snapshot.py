"""Keep the state of a model, its optimizer and the random generators, and put it back."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Snapshot:
    """Context manager that undoes everything an audit changes, also after an exception.

    Restored are parameters, gradients, buffers, train and eval modes, the state of the optimizer,
    and torch's random generators on the CPU and on the devices of the model.

    Args:
        model: The model.
        optimizer: An optimizer whose state is restored too, or None.

    Attributes:
        weights: Copies of the parameters, by name.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        self.weights: dict[str, Tensor] = {}
        self._model = model
        self._optimizer = optimizer

    def __enter__(self) -> Self:
        model = self._model
        self._gradients = [(p, p.grad) for p in model.parameters()]
        self._modes = [(module, module.training) for module in model.modules()]
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        self._optimizer_state = (
            None if self._optimizer is None else copy.deepcopy(self._optimizer.state_dict())
        )
        devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        self._cuda_states = [(d, torch.cuda.get_rng_state(d)) for d in devices]
        self._cpu_state = torch.get_rng_state()
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        for parameter, _ in self._gradients:
            parameter.grad = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(self.weights[name])
            for module, name, buffer, values in self._buffers:
                setattr(module, name, buffer)  # forward may have put another tensor there
                buffer.copy_(values)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        for module, training in self._modes:
            module.training = training
        if self._optimizer is not None and self._optimizer_state is not None:
            self._optimizer.load_state_dict(self._optimizer_state)
        torch.set_rng_state(self._cpu_state)
        for device, state in self._cuda_states:
            torch.cuda.set_rng_state(state, device)
