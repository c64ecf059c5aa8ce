"""The sick zoo: faults injected into models of the healthy one."""

from __future__ import annotations

import torch

from zoo.healthy import HEALTHY
from zoo.injecting import Fault
from zoo.sick_roles import ROLE_FAULTS
from zoo.sick_signals import SIGNAL_FAULTS
from zoo.sick_training import TRAINING_FAULTS
from zoo.sick_weights import WEIGHT_FAULTS
from zoo.specimens import Size, Specimen

SICK: tuple[Fault, ...] = (*WEIGHT_FAULTS, *ROLE_FAULTS, *SIGNAL_FAULTS, *TRAINING_FAULTS)
TOP = 3


def infected(fault: Fault, size: Size) -> Specimen:
    """Build the healthy model, and inject the fault."""
    specimen = HEALTHY[fault.model](size)
    torch.manual_seed(size.seed + 1)
    return fault.inject(specimen)
