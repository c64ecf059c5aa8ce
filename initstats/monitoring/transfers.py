"""Copies from GPUs to pinned memory, and the flags that say they have arrived.

A reader that asks CUDA whether an event has happened breaks whatever CUDA graph the training thread
captures in that moment, and freeing pinned memory is such a call too. So only the training thread
calls CUDA: it ends the copies of a window with that of a flag, which the reader polls in memory,
and the reader gives pinned memory back to a pool.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor

_POLL_SECONDS = 5e-4


def _allocate(size: int) -> Tensor:
    with torch.inference_mode(mode=False):  # so that it can be written outside of it too
        return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)


class PinnedPool:
    """Pinned memory that is used again and never freed: as much as was in flight at once.

    Args:
        allocate: Returns so many bytes, uint8; called in the thread that takes.
    """

    def __init__(self, allocate: Callable[[int], Tensor] = _allocate) -> None:
        self._allocate = allocate
        self._free: dict[int, list[Tensor]] = {}
        self._lock = threading.Lock()

    def take(self, size: int) -> Tensor:
        """Return at least so many bytes, of unknown content."""
        rounded = 1 << max(6, (size - 1).bit_length())
        with self._lock:
            free = self._free.get(rounded)
            if free:
                return free.pop()
        return self._allocate(rounded)

    def give_back(self, memory: Tensor) -> None:
        """Take back what `take` returned."""
        with self._lock:
            self._free.setdefault(memory.numel(), []).append(memory)


POOL = PinnedPool()


class Transfers:
    """The copies of one window: begun in the training thread, awaited in the reader.

    Args:
        pool: Where the memory comes from.
    """

    def __init__(self, pool: PinnedPool = POOL) -> None:
        self._pool = pool
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._copying: dict[torch.device, torch.cuda.Stream] = {}
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}
        self._flags: list[Tensor] = []

    # ---- in the training thread

    def follow(self, device: torch.device) -> None:
        """Order the current stream after the one on which the last measurement was launched."""
        if device.type != "cuda":
            return
        current = torch.cuda.current_stream(device)
        last = self._streams.get(device)
        if last is not None and last != current:
            current.wait_stream(last)
        self._streams[device] = current

    def follow_all(self, other: Transfers) -> None:
        """Order the current streams after those of another window, whose records are taken over."""
        for device, stream in other._streams.items():
            current = torch.cuda.current_stream(device)
            if stream != current:
                current.wait_stream(stream)

    def copy(self, tensor: Tensor) -> Tensor:
        """Start a copy to pinned memory; a tensor on the CPU is returned as it is."""
        if not tensor.is_cuda:
            return tensor
        stream = self._copying.get(tensor.device)
        if stream is None:
            stream = self._copying[tensor.device] = _stream_of_copies(tensor.device)
        self.follow(tensor.device)
        stream.wait_stream(self._streams[tensor.device])
        memory = self._pool.take(tensor.nbytes)
        host = memory[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        with torch.cuda.stream(stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(stream)
        self._copies[id(host)] = host, memory
        return host

    def finish(self) -> None:
        """Start the copies of the flags, behind all others."""
        for device, stream in self._copying.items():
            memory = self._pool.take(1)
            flag = memory[:1]
            flag.zero_()
            with torch.cuda.stream(stream):
                flag.copy_(_one(device), non_blocking=True)  # in the order of the stream
            self._flags.append(memory)

    def synchronize(self) -> None:
        """Wait in the training thread for the copies that were begun."""
        for stream in self._copying.values():
            stream.synchronize()

    # ---- in the reader: no call of CUDA

    def wait(self, pause: Callable[[float], None] = time.sleep) -> None:
        """Wait until all copies have arrived."""
        for memory in self._flags:
            seen = memory.numpy()
            while not seen[0]:
                pause(_POLL_SECONDS)

    def own(self, tensor: Tensor) -> Tensor:
        """Return a tensor in ordinary memory with the values of one that `copy` returned."""
        return tensor.clone() if id(tensor) in self._copies else tensor

    def release(self) -> None:
        """Give the pinned memory back; every copy must be owned by then."""
        for _, memory in self._copies.values():
            self._pool.give_back(memory)
        for memory in self._flags:
            self._pool.give_back(memory)
        self._copies.clear()
        self._flags.clear()


_STREAMS: dict[torch.device, torch.cuda.Stream] = {}
_ONES: dict[torch.device, Tensor] = {}


def _stream_of_copies(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of a device that copies run on, beside the computation."""
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _STREAMS[device]


def _one(device: torch.device) -> Tensor:
    """Return a one on a device. Made on the stream of its copies, the only place that reads it."""
    if device not in _ONES:
        with torch.inference_mode(mode=False):
            _ONES[device] = torch.ones(1, dtype=torch.uint8, device=device)
    return _ONES[device]
