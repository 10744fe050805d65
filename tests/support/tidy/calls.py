"""Rules about what a file may call."""

import ast
from collections.abc import Iterator, Sequence

from tests.support.tidy.source import Source

PURE = ("buckets", "sidecar/core", "sidecar/wire")

# Modules whose functions read a clock or roll dice; Random is allowed, since its seed is given.
_CLOCKS_AND_DICE = frozenset({"time", "random", "secrets"})
_METHODS = frozenset({"datetime.now", "datetime.utcnow", "datetime.today", "date.today"})
_FUNCTIONS = frozenset({"os.urandom", "uuid.uuid1", "uuid.uuid4"})
_ALLOWED = frozenset({"random.Random"})


# Where nothing can be waited for: the caller must be synchronous and bound the wait itself.
MAY_SLEEP = {
    "control_plane/coordination/sqlite_file.py": "SQLite's busy timeout leaves out journal_mode",
    "control_plane/dev/folder.py": "flock has no timeout",
}


def _names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: {"now": "time.monotonic", "dt": "datetime"}."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            full = {alias.asname or alias.name: alias.name for alias in node.names}
            names.update({name: f"{node.module}.{real}" for name, real in full.items()})
    return names


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return None if base is None else f"{base}.{node.attr}"
    return None


def calls_of(source: Source) -> Iterator[tuple[str, int]]:
    """The full name of every function that is called by a name from an import, with its line."""
    names = _names(source.tree)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and (dotted := _dotted(node.func)) is not None:
            first, _, rest = dotted.partition(".")
            if first in names:
                yield f"{names[first]}.{rest}" if rest else names[first], node.lineno


def _impure(name: str) -> bool:
    module, _, _ = name.partition(".")
    last_two = ".".join(name.split(".")[-2:])
    by_module = module in _CLOCKS_AND_DICE and name not in _ALLOWED
    return by_module or name in _FUNCTIONS or (module == "datetime" and last_two in _METHODS)


def pure(sources: Sequence[Source]) -> list[str]:
    """Pure code reads no clock and rolls no dice."""
    return [
        source.problem(line, f"calls {name}; take the time (now_ms) or the choice as an argument")
        for source in sources
        if source.python and source.below(*PURE)
        for name, line in calls_of(source)
        if _impure(name)
    ]


def no_blocking_sleep(sources: Sequence[Source]) -> list[str]:
    """The product does not block a thread to wait, except where MAY_SLEEP says why."""
    return [
        source.problem(line, "calls time.sleep; wait for the event itself, with a deadline")
        for source in sources
        if source.product and str(source.path) not in MAY_SLEEP
        for name, line in calls_of(source)
        if name == "time.sleep"
    ]


def no_skipped_tests(sources: Sequence[Source]) -> list[str]:
    """A test runs or fails."""
    banned = ("pytest.skip", "pytest.xfail", "pytest.importorskip", "pytest.mark.skip")
    return [
        source.problem(node.lineno, f"uses {name}; make it pass, or delete it and say why")
        for source in sources
        if source.python and source.below("tests")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and (name := _dotted(node)) is not None
        and name in (*banned, "pytest.mark.skipif", "pytest.mark.xfail")
    ]
