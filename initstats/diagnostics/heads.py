"""The head of a model: the last weight matrix, and the law that it was drawn by."""

from __future__ import annotations

import math

from initstats.diagnostics.evidence import Evidence, LayerReport, ParameterReport

# Variance * fan_out of initialisers that go by the outputs of a layer: DLA, MnasNet in torchvision,
# and EfficientNet with a uniform distribution. Ten classes get ten times the std of a thousand.
_FAN_OUT_LAWS = (2.0, 1.0, 1 / 3)
_STANDARD_ERRORS = 5.0
_ROUNDING = 0.01


def head(evidence: Evidence) -> LayerReport | None:
    """Return the last layer with a weight matrix.

    Args:
        evidence: The measurements.
    """
    layers = reversed(list(evidence.layers.values()))
    return next((layer for layer in layers if layer.matrix is not None), None)


def is_drawn_by_fan_out(parameter: ParameterReport) -> bool:
    """Tell whether a matrix has the std of an initialiser that goes by its number of outputs.

    Args:
        parameter: The matrix; one of an embedding, or tied to one, is drawn by none.
    """
    if not parameter.fan_out or parameter.role in {"embedding", "position", "token"}:
        return False
    variance = parameter.weight.std**2 * parameter.fan_out
    error = _ROUNDING + _STANDARD_ERRORS * math.sqrt(2 / max(1, parameter.weight.count))
    return any(abs(variance / law - 1) < error for law in _FAN_OUT_LAWS)


def head_drawn_by_fan_out(evidence: Evidence) -> ParameterReport | None:
    """Return the weight of the head if its std follows from the number of classes.

    Args:
        evidence: The measurements.
    """
    layer = head(evidence)
    matrix = None if layer is None else layer.matrix
    return matrix if matrix is not None and is_drawn_by_fan_out(matrix) else None
