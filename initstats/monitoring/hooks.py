"""Forward hooks that collect outputs and inputs of modules for one launch per kind."""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.hooks import RemovableHandle

from initstats import _ops
from initstats.diagnostics.layer_records import floating_tensors
from initstats.diagnostics.unwatched import is_unwatched
from initstats.monitoring.window import Layout
from initstats.recipes.parameters import stack_blocks
from initstats.sharding import is_dtensor, local_tensor
from initstats.statistics.record_array import Groups

Chosen = Callable[[str, nn.Module], bool]
IN_PLACE = "changed in place after the module returned; recorded at once from now on"
NO_TENSOR = "no floating-point tensor, or a Partial DTensor"
TRANSFORMED = "called under a transform of torch.func, forward-mode AD, torch.jit.trace or make_fx"
SILENT = (
    "initstats.Monitor: expected the forward pass to run hooks, got none in a measured step; attach"
    " the monitor before torch.compile, keep model.train() on, and capture no CUDA graph"
)


class Measure(Protocol):
    """Takes the records of tensors now."""

    def __call__(self, kind: str, layout: Layout, tensors: list[Tensor]) -> None:
        """Take the records of the tensors that the layout names."""


class Take(Protocol):
    """Takes records that were made already."""

    def __call__(self, kind: str, layout: Layout, rows: tuple[Tensor, Tensor, Tensor]) -> None:
        """Take the records of the tensors that the layout names."""


