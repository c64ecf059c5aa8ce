"""Replicas over the ranks of a sharded model: which tensors differ, and on which ranks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch

from initstats.sharding import Domain, is_dtensor
from initstats.statistics.across_ranks import Ranks
from initstats.statistics.compute import stats, why_no_statistics
from initstats.statistics.replicas import ReplicaReport, compare_replicas
from initstats.verification.confidence import Band
from initstats.verification.entry import VerifyEntry

_CAUSE = "ranks drew, loaded or trained other values, or a bit of memory changed"
_FIX = "call initstats.init_ with the same seed= on every rank, or broadcast from one rank"


def differing_replicas(
    function: str, parameters: Mapping[str, torch.Tensor], domain: Domain
) -> dict[str, str]:
    """Return what is to be said of parameters whose replicas differ. Collective.

    Args:
        function: Public function on whose behalf this is done, for messages.
        parameters: The parameters by name, in one order on all ranks.
        domain: The ranks.

    Returns:
        In words which ranks differ, by name, the same on every rank.
    """
    measured = {
        name: parameter.detach()
        for name, parameter in parameters.items()
        if not (why_no_statistics(parameter) or _is_held_once(parameter, domain))
    }
    table = stats(measured, moments=False, histogram=False, fingerprint=True)
    found = compare_replicas(function, table, Ranks(function, domain))
    return {name: _words(found, name) for name in (*found.differing, *found.lacking)}


def _is_held_once(tensor: torch.Tensor, domain: Domain) -> bool:
    """Tell whether every element is on one rank of the domain: all ranks answer alike."""
    if not is_dtensor(tensor) or tensor.device_mesh.size() < domain.mesh.size():
        return False
    return not any(placement.is_replicate() for placement in tensor.placements)


def with_replicas(
    entries: Sequence[VerifyEntry], differing: Mapping[str, str]
) -> tuple[VerifyEntry, ...]:
    """Return the entries of a report with what is said of replicas.

    Args:
        entries: The entries; a problem that they have already stays the first.
        differing: What `differing_replicas` returned.
    """
    told = list(entries)
    for name, words in differing.items():
        at = [i for i, e in enumerate(told) if e.name == name or e.name.startswith(f"{name}[")]
        if not at:
            told.append(_of_no_promise(name, words))
            continue
        first = told[at[0]]
        told[at[0]] = (
            dataclasses.replace(first, problem=words, kind="replicas", cause=_CAUSE, fix=_FIX)
            if first.ok
            else dataclasses.replace(first, problem=f"{first.problem}; {words}")
        )
    return tuple(told)


def _words(report: ReplicaReport, name: str) -> str:
    return f"replicas differ: {report.ranks_of(name)}"


def _of_no_promise(name: str, words: str) -> VerifyEntry:
    """Return an entry for a parameter that no rule promises anything of."""
    any_value = Band(-math.inf, math.inf)
    return VerifyEntry(
        name=name,
        rule="none",
        distribution="equal replicas",
        count=0,
        mean=math.nan,
        std=math.nan,
        expected_mean=math.nan,
        expected_std=math.nan,
        mean_band=any_value,
        std_band=any_value,
        problem=words,
        kind="replicas",
        cause=_CAUSE,
        fix=_FIX,
    )
