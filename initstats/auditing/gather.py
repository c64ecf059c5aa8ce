"""Gather the records of the first steps as evidence: all of them are read here, once."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from initstats.auditing.loss_mode import LossInputs
from initstats.auditing.steps import FirstSteps
from initstats.diagnostics.dataflow import LossInputReport, NormMode
from initstats.diagnostics.depth import depth_series, has_normalisation
from initstats.diagnostics.evidence import (
    Carried,
    CrossEntropyReport,
    Evidence,
    LayerReport,
    LogitReport,
    LossCallReport,
    LossReport,
    ParameterReport,
)
from initstats.diagnostics.layer_records import Flow
from initstats.planning.planner import Plan
from initstats.recipes.parameters import Slot, slots, stack_blocks
from initstats.statistics.record import merged
from initstats.verification.verifier import compare

_MATRIX_DIMS = 2
_FEWEST_BLOCKS = 3
_ONE = 0.05  # distance from 1 of the rms of what a norm returns
_GATING = {"sigmoid", "hardsigmoid", "tanh", "softplus", "silu", "gelu", "softmax"}


def gather(model: nn.Module, run: FirstSteps, planned: Plan | None) -> Evidence:
    """Read all records of the steps, and put them in order.

    Args:
        model: The model, with its weights of before the steps or not: only names are read.
        run: The steps.
        planned: The plan of the weights, or None.

    Returns:
        The evidence.
    """
    parameters = _parameters(model, run, planned)
    layers = _layers(model, run, parameters)
    verification = None
    if planned is not None:
        weights = {e.name: parameters[id(e.parameter)].weight for e in planned}
        verification = compare(planned, weights)
    named = dict(model.named_modules())
    operations = run.operations
    own = {id(p) for p in model.parameters()}
    return Evidence(
        layers=layers,
        parameters={report.name: report for report in parameters.values()},
        loss=_losses(run),
        series=depth_series(
            model,
            [name for name in layers if name in named],
            frozenset(name for name, layer in layers.items() if layer.is_gate),
        ),
        normalised=has_normalisation(model),
        verification=verification,
        stacks=_stacks(named),
        idle=frozenset(
            name
            for name, module in named.items()
            if name and name not in run.flows and next(module.children(), None) is None
        ),
        strangers=sum(1 for p in _held(run) if id(p) not in own),
        batch=run.examples,
        loss_inputs=(
            *(_loss_input(inputs) for inputs in run.loss_inputs),
            *(
                LossInputReport("a difference", *shapes, 0, alike=False, value=math.nan)
                for shapes in ([] if operations is None else operations.outer[:1])
            ),
        ),
        axes=() if operations is None else tuple(operations.axes),
        norm_modes={} if operations is None else {**_unfilled(run), **operations.norms},
        norm_calls={} if operations is None else operations.drowned,
        unregistered=run.unregistered,
        tables={} if operations is None else operations.tables,
        dependence=run.dependence,
    )


def _unfilled(run: FirstSteps) -> dict[str, NormMode]:
    """Return the norms by hand that normalise with statistics that nothing has filled."""
    return dict.fromkeys(run.unfilled_norms, "eval")


def _held(run: FirstSteps) -> list[Tensor]:
    """Return what the optimizer steps."""
    return [p for group in run.optimizer.param_groups for p in group["params"]]


def _loss_input(inputs: LossInputs) -> LossInputReport:
    """Read what entered a loss function."""
    count, low, high = (x.item() for x in inputs.counted)
    return LossInputReport(
        name=inputs.name,
        shape=inputs.shape,
        target_shape=inputs.target_shape,
        targets=int(count),
        alike=count > 0 and low == high,
        value=float(low) if low == high else math.nan,
        scores=inputs.scores,
        target=inputs.target,
        made_by=inputs.made_by,
    )


def _parameters(
    model: nn.Module, run: FirstSteps, planned: Plan | None
) -> dict[int, ParameterReport]:
    """Return one report per parameter, by its identity: tied names share one."""
    promised = {} if planned is None else {id(e.parameter): e for e in planned if not e.keep}
    places = {id(slot.parameter): slot for group in slots(model) for slot in reversed(group)}
    held = {id(p) for p in _held(run)}
    reports = {}
    for name, parameter in model.named_parameters():
        entry = promised.get(id(parameter))
        slot = places[id(parameter)]
        reports[id(parameter)] = ParameterReport(
            name=name,
            shape=tuple(parameter.shape),
            weight=run.weights[name],
            expected_std=None if entry is None else entry.distribution.std,
            gradient=run.gradients.get(name),
            update=run.updates.get(name),
            trained=parameter.requires_grad,
            last_gradient=run.last_gradients.get(name),
            dtype=str(parameter.dtype).removeprefix("torch."),
            role=slot.role.name,
            layer=name.rpartition(".")[0],
            block=slot.block,
            is_bias=slot.kind == "bias",
            fan_in=_fans(slot)[0],
            fan_out=_fans(slot)[1],
            rows=run.rows.get(name),
            copy_of=run.copies.get(name, ""),
            held=id(parameter) in held,
        )
    return reports


def _fans(slot: Slot) -> tuple[float, float]:
    """Return the fans of a weight, 0 for a vector and for a table of vectors."""
    if slot.parameter.dim() < _MATRIX_DIMS or slot.role.name in {"embedding", "position", "token"}:
        return 0.0, 0.0
    return float(slot.fans.fan_in), float(slot.fans.fan_out)


def _layers(
    model: nn.Module, run: FirstSteps, parameters: Mapping[int, ParameterReport]
) -> dict[str, LayerReport]:
    """Return one report per module that was called, in order."""
    blocks = {b for m in model.modules() for b in stack_blocks(m).values()}
    modules = dict(model.named_modules())
    gates = _gates(run)
    layers = {}
    for name, flow in run.flows.items():
        module = modules.get(name)
        is_block = module in blocks and module is not None and any(True for _ in module.children())
        own = () if module is None else module.parameters(recurse=is_block)
        activation = merged(flow.outputs)
        if activation is not None:
            layers[name] = LayerReport(
                name=name,
                kind=flow.kind,
                is_block=is_block,
                activation=activation,
                output_gradient=merged(flow.gradients),
                calls=len(flow.outputs),
                parameters=tuple(parameters[id(p)] for p in own if id(p) in parameters),
                input=merged(flow.inputs),
                units=tuple(flow.units.values()),
                producers=tuple(flow.producers),
                from_batch=flow.from_batch,
                is_function=module is None,
                dtype=flow.dtype,
                carried=_carried(flow),
                logits=_logits(flow),
                is_gate=name in gates,
                epsilon=_epsilon(module) if "Norm" in flow.kind else None,
            )
    return layers


def _gates(run: FirstSteps) -> set[str]:
    """Return the layers whose output, or a non-linearity of it, multiplies other activations."""
    factors = set() if run.operations is None else run.operations.gates
    found = set(factors)
    for name in factors & run.flows.keys():
        if run.flows[name].kind.lower() in _GATING:
            found.update(run.flows[name].producers)
    return found - {""}


def _epsilon(module: nn.Module | None) -> float | None:
    """Return what a norm adds to the variance: the number that its name tells."""
    held = {} if module is None else vars(module)
    values = (held[name] for name in held if "eps" in name.lower())
    return next((float(value) for value in values if isinstance(value, (int, float))), None)


def _carried(flow: Flow) -> Carried | None:
    """Read how much of its input a block returns."""
    if not flow.products:
        return None
    rows = [products.tolist() for products in flow.products]
    count, xx, xy, yy = (sum(values) for values in zip(*rows, strict=True))
    if not xx > 0:
        return None
    if yy == 0:
        return Carried(0.0, 0.0)
    return Carried(xy / xx, xy / math.sqrt(xx * yy), math.sqrt(yy / (xx * count)))


def _logits(flow: Flow) -> LogitReport | None:
    """Read how peaked an attention is."""
    if flow.logits:
        stds = [call.factor * call.query.rms * call.key.rms for call in flow.logits]
        sizes = [record.rms for call in flow.logits for record in (call.query, call.key)]
        return LogitReport(max(stds), None, all(abs(size - 1) < _ONE for size in sizes))
    if flow.row_length > 1:
        peaks = [record.rms**2 * flow.row_length for record in flow.outputs]
        return LogitReport(None, max(peaks))
    return None


def _losses(run: FirstSteps) -> LossReport:
    """Read the losses."""
    calls = tuple(
        LossCallReport(
            call.name,
            call.reduction,
            call.classes,
            float(call.value),
            int(call.targets),
            call.scores,
        )
        for call in run.calls[0]
    )
    single = [step[0] for step in run.calls if len(step) == 1 and step[0].classes is not None]
    return LossReport(
        values=tuple(float(loss) for loss in run.losses),
        cross_entropies=tuple(
            CrossEntropyReport(call.classes, call.value, call.targets == call.classes)
            for call in calls
            if call.classes is not None and call.reduction == "mean"
        ),
        calls=calls,
        by_step=tuple(float(c.value) for c in single) if len(single) == len(run.calls) else (),
        halves=tuple(float(loss) for loss in run.half_losses),
        log_softmaxes=tuple(run.log_softmaxes),
        maximised=any(group.get("maximize", False) for group in run.optimizer.param_groups),
    )


def _stacks(named: Mapping[str, nn.Module]) -> dict[str, dict[str, dict[str, str]]]:
    """List the modules inside the blocks of every stack."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for path, module in named.items():
        for name, block in stack_blocks(module).items():
            kind = type(block).__name__
            # Of a class of their own blocks are alike anywhere, containers only in one place.
            group = path if kind in {"Sequential", "ModuleList", "ModuleDict"} else kind
            place = f"{path}.{name}" if path else name
            inside = {n: type(child).__name__ for n, child in block.named_modules() if n}
            if inside:
                found.setdefault(group, {})[place] = inside
    return {group: blocks for group, blocks in found.items() if len(blocks) >= _FEWEST_BLOCKS}
