"""Fills: drop-ins for torch.nn.init and what people miss there. `from initstats import init`."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.init.constant_fills import (
    constant_,
    dirac_,
    eye_,
    identity_,
    ones_,
    zeros_,
)
from initstats.init.deprecated import (
    constant,
    dirac,
    eye,
    kaiming_normal,
    kaiming_uniform,
    normal,
    orthogonal,
    sparse,
    uniform,
    xavier_normal,
    xavier_uniform,
)
from initstats.init.fans import Fans, calculate_correct_fan, calculate_fan_in_and_fan_out
from initstats.init.foreach import (
    foreach_kaiming_normal_,
    foreach_kaiming_uniform_,
    foreach_variance_scaling_,
    foreach_xavier_normal_,
    foreach_xavier_uniform_,
)
from initstats.init.gains import calculate_gain
from initstats.init.keys import key_of
from initstats.init.orthogonal_blocks import orthogonal_block_
from initstats.init.orthogonal_fills import delta_orthogonal_, orthogonal_
from initstats.init.random import (
    foreach_normal_,
    foreach_trunc_normal_,
    foreach_uniform_,
    normal_,
    trunc_normal_,
    uniform_,
)
from initstats.init.sparse_fills import sparse_
from initstats.init.variance_scaling import (
    lecun_normal_,
    lecun_uniform_,
    truncated_normal_,
    variance_scaling_,
)
from initstats.init.xavier_kaiming import (
    kaiming_normal_,
    kaiming_uniform_,
    xavier_normal_,
    xavier_uniform_,
)

# torch's private names that user code calls.
_calculate_correct_fan = calculate_correct_fan
_calculate_fan_in_and_fan_out = calculate_fan_in_and_fan_out
_no_grad_fill_ = constant_
_no_grad_normal_ = normal_
_no_grad_trunc_normal_ = trunc_normal_
_no_grad_uniform_ = uniform_
_no_grad_zero_ = zeros_

__all__ = [
    "Fans",
    "calculate_fan_in_and_fan_out",
    "calculate_gain",
    "constant",
    "constant_",
    "delta_orthogonal_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "foreach_kaiming_normal_",
    "foreach_kaiming_uniform_",
    "foreach_normal_",
    "foreach_trunc_normal_",
    "foreach_uniform_",
    "foreach_variance_scaling_",
    "foreach_xavier_normal_",
    "foreach_xavier_uniform_",
    "identity_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "key_of",
    "lecun_normal_",
    "lecun_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "orthogonal_block_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "truncated_normal_",
    "uniform",
    "uniform_",
    "variance_scaling_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

claim_classes(__name__, globals())
