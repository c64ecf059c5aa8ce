"""`initstats doctor`: what was built and chosen, and whether it computes on every device here."""

from __future__ import annotations

import platform
from collections.abc import Iterable

import torch
import typer
from rich.text import Text

from initstats import __version__, init
from initstats._ops import build_info
from initstats.cli.console import AsJson, make_console, print_json
from initstats.statistics.compute import stats
from initstats.text import plain_table

_ELEMENTS = 4099  # more than a block of any kernel, and no multiple of a vector


def add_doctor_command(app: typer.Typer) -> None:
    """Add `initstats doctor`."""
    app.command()(doctor)


def doctor(*, as_json: AsJson = False) -> None:
    """Show the build, the kernels chosen on this machine, and why; run a kernel on every device.

    Exit status 1 if a device computes something else than the CPU, or nothing.
    """
    info = versions() | build_info()
    tried = try_devices(gpus(), info["cuda_archs"])
    if as_json:
        print_json(info | {"devices": tried})
    else:
        table = plain_table("initstats")
        table.add_column("what", no_wrap=True)
        table.add_column("value", overflow="fold")
        for name, value in (info | tried).items():
            text = value if isinstance(value, str) else ", ".join(map(str, value))
            table.add_row(name, Text(text or "-"))
        make_console().print(table)
    if not all(words.startswith(_EQUAL) for words in tried.values()):
        raise typer.Exit(1)


def versions() -> dict[str, str]:
    """Return the versions of the package, of Python and of the system, as a report needs them."""
    return {
        "initstats": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


_EQUAL = "fills and statistics equal to the CPU's"


def gpus() -> list[torch.device]:
    """Return the CUDA devices that torch sees."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.device("cuda", i) for i in range(count)]


def try_devices(devices: Iterable[torch.device], built: str | list[str]) -> dict[str, str]:
    """Launch a fill and the statistics on each device, and compare with the CPU, bit for bit.

    Args:
        devices: The devices.
        built: Architectures that the kernels were compiled for, such as "sm_90".

    Returns:
        What came of it, by device.
    """
    return {str(device): _try(device) + _named(device, built) for device in devices}


def _try(device: torch.device) -> str:
    expected = init.normal_(torch.empty(_ELEMENTS), seed=0)
    try:
        filled = init.normal_(torch.empty(_ELEMENTS, device=device), seed=0)
        record, filled = stats(filled).to_dict(), filled.cpu()
    except (RuntimeError, ValueError) as error:  # no kernels for it, or a launch that failed
        return f"failed: {error}"
    if not torch.equal(filled, expected):
        return "wrong: normal_ has other bits than on the CPU"
    if record != stats(expected).to_dict():
        return "wrong: stats differ from those of the CPU"
    return _EQUAL


def _named(device: torch.device, built: str | list[str]) -> str:
    if device.type != "cuda":
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    archs = ", ".join([built] if isinstance(built, str) else built) or "no architecture"
    return f" ({torch.cuda.get_device_name(device)}, sm_{major}{minor}; built for {archs})"
