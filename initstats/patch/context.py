"""`fast_init`: run third-party models' `torch.nn.init` calls on initstats."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from initstats.patch import intercept
from initstats.patch.report import AccelerationReport

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class FastInit:
    """The context manager and decorator that `fast_init` returns.

    Args:
        generators: See `fast_init`.

    Attributes:
        report: Fills that ran here and fills left to torch, over all blocks and calls so far.
    """

    def __init__(self, *, generators: bool = False) -> None:
        self.report = AccelerationReport()
        self._generators = generators

    def __enter__(self) -> FastInit:
        intercept.enter(self.report, generators=self._generators)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        intercept.leave(self.report, generators=self._generators)

    def __call__(self, function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        """Return the function, with every call of it inside a block.

        Raises:
            TypeError: If it is a class, or an async or generator function, whose body runs after
                the call, outside the block; in the call if it returns a coroutine or a generator.
        """
        called = getattr(function, "__call__", None)  # noqa: B004  # of an object that is callable
        for target in (function, called):
            kind = next((name for name, is_it in _LATER if is_it(target)), None)
            if kind is not None:
                raise _runs_later(kind, function)

        @functools.wraps(function)
        def accelerated(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            with self:
                result = function(*args, **kwargs)
            if inspect.iscoroutine(result) or inspect.isgenerator(result):
                result.close()
                raise _runs_later("one that returns a coroutine or a generator,", function)
            return result

        return accelerated


def _runs_later(kind: str, function: object) -> TypeError:
    return TypeError(
        f"initstats.fast_init: expected a function whose body runs in its call, got {kind} "
        f"{getattr(function, '__name__', function)!r}; open the block inside it, with "
        "initstats.fast_init():"
    )


_LATER = (
    ("the class", inspect.isclass),
    ("the async function", inspect.iscoroutinefunction),
    ("the async generator", inspect.isasyncgenfunction),
    ("the generator", inspect.isgeneratorfunction),
    ("the uncallable", lambda function: not callable(function)),
)


def fast_init(*, generators: bool = False) -> FastInit:
    """Run calls of `torch.nn.init` on initstats, in third-party code too.

    ```python
    with initstats.fast_init() as fast:
        model = torch.nn.MultiheadAttention(64, num_heads=4)  # or a model of transformers
    print(fast.report)
    ```

    Inside, `torch.nn.init.*`, `Tensor.normal_` and `Tensor.uniform_` give numbers of the same
    distributions, but differ: the fill of the same name here makes them, with one key per call
    from the generator given or torch's default CPU generator. `torch.manual_seed` decides them,
    `torch.random.fork_rng` keeps them from the code around.

    It also holds for references that other modules keep: transformers', timm's, those in
    `functools.partial`. Guards of the callers, such as transformers' for weights that are loaded,
    stay in force. Functions that create tensors, such as `torch.randn`, are left alone.

    DTensors are filled as the whole tensor would be, each rank its own shard; torch's own fills of
    a DTensor depend on the mesh, and on the CPU give every rank the same numbers.

    Left to torch, and counted in the report: tensors on meta, fake tensors, other subclasses, other
    dtypes and devices, and arguments that only torch takes or that it refuses. So are calls with an
    explicit generator, which promise its numbers: peft makes the frozen projections of VeRA again
    from a seed when it loads a checkpoint.

    It holds for the thread that is inside, blocks nest, and everything is restored at the end, also
    after an exception. As a decorator, `@initstats.fast_init()`, it is a block around each call.
    What torch.compile compiles inside keeps torch's fills.

    Args:
        generators: Also run calls with an explicit generator here. It decides their numbers, which
            are not torch's.

    Returns:
        The context manager, whose `report` tells what ran here.

    Determinism: bitwise, as the fills; `orthogonal_` as documented there.
    Source: torch.overrides.TorchFunctionMode, for what torch shows to it; the other functions have
        another body while a block is open.
    """
    return FastInit(generators=generators)
