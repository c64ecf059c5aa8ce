"""Monitor: hook a training loop and schedule measurements."""

from __future__ import annotations

import atexit
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from initstats.diagnostics.findings import Finding
from initstats.diagnostics.unwatched import is_unwatched
from initstats.monitoring.alerts import Alerts, MonitorRule, Subject
from initstats.monitoring.attached import Attached, wait_for_abandoned
from initstats.monitoring.clipping import listen, unlisten
from initstats.monitoring.hooks import SILENT, Chosen, Taps
from initstats.monitoring.local_gradients import KIND as LOCAL_GRADIENTS
from initstats.monitoring.local_gradients import LocalGradients
from initstats.monitoring.momentum import KIND as COSINE
from initstats.monitoring.monitored_ranks import MonitoredRanks
from initstats.monitoring.optimizers import CAPTURED, Optimizers, is_captured
from initstats.monitoring.parameters import (
    MOMENTS,
    NO_STATE,
    NOT_STEPPED,
    STEP_ON_DEVICE,
    ChosenParameter,
    Listed,
    Parameters,
)
from initstats.monitoring.row import Row
from initstats.monitoring.rules import default_rules
from initstats.monitoring.scripting import allow_scripting
from initstats.monitoring.sink_worker import Sink
from initstats.monitoring.steps_taken import StepsTaken
from initstats.monitoring.team import Schedule
from initstats.monitoring.validate import check_arguments
from initstats.monitoring.window import BEFORE_CLIPPING, PRODUCTS, Factor, Layout, Window
from initstats.monitoring.window_state import window_from_state, window_state
from initstats.monitoring.worker import Delivery
from initstats.sharding import is_dtensor, tensor_parallel_ranks
from initstats.statistics.record_array import Groups

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from typing_extensions import Self


