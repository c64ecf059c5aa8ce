"""Errors that are torch's too: who catches what torch.nn.init raises goes on catching it here.

torch refuses a negative std with RuntimeError and an integer tensor with NotImplementedError; here
they are a ValueError and a TypeError, with a message that says what was expected. Where torch
refuses the same call, the error raised is both, and its message ends with torch's words.
"""

from __future__ import annotations

import torch


class FillValueError(ValueError, RuntimeError):
    """A value that torch refuses with RuntimeError."""


class FillTypeError(TypeError, NotImplementedError):
    """A dtype or a layout that torch refuses with NotImplementedError (a RuntimeError)."""


def as_torch(error: Exception, tensor: object, kind: str, numbers: list[float]) -> Exception:
    """Return the error, as one that is torch's too if torch refuses this fill as well.

    Args:
        error: What was to be raised, a ValueError or a TypeError.
        tensor: What was to be filled.
        kind: The fill that the call comes down to, "uniform_", "normal_", "trunc_normal_" or
            "sparse_".
        numbers: The parameters of that fill, as far as they are known.
    """
    theirs = _torch_error(tensor, kind, numbers)
    if theirs is None or isinstance(error, type(theirs)):
        return error
    both = FillValueError if isinstance(error, ValueError) else FillTypeError
    return both(f"{error} (torch: {theirs})")


def _torch_error(tensor: object, kind: str, numbers: list[float]) -> RuntimeError | None:
    """Return what torch raises for one element of the tensor's kind, or nothing."""
    if not isinstance(tensor, torch.Tensor) or tensor.is_quantized:
        return None
    if kind == "sparse_":
        kind, numbers = "normal_", [0.0, *numbers[:1]]
    elif kind == "trunc_normal_":
        # Its values may make torch draw forever. It draws uniforms where a > b.
        kind, numbers = ("uniform_", numbers[2:]) if len(numbers) == 4 else ("normal_", [])  # noqa: PLR2004
        if numbers and not numbers[0] > numbers[1]:
            return None
    try:
        with torch.random.fork_rng(devices=[]), torch._C.DisableTorchFunction():  # noqa: SLF001
            probe = torch.empty((1,) * tensor.dim(), dtype=tensor.dtype, device="cpu")
            if tensor.layout is not torch.strided:
                probe = probe.to_sparse()
            getattr(probe, kind)(*numbers)
    except RuntimeError as error:
        return RuntimeError(str(error).partition("\n")[0])
    except Exception:  # noqa: BLE001  # another kind of refusal is not one to be translated
        return None
    return None
