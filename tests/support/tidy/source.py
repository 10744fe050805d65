"""The files of the project, parsed once for all rules."""

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

PRODUCT = ("protos", "buckets", "replicas", "sidecar", "control_plane")
PYTHON = (*PRODUCT, "tests", "bench", "scripts")

_NOT_OURS = {"node_modules", "build", "dist", "__pycache__"}
_HIDDEN_BUT_OURS = {".ci"}


@dataclass(frozen=True)
class Source:
    """One file: its path from the root of the project, and its text."""

    path: PurePosixPath
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @property
    def top(self) -> str:
        """The top-level folder, e.g. "sidecar"."""
        return self.path.parts[0]

    @property
    def module(self) -> str:
        """The name it is imported by, e.g. "sidecar.core.read"."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def generated(self) -> bool:
        return "_pb2" in self.path.name

    @property
    def python(self) -> bool:
        return self.path.suffix == ".py" and self.top in PYTHON and not self.generated

    @property
    def product(self) -> bool:
        return self.python and self.top in PRODUCT

    def below(self, *folders: str) -> bool:
        return any(self.path.is_relative_to(folder) for folder in folders)

    def problem(self, line: int, what: str) -> str:
        return f"{self.path}:{line}: {what}"


def project_sources(root: Path) -> list[Source]:
    """Every text file of the project, in the order of its path; binary files are left out."""
    return [
        Source(PurePosixPath(path.relative_to(root)), path.read_text(encoding="utf-8"))
        for path in sorted(_files(root))
        if _is_text(path)
    ]


def _files(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names[:] = [
            name
            for name in names
            if name not in _NOT_OURS and (not name.startswith(".") or name in _HIDDEN_BUT_OURS)
        ]
        yield from (Path(folder, file) for file in files if file != ".git")


def _is_text(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, FileNotFoundError):
        return False
    return path.suffix != ".log"
