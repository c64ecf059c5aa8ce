"""The healthy zoo: models that start well, by name."""

from __future__ import annotations

from zoo import (
    convolutional,
    families,
    language,
    mixtures,
    more_families,
    perceptrons,
    recurrent,
    unets,
    vision,
)
from zoo.specimens import Builder

HEALTHY: dict[str, Builder] = {
    **perceptrons.MODELS,
    **mixtures.MODELS,
    **recurrent.MODELS,
    **convolutional.MODELS,
    **unets.MODELS,
    **vision.MODELS,
    **language.MODELS,
    **families.MODELS,
    **more_families.MODELS,
}
