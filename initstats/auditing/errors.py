"""Notes on exceptions of the model: where they were raised, and the layers before."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from torch import nn

from initstats.auditing.steps import FirstSteps
from initstats.statistics.record import merged
from initstats.text import number, plain_table, render

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_OWN_ERRORS = "initstats."
_LISTED_LAYERS = 30


class Explained:
    """Context manager that notes on an exception where the model raised it, and re-raises it.

    The exception keeps its type and its traceback. What is added is a note (PEP 678), which
    Python shows below the message from version 3.11 on; it is in `__notes__` on 3.10 too. Errors
    of initstats itself name the problem and get none.

    Args:
        run: The steps of the audit.
    """

    def __init__(self, run: FirstSteps) -> None:
        self._run = run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not str(error).startswith(_OWN_ERRORS):
            add_note(error, explanation(error, self._run))


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, on any Python.

    Args:
        error: The exception.
        note: The text.
    """
    # What add_note of Python 3.11 does, so that 3.10 keeps it too.
    vars(error)["__notes__"] = [*getattr(error, "__notes__", ()), note]


def explanation(error: BaseException, run: FirstSteps) -> str:
    """Tell in which module and pass an exception was raised, and list the layers before it.

    Args:
        error: The exception, as it left the model.
        run: The steps of the audit.

    Returns:
        The text.
    """
    step = len(run.losses) + 1
    place = f"in {_place(error, run.model)} of step {step}"
    seen = list(run.flows.items())
    if not seen:
        return f"initstats.audit: raised {place}, before any layer had finished"
    text = f"initstats.audit: raised {place}; layers that had finished"
    text += " in it" if step == 1 else " in step 1, the recorded one"
    hidden = len(seen) - _LISTED_LAYERS
    if hidden > 0:
        text += f" (the last {_LISTED_LAYERS}, {hidden} more before them)"
    table = plain_table(edge=False)
    for column in ("layer", "calls", "output mean", "output std", "output max", "not finite"):
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for name, flow in seen[-_LISTED_LAYERS:]:
        record = merged(flow.outputs)
        if record is not None:
            bad = record.nan + record.pos_inf + record.neg_inf
            cells = (number(record.mean), number(record.std), number(record.abs_max), str(bad))
            table.add_row(name, str(len(flow.outputs)), *cells)
    return f"{text}:\n{render(table)}"


def _place(error: BaseException, model: nn.Module) -> str:
    """Return the innermost module of the model, or the pass, in which an exception was raised.

    Read from the traceback, because steps after the first run without hooks.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found: nn.Module | None = None
    passed = "the loss"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_name == "backward" and "torch" in code.co_filename:
            passed = "the backward pass"
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            found = owner
        elif isinstance(owner, nn.Module) and found is None:
            passed = f"the loss ({type(owner).__name__})"
        elif code.co_name == "step" and found is None and "optim" in code.co_filename:
            passed = "the optimizer's step"
    if found is None:
        return passed
    name = names[id(found)]
    kind = type(found).__name__
    return f"{name} ({kind})" if name else f"the model itself ({kind})"
