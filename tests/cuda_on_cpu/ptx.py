"""Run PTX on the CPU: `Module(ptx).launch("my_kernel", grid, block, arguments)`."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .cache import cached
from .mangled import find_kernel
from .ptx_function import PtxFunction
from .ptx_module import PtxModule
from .ptx_types import UnsupportedPtxError
from .toolkit import HERE, cuda_include

Dimensions = int | tuple[int, ...]
Order = Literal["forward", "reverse", "random"]
__all__ = [
    "ORDERS",
    "KernelError",
    "LaunchReport",
    "Module",
    "Order",
    "UnsupportedPtxError",
    "aligned",
]

ORDERS: tuple[Order, ...] = ("forward", "reverse", "random")
Argument = npt.NDArray[Any] | np.generic | bytes

SPACES = ("generic", "global", "shared", "local", "const", "param")
KINDS = ("load", "store", "atomic")


class KernelError(Exception):
    """The kernel did what a GPU would not forgive; the message says what and where."""


@dataclass(frozen=True)
class AccessTraffic:
    """What one instruction that accesses memory did during a launch."""

    text: str  # the instruction, and @file:line where nvcc had -lineinfo
    line: int  # of the PTX
    space: str
    kind: str
    requests: int  # by warps
    lanes: int
    size_bytes: int
    sectors: int  # of 32 bytes, summed over requests; global memory
    wavefronts: int  # shared memory


@dataclass(frozen=True)
class ArrayTraffic:
    """Bytes that a launch moved to and from one of its array arguments."""

    loaded: int
    stored: int
    atomic: int


@dataclass(frozen=True)
class LaunchReport:
    """What a launch did."""

    races: int  # on shared memory, between threads of a block
    first_race: str
    accesses: list[AccessTraffic]
    arrays: list[ArrayTraffic]  # in the order of the arguments
    loaded_sectors: int  # different 32-byte sectors that were loaded


def aligned(count: int, dtype: npt.DTypeLike, alignment: int = 256) -> npt.NDArray[Any]:
    """Return a zeroed array whose first element is aligned as cudaMalloc's memory is."""
    size_bytes = count * np.dtype(dtype).itemsize
    raw = np.zeros(size_bytes + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size_bytes].view(dtype)


