"""Rules about sizes and names."""

import ast
from collections.abc import Sequence
from itertools import chain

from tests.support.tidy.source import PYTHON, Source

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 50
MAX_POSITIONAL = 5

_CODE_SUFFIXES = (".py", ".lua", ".sh", ".proto", ".js", ".ts", ".tsx")
_SAYS_NOTHING = frozenset({"util", "utils", "helper", "helpers", "manager", "managers", "misc"})
_SAYS_NOTHING_ALONE = frozenset({"common"})


def file_sizes(sources: Sequence[Source]) -> list[str]:
    """A file holds one idea."""
    return [
        source.problem(1, f"has {lines} lines, more than {MAX_FILE_LINES}; split it by idea")
        for source in sources
        if source.path.suffix in _CODE_SUFFIXES and not source.generated
        if (lines := source.text.count("\n")) > MAX_FILE_LINES
    ]


def _functions(source: Source) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    found = ast.FunctionDef | ast.AsyncFunctionDef
    return [node for node in ast.walk(source.tree) if isinstance(node, found)]


def function_sizes(sources: Sequence[Source]) -> list[str]:
    """A function fits on a screen."""
    problems = []
    for source in filter(lambda source: source.python, sources):
        for function in _functions(source):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                what = f"{function.name} has {lines} lines, more than {MAX_FUNCTION_LINES}"
                what = f"{what}; move a step of it to a function with a name of its own"
                problems.append(source.problem(function.lineno, what))
    return problems


def positional_parameters(sources: Sequence[Source]) -> list[str]:
    """Calls stay readable: past five parameters, each is named."""
    problems = []
    for source in filter(lambda source: source.product, sources):
        for function in _functions(source):
            positional = [*function.args.posonlyargs, *function.args.args]
            count = sum(parameter.arg not in ("self", "cls") for parameter in positional)
            if count > MAX_POSITIONAL and not _is_command(function, source):
                what = f"{function.name} takes {count} positional parameters, more than"
                what = f"{what} {MAX_POSITIONAL}; put * before the last ones, or pass one value"
                problems.append(source.problem(function.lineno, what))
    return problems


def _is_command(function: ast.FunctionDef | ast.AsyncFunctionDef, source: Source) -> bool:
    # Nobody calls a command of the command line but typer, which turns parameters into options.
    return source.below("control_plane/cli") and not function.name.startswith("_")


def module_names(sources: Sequence[Source]) -> list[str]:
    """A module is named for what it holds."""
    problems = []
    for source in filter(lambda source: source.python, sources):
        names = [*source.path.parts[:-1], source.path.stem]
        words = set(chain.from_iterable(name.split("_") for name in names))
        bad = (words & _SAYS_NOTHING) | (set(names) & _SAYS_NOTHING_ALONE)
        if bad:
            what = f"is named {', '.join(sorted(bad))}; name it for what it holds, and split it if"
            problems.append(source.problem(1, f"{what} that is more than one thing"))
    return problems


def packages(sources: Sequence[Source]) -> list[str]:
    """Every folder of the product with code in it is a package."""
    python = [source for source in sources if source.product]
    marked = {source.path.parent for source in python if source.path.name == "__init__.py"}
    folders = {source.path.parent for source in python} - marked
    return [f"{folder}:1: has no __init__.py; add an empty one" for folder in sorted(folders)]


def known_folders(sources: Sequence[Source]) -> list[str]:
    """Python code lives in the folders that have rules."""
    return [
        source.problem(1, f"is in no folder with rules; move it to one of {', '.join(PYTHON)}")
        for source in sources
        if source.path.suffix == ".py" and source.top not in PYTHON
    ]
