"""Gloo groups that some ranks make together, whatever other groups each of them has made."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

_TORCH = dist.distributed_c10d
# By default group, how often each ranks have made groups: they do it together, so all know it.
_MADE: WeakKeyDictionary[dist.ProcessGroup, Counter[tuple[int, ...]]] = WeakKeyDictionary()


def gloo_groups(
    lines: Sequence[Sequence[int]], everyone: Sequence[int], timeout: dt.timedelta
) -> list[dist.ProcessGroup]:
    """Make gloo groups with this rank. A collective of everyone, of whom no other rank knows.

    `new_group(use_local_synchronization=True)` calls a group by the number of groups that a rank
    has. Where a rank has one more, of pipeline stages or of replicas, it waits for a group that
    nobody else makes.

    Args:
        lines: For each group its ranks.
        everyone: All ranks that make groups now, whichever, in an order on which they agree.
        timeout: How long a message may take.

    Returns:
        The groups.

    Raises:
        RuntimeError: If a rank does not come; it is named.
    """
    made = _MADE.setdefault(_TORCH._get_default_group(), Counter())  # noqa: SLF001
    made[tuple(everyone)] += 1
    begin = f"initstats {tuple(everyone)} {made[tuple(everyone)]}"
    here = PrefixStore(begin, _TORCH._get_default_store())  # noqa: SLF001
    here.set(str(dist.get_rank()), "")
    try:
        return [_gloo_group(sorted(line), begin, timeout) for line in lines]
    except RuntimeError as error:
        absent = [str(rank) for rank in everyone if not here.check([str(rank)])]
        who = f"; rank {', '.join(absent)} did not" if absent else ""
        msg = (
            f"initstats.Monitor: expected the {len(everyone)} ranks of the group to call attach()"
            f" within {timeout.total_seconds():g} s, all with the same reduce and"
            f" ranks_per_node{who}"
        )
        raise RuntimeError(msg) from error


def _gloo_group(ranks: list[int], begin: str, timeout: dt.timedelta) -> dist.ProcessGroup:
    name = hashlib.blake2b(f"{begin} {ranks}".encode(), digest_size=16).hexdigest()
    group, _ = _TORCH._new_process_group_helper(  # noqa: SLF001
        len(ranks),
        ranks.index(dist.get_rank()),
        ranks,
        "gloo",
        _TORCH._get_default_store(),  # noqa: SLF001
        name,  # type: ignore[arg-type]
        timeout=timeout,
    )
    _TORCH._world.pg_group_ranks[group] = {rank: i for i, rank in enumerate(ranks)}  # noqa: SLF001
    found: dist.ProcessGroup = group
    return found
