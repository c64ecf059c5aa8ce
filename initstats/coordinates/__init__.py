"""Coordinate checks: sizes of every layer's outputs and updates against the width of a model."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.coordinates.report import CoordReport, LayerCoordinates
from initstats.coordinates.runner import coord_check
from initstats.coordinates.slopes import Slope

__all__ = ["CoordReport", "LayerCoordinates", "Slope", "coord_check"]

claim_classes(__name__, globals())
