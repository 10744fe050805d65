"""Hatchling's hook: makes the hot modules of a wheel machine code, by mypyc.

It does nothing unless HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 stands in the environment, so that the
checkout stays interpreted and everybody can install it. `make wheel` sets it. The list of modules
is in pyproject.toml; docs/decisions/0013-compiling.md says why and what such a module keeps to.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# As mypyc does by default, but without debug information.
_FLAGS = {"MYPYC_OPT_LEVEL": "3", "MYPYC_DEBUG_LEVEL": "0"}
_LINES_SHOWN = 20


class CompileHotModules(BuildHookInterface[BuilderConfig]):
    """Adds the compiled modules to the wheel, beside their sources: tracebacks show lines."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile in a copy: nothing is written into the project."""
        if version == "editable":
            return
        self._need_tools()
        self._folder = tempfile.TemporaryDirectory(prefix="dabbawala-wheel-")
        copy = Path(self._folder.name)
        for package in self.build_config.packages:
            shutil.copytree(Path(self.root, package), copy / package, ignore=_ONLY_SOURCES)
        self._compile(copy)
        build_data["force_include"].update(
            {str(built): str(built.relative_to(copy)) for built in copy.rglob("*.so")}
        )
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is written: the copy is not needed any more."""
        if self._folder is not None:
            self._folder.cleanup()

    def _need_tools(self) -> None:
        compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
        if shutil.which(compiler) is None:
            self.app.abort(
                f"wheel: a C compiler is needed: there is no {compiler} "
                "(Debian: apt-get install gcc libc6-dev)"
            )
        header = Path(sysconfig.get_path("include"), "Python.h")
        if not header.exists():
            self.app.abort(
                f"wheel: Python's headers are needed: there is no {header} "
                "(Debian: apt-get install python3-dev)"
            )

    def _compile(self, copy: Path) -> None:
        modules: list[str] = self.config["modules"]
        # mypy's settings are named, not copied: setuptools would build what a pyproject.toml says.
        settings = f"--config-file={self.root}/pyproject.toml"
        done = subprocess.run(
            [sys.executable, "-m", "mypyc", settings, *modules],
            cwd=copy,
            env=os.environ | _FLAGS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = "\n".join(done.stdout.splitlines()[-_LINES_SHOWN:])
            self.app.abort(f"wheel: mypyc failed, with status {done.returncode}:\n{last}")
        shutil.rmtree(copy / "build")


_ONLY_SOURCES = shutil.ignore_patterns("__pycache__", "*.so", "*.lua")
