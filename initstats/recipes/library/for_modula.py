"""Recipe of modular norms: matrices that start as orthogonal ones."""

from __future__ import annotations

import math
from dataclasses import replace

from initstats.recipes.distributions.composite import Distribution, Slices
from initstats.recipes.distributions.normalised_rows import NormalisedRows
from initstats.recipes.distributions.orthogonal_matrices import Orthogonal
from initstats.recipes.experts import is_bank
from initstats.recipes.library.building import (
    EMBEDDINGS,
    MATRICES,
    biases,
    built_in,
    described,
    norms,
    rule,
    weights,
)
from initstats.recipes.multipliers import Multipliers
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["modula"]


@built_in
def modula() -> Recipe:
    """Make the recipe of modula, where the layers of a model have modular norms.

    Matrices orthogonal, convolutions orthogonal at every tap, banks of experts in every expert;
    embeddings rows of norm 1; biases 0 and norms 1 and 0, of which the original has none. The model
    multiplies the output of a matrix by sqrt(fan_out / fan_in), of a convolution also by 1 over the
    number of taps, of an embedding by sqrt(d), d the width: `plan` lists the multipliers.

    Returns:
        The recipe.

    Source: modula `atom.py`, c0dad80, Linear, Conv2D and Embedding.
    """

    @described("orthogonal, per tap or expert")
    def matrix(slot: Slot) -> Distribution:
        shape = slot.parameter.shape
        if is_bank(slot.parameter, slot.role.name, slot.module):
            return Slices(Orthogonal(shape[1], shape[2]), (0,))
        if slot.role.name == "convolution":
            return Slices(Orthogonal(shape[0], shape[1]), tuple(range(2, len(shape))))
        return Orthogonal(shape[0], shape[1:].numel())

    @described("rows of norm 1")
    def table(slot: Slot) -> Distribution:
        return NormalisedRows(slot.parameter.shape[-1])

    def of_matrix(slot: Slot, optimizer: str) -> Multipliers:
        del optimizer
        rows, columns = slot.matrix_shape
        taps = slot.parameter.shape[2:].numel() if slot.role.name == "convolution" else 1
        return Multipliers(forward=math.sqrt(rows * taps / columns) / taps)

    def of_table(slot: Slot, optimizer: str) -> Multipliers:
        del optimizer
        return Multipliers(forward=math.sqrt(slot.parameter.shape[-1]))

    layers = rule(weights(*MATRICES, "convolution"), matrix, "matrix")
    tables = rule(weights(*EMBEDDINGS), table, "embedding")
    rules = [
        *norms(),
        biases(),
        replace(tables, multipliers=of_table),
        replace(layers, multipliers=of_matrix),
    ]
    return Recipe(rules, name="modula", source="modula atom.py, c0dad80")