class Taps:
    """The hooks of one model.

    Args:
        model: The model.
        kinds: "activations", "inputs", or both.
        chosen: Tells by name and module what to watch; None for every module that has no children,
            owns parameters or is a block of a stack.
        held_bytes: Remembered tensors are read when they hold so many bytes, at the latest at the
            end of the forward pass.
        measure: A method to call with what is to be read; held weakly, as what it belongs to holds
            the hooks.
        take: A method to call with records that a compiled graph took; likewise.
        histograms: What a compiled graph records.

    Attributes:
        active: True in a step that is measured.
        names: Watched modules.
        smooth: Those that are GELU, SiLU or a relative.
        seen: How many outputs were remembered since `begin`.
        reasons: Why a name is not there, by kind and name.
    """

    def __init__(
        self,
        model: nn.Module,
        kinds: tuple[str, ...],
        chosen: Chosen | None,
        held_bytes: int,
        measure: Measure,
        take: Take,
        *,
        histograms: bool,
    ) -> None:
        self.active = False
        self.names: Layout = ()
        self.smooth: Layout = ()
        self.seen = 0
        self.reasons: dict[str, dict[str, str]] = {}
        self.traced: list[tuple[str, str, Tensor, Tensor, Tensor]] = []
        self.groups = Groups.HISTOGRAM if histograms else Groups.MOMENTS
        self._model = model
        self._kinds = kinds
        self._chosen = chosen or _default_choice(model)
        self._held_bytes = held_bytes
        self._measure_weakly = weakref.WeakMethod(measure)
        self._take_weakly = weakref.WeakMethod(take)
        self._held: list[tuple[str, str, Tensor, int]] = []
        self._bytes = 0
        self._at_once: set[str] = set()
        self._lock = threading.RLock()
        self._entered = threading.local()
        self._handles: list[RemovableHandle] = []
        self._modules: list[nn.Module] = []

    def attach(self) -> None:
        """Hook the modules; again after the model has changed."""
        self.detach()
        self._modules = list(self._model.modules())
        names, smooth = [], []
        for name, module in self._model.named_modules():
            if module is not self._model and self._chosen(_plain(name), module):
                names.append(_plain(name))
                if _is_smooth(module):
                    smooth.append(_plain(name))
                self._handles.append(
                    module.register_forward_hook(OutputHook(self, _plain(name)), with_kwargs=True)
                )
                if getattr(module, "inplace", False):
                    hook = BeforeInPlace(self)
                    self._handles.append(module.register_forward_pre_hook(hook))
        for module in _outermost(self._model):
            self._handles += [
                module.register_forward_pre_hook(EnterHook(self)),
                module.register_forward_hook(LeaveHook(self), always_call=True),  # and if it raises
            ]
        self._handles.append(self._model.register_forward_hook(EndHook(self)))
        self.names, self.smooth = tuple(names), tuple(smooth)

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._held.clear()

    def refresh(self) -> list[nn.Module]:
        """Follow modules that were added or removed; return all that there are."""
        modules = list(self._model.modules())
        same = len(modules) == len(self._modules)
        if not same or not all(map(operator.is_, modules, self._modules)):
            self.attach()
        return modules

    def listens(self) -> bool:
        """Tell whether this forward pass is recorded: a measured step, in training, not again.

        What gradient checkpointing computes again runs inside a backward pass; what it computes at
        first may run without gradients, and so may a frozen part: the model was entered with them.
        """
        return (
            self.active
            and self._model.training
            and not is_unwatched()
            and torch._C._current_graph_task_id() == -1  # noqa: SLF001  # no public way to ask
            and (torch.is_grad_enabled() or self.entered is not None)
        )

    @property
    def entered(self) -> nn.Module | None:
        """The module that this thread has entered with gradients and not left."""
        return getattr(self._entered, "module", None)

    @entered.setter
    def entered(self, module: nn.Module | None) -> None:
        self._entered.module = module

    def remember(self, name: str, value: Any, inputs: Any) -> None:
        """Remember what a module returned and what it was given."""
        if _is_transformed():
            for kind in self._kinds:
                self.reasons.setdefault(kind, {})[name] = TRANSFORMED
            self.seen += 1
            return
        for kind in self._kinds:
            tensor = _first_tensor(value if kind == "activations" else inputs)
            if tensor is None:
                self.reasons.setdefault(kind, {})[name] = NO_TENSOR
                continue
            if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
                msg = (
                    f"initstats.Monitor: expected no CUDA graph capture while {kind} are watched,"
                    f" got one in {name!r}; hooks do not run in replays: watch only weights,"
                    " gradients and updates"
                )
                raise RuntimeError(msg)
            self.seen += 1
            if name in self._at_once:
                self._measure(kind, (name,), [tensor])
                continue
            with self._lock:
                self._held.append((kind, name, tensor, _version(tensor)))
                self._bytes += tensor.nbytes
            if self._bytes > self._held_bytes:
                self.flush()

    def flush(self) -> None:
        """Read everything that is remembered: one launch per kind and device."""
        with self._lock:
            held, self._held, self._bytes = self._held, [], 0
            traced = self.traced[:]
            self.traced.clear()
        for kind in self._kinds:
            names, tensors = [], []
            for its_kind, name, tensor, version in held:
                if its_kind != kind:
                    continue
                if _version(tensor) != version:
                    self._at_once.add(name)
                    self.reasons.setdefault(kind, {})[name] = IN_PLACE
                    continue
                names.append(name)
                tensors.append(tensor)
            if tensors:
                self._measure(kind, tuple(names), tensors)
        for kind, name, *rows in traced:
            self.seen += 1
            if (take := self._take_weakly()) is not None:
                take(kind, (name,), (rows[0], rows[1], rows[2]))

    def _measure(self, kind: str, layout: Layout, tensors: list[Tensor]) -> None:
        if (measure := self._measure_weakly()) is not None:
            measure(kind, layout, tensors)

    def begin(self) -> None:
        """Start a measured step: whatever an aborted forward pass left is forgotten."""
        with self._lock:
            self._held.clear()
            self.traced.clear()
            self._bytes = 0
        self.seen = 0
        self.reasons = {}
        self.entered = None

    def trace(self, name: str, value: Any, inputs: Any) -> None:
        """Put the op itself into the graph that torch.compile is building."""
        for kind in self._kinds:
            tensor = _first_tensor(value if kind == "activations" else inputs)
            if tensor is not None:
                rows = _ops.stats([tensor.detach()], self.groups, 0)
                self.traced.append((kind, name, *rows))


class MonitorHook:
    """A hook whose copies (of a copied, pickled or saved model) do nothing."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps

    def __reduce__(self) -> tuple[Any, ...]:
        return (_inert, ())


class OutputHook(MonitorHook):
    """Remembers the output of a module."""

    def __init__(self, taps: Taps, name: str) -> None:
        super().__init__(taps)
        self.name = name

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Remember, or put the op into the graph that is being built."""
        taps = self.taps
        if not taps.active:
            return
        if torch.compiler.is_compiling():
            if not torch.compiler.is_exporting():
                taps.trace(self.name, output, (args, kwargs))
        elif taps.listens():
            taps.remember(self.name, output, (args, kwargs))