class Monitor:
    """Watch weights, gradients, activations and updates of a model during training.

    Call `step()` once per training step, after `optimizer.step()` and before `zero_grad()`. With
    `optimizer` given, gradients are measured just before each step of the optimizer, weights too,
    and `zero_grad()` may come before `step()`; under `optimizer.step(closure)` they are those that
    the last call of the closure left. A row covers `window` measured steps: its records
    are merged over them, and it keeps the smallest, largest and mean value in any of them.

    Nothing in the training thread waits for the device or for a sink: see
    docs/guides/monitoring.md. What it costs is measured by benchmarks/bench_monitor.py. "updates"
    keeps a copy of the trained parameters during a measured step (longer if `every` is below 10);
    everything else stays below 10 KB per tensor.

    Args:
        model: The model; its forward pass is `model(...)`.
        optimizer: The optimizer or several, needed for "moments", useful for gradients and updates.
            Of several, each has the gradients of its own parameters measured before its first step.
        every: Steps from one measured step to the next, >= 1. The first step is measured.
        window: Measured steps per row, >= 1.
        watch: Some of "weights", "gradients" (as the optimizer gets them), "local_gradients" (of
            each rank, before DistributedDataParallel or FSDP2 reduces them), "activations",
            "inputs" (of modules), "updates", "moments" (Adam's first and second, and g^2 / v),
            "momentum_cosine" (the cosine of an optimizer's momentum and the gradient).
        sinks: Objects with a method `write(row)`, such as those of `initstats.sinks`.
        modules: Tells by name and module whose outputs and inputs to watch; None for all that have
            no children, own parameters or are a block of a stack.
        parameters: Tells by name and parameter what to watch; None for all.
        histograms: Keep histograms.
        unscale: What gradients are to be multiplied by, or a function that returns it; a tensor on
            the device is not waited for. `GradScaler.step` has unscaled them when `optimizer` is
            given.
        on_alert: Called with a finding and its row, in another thread, when a rule finds something
            new.
        rules: Rules to apply; None for `default_rules()`.
        first_step: Number of the first step, for a run that goes on; `load_state_dict` knows it.
            Above 1 sinks drop what an interrupted run wrote from it on.
        held_bytes: Outputs of modules are read together when they hold so many bytes, at the latest
            at the end of the forward pass.
        group: The ranks that train the model together, a process group or a mesh, or a function
            that returns it (for callbacks, which are made before the group); None for this process
            alone. With it every rank makes and attaches a monitor.
        reduce: "merge": rows of all ranks of the group, written by the first of them. "none": rows
            of each rank alone, `JsonLines` into one file per rank (`run.rank00017.jsonl`).
        rank_timeout: Seconds to wait for another rank's part of a row, in the reader's thread,
            before rows are of each rank alone.
        ranks_per_node: Neighbours in the group that reduce rows before the nodes do; 1 for a single
            reduction, None for the mesh, if it has several dimensions, or for what torchrun says.

    Raises:
        TypeError: If the model, the optimizer, a sink, a parameter or the group is of the wrong
            kind.
        ValueError: If a number is too small, or `watch` or `reduce` is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        every: int = 100,
        window: int = 1,
        watch: Iterable[str] = ("weights", "gradients", "activations", "updates"),
        sinks: Iterable[Sink] = (),
        modules: Chosen | None = None,
        parameters: ChosenParameter | None = None,
        histograms: bool = True,
        unscale: Factor | Callable[[], Factor] | None = None,
        on_alert: Callable[[Finding, Row], None] | None = None,
        rules: Iterable[MonitorRule] | None = None,
        first_step: int = 1,
        held_bytes: int = 1 << 26,
        group: ProcessGroup | DeviceMesh | Callable[[], ProcessGroup] | None = None,
        reduce: Literal["merge", "none"] = "merge",
        rank_timeout: float = 300.0,
        ranks_per_node: int | None = None,
    ) -> None:
        self.watch = tuple(watch)
        self._sinks = tuple(sinks)
        self._optimizers = Optimizers(optimizer)
        check_arguments(
            model, len(self._optimizers), every, window, self.watch, self._sinks, reduce
        )
        self._ranks = MonitoredRanks(
            group() if callable(group) else group, reduce, rank_timeout, ranks_per_node
        )
        self._model = model
        self._every = every
        self._window_length = window
        self._unscale = unscale
        self._on_alert = on_alert
        self._rules = tuple(default_rules() if rules is None else rules)
        self._step = self._first = first_step
        self._histograms = histograms
        self._parameters = Parameters(model, parameters, every, sharded=group is not None)
        kinds = tuple(kind for kind in ("activations", "inputs") if kind in self.watch)
        self._taps = Taps(
            model,
            kinds,
            modules,
            held_bytes,
            self._measure_flow,
            self._add_flow,
            histograms=histograms,
        )
        # Ranks that share a batch are known by it: what they all have counts once.
        self._peers = tensor_parallel_ranks(model) if self._ranks.several else ()
        kept = ("weights", *kinds) if self._peers else ("weights",)
        self._fingerprints = frozenset(kept if self._ranks.several else ())
        if self._peers:
            self._taps.groups |= Groups.FINGERPRINT
        self._local = LocalGradients(model, self._peers, histograms=histograms)
        self._attached = Attached(self._taps, self._optimizers, self._local, self._new_window())
        self._finalizer: weakref.finalize[..., Monitor] | None = None
        self._measured = 0
        self._steps = StepsTaken()
        self._taken = self._moments_taken = self._followed = False
        self._of_closure: dict[int, Window] = {}
        self._clipped: set[str] = set()
        self._warned = self._captured = False
        self._alerts_state: dict[str, Any] | None = None

    def attach(self) -> Self:
        """Hook the model and start the threads; a second call changes nothing.

        Another monitor of the same model is closed, with a warning.

        Returns:
            The monitor.
        """
        if self._delivery is None:
            self._close_others()
            self._attached.process = os.getpid()
            self._steps = StepsTaken()
            self._taps.attach()
            allow_scripting(self._taps)
            self._optimizers.attach(self._before_update, self._after_update)
            if "gradients" in self.watch:
                listen(self._before_clipping)
            alerts = Alerts(self._rules, Subject.of(self._model), self._on_alert)
            if self._alerts_state is not None:
                alerts.load_state_dict(self._alerts_state)
            self._attached.delivery = self._start(alerts)
            _OPEN.add(self)
            self._finalizer = weakref.finalize(self, self._attached.abandon)
            self._finalizer.atexit = False
            self._prepare()
        return self

    def _close_others(self) -> None:
        """Close monitors of the same model: a cell of a notebook that ran again left them."""
        for other in list(_OPEN):
            if _inner(other._model) is _inner(self._model):  # noqa: SLF001  # its own class
                msg = (
                    "initstats.Monitor: expected no other open monitor of this model, got one;"
                    " it is closed now, with its rows written"
                )
                warnings.warn(msg, UserWarning, stacklevel=3)
                other.close()

    def step(self, *, loss: Factor | None = None) -> None:
        """Say that a step of training is over. Never waits.

        Args:
            loss: The loss of this step, for the row; a tensor of one element on the device is not
                waited for.

        Raises:
            ValueError: If the loss has more than one element.
            RuntimeError: If the monitor was never attached, or while a CUDA graph is captured: its
                replays would not call this. After `close` nothing happens.
        """
        if self._delivery is None or os.getpid() != self._process:
            self._check_was_attached()
            return
        if is_captured():
            msg = (
                "initstats.Monitor.step: expected a call after the replay of a CUDA graph, got one"
                " while it is captured; replays would not call it"
            )
            raise RuntimeError(msg)
        if isinstance(loss, Tensor) and loss.numel() != 1:
            msg = f"initstats.Monitor.step: expected a loss of one element, got {tuple(loss.shape)}"
            raise ValueError(msg)
        self._steps.end_step()
        if self._due:
            if loss is not None:
                number = loss.detach().clone() if isinstance(loss, Tensor) else float(loss)
                self._window.losses[self._step] = number
            self._measure_rest()
            self._finish_step()
        self._step += 1
        if self._delivery.owed > self._steps.caught_up:
            self._catch_up(self._delivery)
        self._prepare()

    def _check_was_attached(self) -> None:
        if not self._process:
            msg = (
                "initstats.Monitor.step: expected a monitor that hooks its model, got one that was"
                " never attached; write `with Monitor(...) as monitor:`, or call attach() before"
                " the loop"
            )
            raise RuntimeError(msg)

    def close(self, timeout: float = 10.0) -> None:
        """Remove the hooks, write what is left and stop the threads; a second call does nothing.

        Args:
            timeout: Seconds to wait for the reader and for each sink at most. A sink that blocks
                longer is left behind, and logged.
        """
        delivery, self._attached.delivery = self._delivery, None
        if delivery is None:
            return
        _OPEN.discard(self)
        if self._finalizer is not None:
            self._finalizer.detach()
        unlisten(self._before_clipping)
        self._attached.unhook()
        if os.getpid() == self._process:
            if self._window.last_step:
                self._window.close()
                delivery.put(self._window)
                self._window = self._new_window()
                self._measured = 0
            delivery.close(timeout)
            self._alerts_state = delivery.alerts.state_dict()

    def state_dict(self, timeout: float = 10.0) -> dict[str, Any]:
        """Return what the monitor needs to go on in another process; for a checkpoint.

        Call it between steps. It waits for the device, and for the rows that are on their way.

        Args:
            timeout: Seconds to wait for the reader and the sinks at most.

        Returns:
            Tensors, numbers, texts, lists and dictionaries, as `torch.load(weights_only=True)`
            reads them: the number of the next step, the records of the open window, and what the
            rules keep, such as the past norms of the rule on spikes.

        Raises:
            TimeoutError: If the reader did not finish in time.
        """
        alerts = self._alerts_state
        if self._delivery is not None:
            if not self._delivery.drain(timeout):
                msg = (
                    f"initstats.Monitor.state_dict: expected the reader to finish in {timeout} s,"
                    " got rows that wait; give it more time with timeout="
                )
                raise TimeoutError(msg)
            alerts = self._delivery.alerts.state_dict()
        return {
            "schema": _STATE,
            "step": self._step,
            "first_step": self._first,
            "every": self._every,
            "measured": self._measured,
            "window": window_state(self._window),
            "alerts": alerts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the monitor that was saved stood; before `attach()`.

        Sinks are told the step (`resume`): what an interrupted run wrote after it comes again, and
        `JsonLines` cuts it off.

        Args:
            state: What `state_dict` returned; the settings of this monitor may differ.

        Raises:
            RuntimeError: If the monitor is attached.
            ValueError: If this is no state of a monitor.
        """
        if self._delivery is not None:
            msg = (
                "initstats.Monitor.load_state_dict: expected a monitor that is not attached yet,"
                " got one that is; call it before attach() or the with statement"
            )
            raise RuntimeError(msg)
        if (schema := state.get("schema")) != _STATE:
            msg = (
                "initstats.Monitor.load_state_dict: expected what state_dict() returned, got"
                f" schema={schema!r}"
            )
            raise ValueError(msg)
        self._step = state["step"]
        # With the same distance the phase of the measured steps goes on, else it begins here.
        self._first = state["first_step"] if state["every"] == self._every else self._step
        if state["window"]["histograms"] == self._histograms:
            self._window = window_from_state(state["window"])
            self._window.fingerprints = self._fingerprints
            self._measured = state["measured"]
        self._alerts_state = state["alerts"]

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        msg = "initstats.Monitor: expected no copy or pickle of a monitor, got one"
        raise TypeError(msg)

    def _start(self, alerts: Alerts) -> Delivery:
        """Start the threads; where the ranks cannot agree nothing stays hooked."""
        try:
            return self._ranks.delivery(
                self._sinks,
                alerts,
                self._after,
                self._schedule,
                self._names(),
                self._parameters.watched,
                self._peers,
                self._optimizers.rate_names,
                histograms=self._histograms,
            )
        except BaseException:
            unlisten(self._before_clipping)
            self._attached.unhook()
            raise

    @property
    def _window(self) -> Window:
        return self._attached.window

    @_window.setter
    def _window(self, window: Window) -> None:
        self._attached.window = window

    @property
    def _delivery(self) -> Delivery | None:
        return self._attached.delivery

    @property
    def _process(self) -> int:
        return self._attached.process

    @property
    def _after(self) -> int | None:
        """The last step whose row stands in a run that goes on, None in one that begins.

        The steps of a window that was open come again.
        """
        first = self._window.first_step or self._step
        return first - 1 if self._step > 1 else None

    @property
    def _schedule(self) -> Schedule:
        return Schedule(self._first, self._every, self._window_length)

    def _catch_up(self, delivery: Delivery) -> None:
        """Move the number of the step on by the calls of `step` that other ranks say are left out.

        Rows of which this rank has measured other steps, or none, say so and are left to others.
        """
        missed = delivery.owed - self._steps.caught_up
        schedule, now = self._schedule, self._step + missed
        before, after = schedule.next_measured(self._step), schedule.next_measured(now)
        self._steps.caught_up = delivery.owed
        if schedule.row_of(after) > schedule.row_of(before):
            last = schedule.row_of(after) - 1
            window, self._window = self._window, self._new_window()
            if window.last_step:
                window.close()
                delivery.put(window)
            if not window.last_step or schedule.row_of(before) < last:
                # The others wait for a row from here: one without anything tells them to go on.
                passed = self._new_window()
                passed.first_step = passed.last_step = schedule.steps_of(last)[-1]
                later = now - 1 - passed.last_step
                passed.taken = self._steps.taken(passed.last_step, missed, later)
                passed.close()
                delivery.put(passed)
        self._measured = schedule.place_of(after)
        if self._measured:
            self._window.behind += missed
        self._step = now

    def _new_window(self) -> Window:
        return Window(self._histograms, fingerprints=self._fingerprints)

    def _names(self) -> dict[str, Layout]:
        """Return the names of every kind that rows will show."""
        parameters = self._parameters
        names = {"weights": parameters.weights.names, "gradients": parameters.trained}
        names |= {"updates": parameters.trained, "activations": self._taps.names}
        names["inputs"] = self._taps.names
        names[LOCAL_GRADIENTS] = parameters.trained
        found = {kind: names[kind] for kind in self.watch if kind in names}
        if "moments" in self.watch:
            found |= dict.fromkeys(MOMENTS, parameters.trained)
        if COSINE in self.watch:
            found[COSINE] = parameters.trained
            found |= dict.fromkeys(PRODUCTS, parameters.trained_shards)
        return found

    # ---- a measured step, in order

    @property
    def _due(self) -> bool:
        return (self._step - self._first) % self._every == 0

    def _prepare(self) -> None:
        """Get ready for the step that begins."""
        self._taken = self._moments_taken = self._followed = False
        self._of_closure.clear()
        self._clipped.clear()
        self._optimizers.begin()
        due = self._due
        if due:
            modules = self._taps.refresh()
            self._taps.begin()
            self._parameters.refresh(modules)
            if "gradients" in self.watch:
                self._parameters.note_gradients()
            if "updates" in self.watch and not self._optimizers:
                self._parameters.remember()
            if LOCAL_GRADIENTS in self.watch:
                self._local.begin(self._parameters.watched)
        self._taps.active = due and bool({"activations", "inputs"} & set(self.watch))

    def _follow(self, modules: list[nn.Module] | None = None) -> None:
        """Follow what the loop has changed in the model since the last step, once in a step."""
        if not self._followed:
            self._followed = True
            self._parameters.follow(modules)

    def _measure_flow(self, kind: str, layout: Layout, tensors: list[Tensor]) -> None:
        """Take records of what flowed through modules."""
        with torch.inference_mode(mode=False), torch.no_grad():
            self._window.measure(kind, layout, tensors, self._step)

    def _add_flow(self, kind: str, layout: Layout, rows: tuple[Tensor, Tensor, Tensor]) -> None:
        """Add records that a compiled graph took."""
        self._window.add(kind, layout, self._step, rows)

    @torch.no_grad()
    def _before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Measure weights and the optimizer's gradients, just before it changes them.

        Returns:
            None, or the arguments of the step with a closure that measures the gradients it leaves.
        """
        if is_captured():
            self._note_capture()
            return None
        if not self._due or os.getpid() != self._process or is_unwatched():
            return None
        self._window.rates.update(self._optimizers.rates(optimizer))
        if not self._taken:
            self._measure_weights(remember="updates" in self.watch)
        if "gradients" in self.watch:
            if callable(closure := kwargs.get("closure")):
                return args, {**kwargs, "closure": self._measured_closure(optimizer, closure)}
            if len(args) > 1 and callable(args[1]):
                return (args[0], self._measured_closure(optimizer, args[1]), *args[2:]), kwargs
            self._keep_gradients(self._gradients([optimizer]))
        return None

    def _note_capture(self) -> None:
        """Say once that nothing of an optimizer will be seen: a graph would replay stale reads."""
        if not self._captured:
            self._captured = True
            warnings.warn(
                f"initstats.Monitor: {CAPTURED}: gradients and updates are not measured; give the"
                " monitor no optimizer, and it measures them at monitor.step()",
                UserWarning,
                stacklevel=3,
            )

    @torch.no_grad()
    def _after_update(self, optimizer: Optimizer, *_hook: Any) -> None:
        """Measure how the optimizers changed the weights, and their moments."""
        if is_captured() or os.getpid() != self._process or is_unwatched():
            return
        self._steps.note(optimizer)
        if not self._taken:
            return
        if (last := self._of_closure.pop(id(optimizer), None)) is not None:
            self._keep_gradients(last)
        if self._optimizers.has_stepped(optimizer):
            self._measure_updates()

    @torch.no_grad()
    def _measure_rest(self) -> None:
        """Measure at the end of a step what no optimizer has asked for."""
        if not self._taken:
            self._measure_weights()
        if "gradients" in self.watch:
            # Without an optimizer a CUDA graph may have written them, which counts no version.
            stale = self._parameters.pass_over_old_gradients(on_cuda=len(self._optimizers) > 0)
            if self._captured:
                stale = dict.fromkeys(stale, CAPTURED)
            self._window.reasons.setdefault("gradients", {}).update(stale)
            self._keep_gradients(self._gradients(self._optimizers))
        if LOCAL_GRADIENTS in self.watch:
            self._keep_local_gradients()
        if self._optimizers.stepped or not self._optimizers:
            self._measure_updates()

    def _keep_local_gradients(self) -> None:
        """Add the gradients that this rank had before the reduction."""
        factor = self._factor(None)
        taken, why = self._local.take()
        for layout, rows in taken:
            self._window.add(LOCAL_GRADIENTS, layout, self._step, rows, factor)
        self._window.expected[LOCAL_GRADIENTS] = self._parameters.trained
        self._window.reasons[LOCAL_GRADIENTS] = why

    def _measure(self, kind: str, listed: Listed) -> None:
        """Take the records of many tensors."""
        step = self._step
        if listed.over:
            self._window.measure_square_ratios(
                kind,
                listed.names,
                listed.tensors,
                listed.over,
                listed.factors,
                step,
                listed.over_kind,
            )
        else:
            self._window.measure(kind, listed.names, listed.tensors, step, minus=listed.minus)

    def _measure_weights(self, *, remember: bool = False) -> None:
        """Measure the weights, once in a step.

        Args:
            remember: Copy them too, to see later how they changed; in the same pass if possible.
        """
        self._taken = True
        self._follow()
        copies: list[Tensor] = []
        if "weights" in self.watch:
            weights = self._parameters.weights_here
            copies = self._parameters.copies_of(weights) if remember else []
            self._window.measure(
                "weights", weights.names, weights.tensors, self._step, copies=copies
            )
        if remember and not copies:
            self._parameters.remember()

    def _measured_closure(
        self, optimizer: Optimizer, closure: Callable[[], Any]
    ) -> Callable[[], Any]:
        """Return a closure that measures the gradients after each call; the last call counts."""

        def measured() -> Any:
            loss = closure()
            with torch.no_grad():
                self._of_closure[id(optimizer)] = self._gradients([optimizer])
            return loss

        return measured

    def _gradients(self, optimizers: Iterable[Optimizer]) -> Window:
        """Measure the gradients of some optimizers that were not kept yet in this step."""
        gradients = self._parameters.gradients(self._optimizers.owned(optimizers))
        taken = Window(self._histograms)
        if gradients.names:
            factor = self._factor(next(iter(optimizers), None))
            taken.measure("gradients", gradients.names, gradients.tensors, self._step, factor)
        return taken

    @torch.no_grad()
    def _before_clipping(
        self, tensors: Sequence[Tensor], norm_type: float, norm: Tensor | None
    ) -> None:
        """Keep the norm of gradients that are about to be clipped, for the first time in a step."""
        if not self._due or os.getpid() != self._process or is_unwatched():
            return
        self._follow()
        known = self._parameters.names_of_gradients()
        mine = [tensor for tensor in tensors if id(tensor) in known]
        names = {known[id(tensor)] for tensor in mine}
        if not names or names & self._clipped:
            return
        self._clipped |= names
        if self._ranks.several or any(map(is_dtensor, mine)):
            # The norm of all ranks is summed by the reader, from what each of them holds.
            here = self._parameters.gradients(only=names)
            factor = self._factor(None)
            self._window.measure(BEFORE_CLIPPING, here.names, here.tensors, self._step, factor)
            return
        if norm is None or len(mine) < len(tensors) or norm_type != 2.0:  # noqa: PLR2004  # of others
            norm = torch.nn.utils.get_total_norm(mine)
        self._window.clipped.append((self._step, norm.detach(), self._factor(None), names))

    def _factor(self, optimizer: Optimizer | None) -> Factor:
        """Return what the gradients are to be multiplied by.

        A GradScaler leaves it to a fused optimizer to unscale, and gives it the scale for a step.
        """
        factor = self._unscale() if callable(self._unscale) else self._unscale
        if factor is None:
            scale = getattr(optimizer, "grad_scale", None)
            factor = 1.0 if scale is None else 1.0 / scale
        return factor

    def _keep_gradients(self, taken: Window) -> None:
        """Add measured gradients to the row."""
        self._window.take_over(taken)
        self._parameters.kept.update(name for _, layout in taken.segments for name in layout)
        self._window.expected["gradients"] = self._parameters.trained
        self._window.reasons.setdefault("gradients", {}).update(self._parameters.partial)

    def _measure_updates(self) -> None:
        """Measure updates and moments of the optimizers that have stepped, once in a step."""
        stepped = self._optimizers.stepped
        updates = self._parameters.updates(self._optimizers.owned(stepped))
        if updates is not None:
            self._measure("updates", updates)
            self._parameters.forget()
        if self._moments_taken:
            return
        self._moments_taken = True
        for optimizer in stepped:
            if "moments" in self.watch:
                for kind, listed in self._parameters.moments(optimizer).items():
                    self._measure(kind, listed)
            if COSINE in self.watch:
                cosines, products, why = self._parameters.momentum_cosines(optimizer)
                self._measure(COSINE, cosines)
                for kind, listed in products.items():
                    self._measure(kind, listed)
                self._window.reasons.setdefault(COSINE, {}).update(why)

    def _expect_moments(self) -> None:
        """Say which moments should be there, and why they may not be."""
        for kind, state in MOMENTS.items():
            keep = [one for one in self._optimizers if any(state in s for s in one.state.values())]
            owned = self._optimizers.owned(keep or self._optimizers)
            expected = self._parameters.trained_of(owned)
            self._window.expected[kind] = expected
            why = NOT_STEPPED
            if self._optimizers.stepped:
                why = STEP_ON_DEVICE if keep and kind != state else NO_STATE
            self._window.reasons.setdefault(kind, {}).update(dict.fromkeys(expected, why))

    def _finish_step(self) -> None:
        """Read what is still remembered, and close the window when it is full."""
        window, taps = self._window, self._taps
        taps.flush()
        taps.active = False
        for kind in ("activations", "inputs"):
            if kind in self.watch:
                window.expected[kind] = taps.names
                window.reasons.setdefault(kind, {}).update(taps.reasons.get(kind, {}))
                if taps.seen == 0 and taps.names and not self._warned:
                    self._warned = True
                    warnings.warn(SILENT, UserWarning, stacklevel=3)
        if "weights" in self.watch and (unfit := self._parameters.unfit):
            window.expected["weights"] = (*self._parameters.weights.names, *unfit)
            window.reasons["weights"] = unfit
        if "moments" in self.watch:
            self._expect_moments()
        if COSINE in self.watch:
            window.expected[COSINE] = self._parameters.trained
        window.smooth = taps.smooth if "activations" in self.watch else ()
        if "updates" in self.watch:
            window.expected["updates"] = self._parameters.trained
            window.reasons.setdefault(
                "updates",
                dict.fromkeys(
                    self._parameters.trained, CAPTURED if self._captured else NOT_STEPPED
                ),
            )
        window.first_step = window.first_step or self._step
        window.last_step = self._step
        window.taken = self._steps.taken(self._step, window.behind)
        self._measured += 1
        if self._measured >= self._window_length and self._delivery is not None:
            if self._delivery.is_behind:
                return  # the next row covers more steps: nothing is lost, and nothing waits
            self._window = self._new_window()
            self._measured = 0
            window.close()  # the one place where records leave the training thread
            self._delivery.put(window)


def _inner(model: nn.Module) -> nn.Module:
    """Return the model that torch.compile wrapped."""
    inner: nn.Module = getattr(model, "_orig_mod", model)
    return inner


_STATE = "initstats.monitor.state/1"
_OPEN: weakref.WeakSet[Monitor] = weakref.WeakSet()


def _close_all() -> None:
    """Write what is left when the program ends."""
    for monitor in list(_OPEN):
        monitor.close()
    wait_for_abandoned()


atexit.register(_close_all)
