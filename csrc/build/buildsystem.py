"""The PEP 517 backend: setuptools, plus torch's headers from the environment that is built for.

The extension uses torch's stable ABI, so it needs headers and links no torch library. pip builds in
an isolated environment, where the torch of the target environment cannot be imported; its headers
can still be read. Only where there are none does the build ask for a torch of its own, and any
version in the range gives the same module.
"""

from __future__ import annotations

from typing import Any

from setuptools import build_meta as _setuptools
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from headers import torch_include

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# A fixed version, so that isolated builds are reproducible; the result loads under 2.10 and newer.
_BUILD_TORCH = "torch==2.13.0"


def _torch() -> list[str]:
    return [] if torch_include() else [_BUILD_TORCH]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return what a wheel needs to be built: torch only where its headers are not there."""
    return [*_setuptools.get_requires_for_build_wheel(config_settings), *_torch()]


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return what an editable install needs: torch only where its headers are not there."""
    return [*_setuptools.get_requires_for_build_editable(config_settings), *_torch()]