class EnterHook(MonitorHook):
    """Notes that the model was entered with gradients enabled."""

    def __call__(self, module: nn.Module, _args: Any) -> None:
        """Note."""
        taps = self.taps
        if not taps.active or torch.compiler.is_compiling():
            return
        if torch.is_grad_enabled() and taps.entered is None:
            taps.entered = module


class LeaveHook(MonitorHook):
    """Notes that the model was left, also by an exception."""

    def __call__(self, module: nn.Module, _args: Any, _output: Any) -> None:
        """Note."""
        taps = self.taps
        if taps.active and not torch.compiler.is_compiling() and taps.entered is module:
            taps.entered = None


class EndHook(MonitorHook):
    """Reads everything when the model has finished its forward pass."""

    def __call__(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """Read."""
        if self.taps.active and not torch.compiler.is_compiling() and self.taps.listens():
            self.taps.flush()


class BeforeInPlace(MonitorHook):
    """Reads everything before a module overwrites its input."""

    def __call__(self, _module: nn.Module, _args: Any) -> None:
        """Read."""
        if self.taps.active and not torch.compiler.is_compiling() and self.taps.listens():
            self.taps.flush()


def _inert() -> Callable[..., None]:
    """Return the hook that a copy gets."""
    return _do_nothing


def _do_nothing(*_args: Any) -> None:
    """Do nothing."""


def _default_choice(model: nn.Module) -> Chosen:
    """Return the choice of the audit: leaves, owners of parameters, blocks of stacks."""

    def chosen(_name: str, module: nn.Module) -> bool:
        owns = next(module.parameters(recurse=False), None) is not None
        leaf = next(module.children(), None) is None
        return leaf or owns or any(module in stack_blocks(m).values() for m in model.modules())

    return chosen


def _outermost(model: nn.Module) -> list[nn.Module]:
    """Return the modules that training code calls: the model, or its parts."""
    found, waiting = [model], list(model.children())
    while waiting:
        module = waiting.pop()
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            waiting += module.children()
        elif next(module.children(), None) is not None:
            found.append(module)
    return found


def _is_transformed() -> bool:
    """Tell whether values are those of a transform, of which there are no statistics."""
    return (
        torch._C._functorch.maybe_current_level() is not None  # noqa: SLF001  # no public way
        or forward_ad._current_level >= 0  # noqa: SLF001  # no public way
        or torch._C._is_tracing()  # noqa: SLF001  # what torch.jit.is_tracing asks
        or (torch._C._len_torch_dispatch_stack() > 0 and _is_fake())  # noqa: SLF001
    )


def _is_fake() -> bool:
    """Tell whether operations are recorded for a graph or have no values: make_fx, fake tensors."""
    return any(torch._C._get_dispatch_mode(key) is not None for key in _MODES)  # noqa: SLF001


_KEYS: Any = torch._C._TorchDispatchModeKey  # noqa: SLF001
_MODES = (_KEYS.PROXY, _KEYS.FAKE, _KEYS.FUNCTIONAL)


def _first_tensor(value: Any) -> Tensor | None:
    """Return the first floating-point tensor of a nested value."""
    if type(value) is Tensor:
        return value if value.is_floating_point() else None
    if isinstance(value, Tensor):
        found = value if value.is_floating_point() else None
    else:
        found = next(floating_tensors(value), None)
    if found is not None and is_dtensor(found):
        partial = any(placement.is_partial() for placement in found.placements)
        return None if partial else local_tensor(found)
    return found


def _is_smooth(module: nn.Module) -> bool:
    """Tell by its class whether a module is GELU, SiLU or a relative, alone."""
    name = type(module).__name__.lower()
    return any(word in name for word in _SMOOTH) and not any(True for _ in module.parameters())


# In names such as NewGELUActivation, QuickGELU, SiLUActivation, Hardswish.
_SMOOTH = ("gelu", "silu", "swish", "mish")


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; inference tensors do not count."""
    try:
        return tensor._version  # noqa: SLF001  # torch's own name
    except RuntimeError:
        return 0


def _plain(name: str) -> str:
    """Return a name without what torch.compile puts into it."""
    return name.replace("_orig_mod.", "").replace("_orig_mod", "")
