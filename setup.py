"""Builds initstats._C with ninja: CPU kernels once per capability, CUDA kernels when nvcc is there.

Environment:
    INITSTATS_CUDA        auto (default: CUDA kernels if nvcc is found), 1 (demand them), 0 (none)
    INITSTATS_CUDA_ARCHS  compute capabilities, default "75;80;90;100;120" as far as nvcc knows
                          them (machine code each, PTX of the last)
    MAX_JOBS              parallel compilations, default the number of cores
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc/build"))

from compile import compile_extension  # noqa: E402


class NinjaBuild(build_ext):
    """Hands the one extension to csrc/build/compile.py."""

    def build_extension(self, ext: Extension) -> None:
        """Compile the extension to where setuptools wants it."""
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        compile_extension(target, jobs=os.environ.get("MAX_JOBS"))


setup(ext_modules=[Extension("initstats._C", sources=[])], cmdclass={"build_ext": NinjaBuild})