class Module:
    """A PTX module, translated to C++ and loaded.

    Args:
        ptx: the text, or the path of a .ptx file. Compile with -lineinfo to see source lines.
        only: parts of the mangled names of the kernels to load; all, where there is none. A file
            with dozens of template instances takes a minute to compile.
        trace: check races and count traffic; without, launches are four to eight times as fast.
    """

    def __init__(self, ptx: str | Path, *, trace: bool = True, only: Sequence[str] = ()) -> None:
        text = ptx.read_text() if isinstance(ptx, Path) else ptx
        self._module = PtxModule(text, only)
        self._library = ctypes.CDLL(str(_compile(self._module.cpp(), trace=trace)))
        library = self._library
        library.ptx_failure.restype = library.ptx_first_race.restype = ctypes.c_char_p
        library.ptx_access.restype = ctypes.c_char_p
        library.ptx_race_count.restype = library.ptx_loaded_sectors.restype = ctypes.c_uint64
        library.ptx_add_array.argtypes = [ctypes.c_uint64, ctypes.c_uint64]

    @property
    def kernels(self) -> list[str]:
        """The mangled names of the kernels."""
        return [kernel.name for kernel in self._module.kernels]

    def launch(
        self,
        name: str,
        grid: Dimensions,
        block: Dimensions,
        arguments: Sequence[Argument],
        *,
        visible: Sequence[npt.NDArray[Any]] = (),
        shared_bytes: int = 0,
        order: Order = "forward",
        seed: int = 1,
    ) -> LaunchReport:
        """Run a kernel.

        Args:
            name: of the kernel, as `find_kernel` takes it.
            grid: number of blocks, up to three dimensions.
            block: threads per block, up to three dimensions.
            arguments: one per parameter: an array for a pointer (the kernel may touch the array and
                nothing else), a NumPy scalar of the parameter's type, or the bytes of a struct.
            visible: arrays that the kernel may touch too, because a struct points to them; they
                come last in the report.
            shared_bytes: dynamic shared memory.
            order: in which order threads and blocks run; results must not depend on it.
            seed: of the random order.

        Raises:
            KernelError: access out of bounds or misaligned, deadlock, trap.
        """
        library = self._library
        full_name = find_kernel(self.kernels, name)
        kernel = next(k for k in self._module.kernels if k.name == full_name)
        arrays = [a for a in arguments if isinstance(a, np.ndarray)] + list(visible)
        library.ptx_clear_arrays()
        for array in arrays:
            library.ptx_add_array(array.ctypes.data, array.nbytes)
        library.ptx_set_order(ORDERS.index(order), seed)
        packed = pack_arguments(kernel, arguments)
        dimensions = (ctypes.c_uint * 6)(*_three(grid), *_three(block))
        status = getattr(library, f"launch_{full_name}")(
            dimensions, ctypes.c_size_t(shared_bytes), packed, ctypes.c_size_t(len(packed))
        )
        if status != 0:
            failure = library.ptx_failure().decode()
            raise KernelError(failure or f"invalid launch configuration, cudaError {status}")
        return self._report(len(arrays))

    def _report(self, array_count: int) -> LaunchReport:
        library, values = self._library, (ctypes.c_uint64 * 8)()
        accesses = []
        for i in range(library.ptx_access_count()):
            text = library.ptx_access(i, values).decode()
            line, space, kind, *counts = (int(v) for v in values)
            if counts[0] != 0:
                accesses.append(AccessTraffic(text, line, SPACES[space], KINDS[kind], *counts))
        arrays = []
        for i in range(array_count):
            library.ptx_array_traffic(i, values)
            arrays.append(ArrayTraffic(*(int(v) for v in values[:3])))
        return LaunchReport(
            races=library.ptx_race_count(),
            first_race=library.ptx_first_race().decode(),
            accesses=accesses,
            arrays=arrays,
            loaded_sectors=library.ptx_loaded_sectors(),
        )


def pack_arguments(kernel: PtxFunction, arguments: Sequence[Argument]) -> bytes:
    """Lay the arguments out as the kernel's parameters are."""
    if len(arguments) != len(kernel.parameters):
        raise TypeError(
            f"expected {len(kernel.parameters)} arguments for {kernel.name}, got {len(arguments)}"
        )
    packed = bytearray(kernel.parameter_bytes)
    for i, (parameter, argument) in enumerate(zip(kernel.parameters, arguments, strict=True)):
        if isinstance(argument, np.ndarray):
            value = argument.ctypes.data.to_bytes(8, "little")
        else:
            value = argument if isinstance(argument, bytes) else argument.tobytes()
        if len(value) != parameter.size_bytes:
            raise TypeError(
                f"expected {parameter.size_bytes} bytes for argument {i} of {kernel.name}, "
                f"got {len(value)}"
            )
        offset = kernel.parameter_offsets[parameter.name]
        packed[offset : offset + len(value)] = value
    return bytes(packed)


def _three(dimensions: Dimensions) -> tuple[int, ...]:
    given = dimensions if isinstance(dimensions, tuple) else (dimensions,)
    return (*given, 1, 1)[:3]


def _compile(source: str, *, trace: bool) -> Path:
    flags = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off", "-frounding-math"]
    flags += [f"-DPTX_TRACE={int(trace)}", f"-I{HERE}", f"-isystem{cuda_include()}"]

    def make(folder: Path) -> None:
        (folder / "kernels.cpp").write_text(source)
        command = ["g++", *flags, "kernels.cpp", "-o", "kernels.so"]
        subprocess.run(command, check=True, cwd=folder)

    return cached("ptx-executor", [source, *flags], HERE.glob("*.h"), make) / "kernels.so"
