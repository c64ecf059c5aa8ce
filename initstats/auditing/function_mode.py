"""Watch non-linearities that modules call as functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

OnInput = Callable[[Tensor], Any]
OnFunction = Callable[[str, tuple[Any, ...], Any, Tensor, Any], None]

_NAMES: dict[Any, str] = {
    functional.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    Tensor.relu: "relu",
    Tensor.relu_: "relu",
    functional.relu6: "relu6",
    functional.leaky_relu: "leaky_relu",
    functional.elu: "elu",
    functional.gelu: "gelu",
    functional.silu: "silu",
    functional.mish: "mish",
    functional.softplus: "softplus",
    functional.tanh: "tanh",
    torch.tanh: "tanh",
    torch.tanh_: "tanh",
    Tensor.tanh: "tanh",
    Tensor.tanh_: "tanh",
    functional.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    torch.sigmoid_: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    Tensor.sigmoid_: "sigmoid",
    functional.hardsigmoid: "hardsigmoid",
    functional.softmax: "softmax",
    torch.softmax: "softmax",
    Tensor.softmax: "softmax",
    functional.scaled_dot_product_attention: "scaled_dot_product_attention",
}
_SCALE_PLACE = 6  # of scale among the arguments of scaled_dot_product_attention


class ActivationFunctions(TorchFunctionMode):
    """Context manager that reports calls of non-linearities, softmax and attention.

    Args:
        on_input: Called with the first tensor before the function runs.
        on_function: Called with the name of the function, its tensors, what `on_input` returned,
            its output, and the dimension of a softmax or the scale of an attention.
    """

    def __init__(self, on_input: OnInput, on_function: OnFunction) -> None:
        super().__init__()
        self._on_input = on_input
        self._on_function = on_function

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the function, and report it when it is one of these."""
        kwargs = kwargs or {}
        name = _NAMES.get(func)
        inputs = args or tuple(v for v in kwargs.values() if isinstance(v, Tensor))
        x = inputs[0] if name is not None and inputs else None
        if name is None or not isinstance(x, Tensor) or not x.is_floating_point():
            return func(*args, **kwargs)
        known = self._on_input(x)
        output = func(*args, **kwargs)
        if isinstance(output, Tensor) and output.is_floating_point():
            extra = None
            if name == "softmax":
                dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
                extra = -1 if dim is None else dim
            elif name == "scaled_dot_product_attention":
                by_place = args[_SCALE_PLACE] if len(args) > _SCALE_PLACE else None
                extra = kwargs.get("scale", by_place)
                inputs = inputs if len(inputs) > 1 else (*inputs, kwargs["key"])
            self._on_function(name, inputs, known, output, extra)
        return output
