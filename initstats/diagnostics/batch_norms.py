"""How much gradients grow through batch norms, whatever the weights are."""

from __future__ import annotations

import math

from initstats.diagnostics.depth import Series
from initstats.diagnostics.evidence import Evidence

# Per layer of a wide network with batch norms and ReLUs the squared norm of gradients grows by
# pi / (pi - 1) on the way back, and by less with other non-linearities (Yang et al. 2019, A mean
# field theory of batch normalization).
GROWTH = math.log(math.pi / (math.pi - 1)) / 2


def growth_by_batch_norms(evidence: Evidence, series: Series) -> float:
    """Return the growth of the norm of gradients that the batch norms of a series explain.

    Args:
        evidence: The measurements.
        series: Layers by depth. Of blocks, the batch norms inside count; of layers, those between
            the first and the last.

    Returns:
        The growth in nats, 0 without batch norms.
    """
    names = list(evidence.layers)
    norms = [n for n in names if "BatchNorm" in evidence.layers[n].kind]
    if series.name == "layers":
        first, last = (names.index(series.layers[i]) for i in (0, -1))
        count = sum(first < names.index(name) < last for name in norms)
    else:
        blocks = tuple(f"{block}." for block in series.layers)
        count = sum(name.startswith(blocks) for name in norms)
    return count * GROWTH
