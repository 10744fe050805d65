"""`dabba hints` against an admin door with fixed answers."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import pytest

from tests.unit.control_plane.cli.conftest import Dabba

NODE = {
    "node": "n3",
    "number": 3,
    "count": 1200,
    "size_bytes": 345_678,
    "oldest_age_s": 61.4,
    "buckets": [
        {"keyspace": "places", "bucket": 5, "count": 700, "size_bytes": 200_000},
        {"keyspace": "places", "bucket": 6, "count": 500, "size_bytes": 145_678},
    ],
}
MARKS = [
    {"keyspace": "places", "bucket": 9, "cause": "aged out", "lost": 4, "durable": True},
    {"keyspace": "", "bucket": -1, "cause": "a file was set aside", "lost": 1, "durable": False},
]
QUIET = {
    "state": "on",
    "problem": "",
    "size_bytes": 0,
    "bound_bytes": 268_435_456,
    "nodes": [],
    "needs_repair": [],
}


class AdminDoor:
    """Answers GET /hints with `body`, everything else with 404."""

    def __init__(self) -> None:
        self.body: object = QUIET
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = self.path == "/hints"
                self.send_response(200 if found else 404)
                self.end_headers()
                body = door.body
                self.wfile.write(body if isinstance(body, bytes) else orjson.dumps(body))

            def log_request(self, *args: Any) -> None:
                """Nothing is logged."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[AdminDoor]:
    made = AdminDoor()
    serving = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    serving.start()
    monkeypatch.setenv("DABBA_ADMIN", made.address)
    yield made
    made.server.shutdown()
    made.server.server_close()
    serving.join()


def test_hints_are_shown_by_node(dabba: Dabba, door: AdminDoor) -> None:
    door.body = QUIET | {"size_bytes": 345_678, "nodes": [NODE]}
    answer = dabba("hints")
    assert answer.status == 0
    assert "1200 hints wait (337.6 KiB of 256.0 MiB)" in answer.out
    row = next(line for line in answer.out.splitlines() if line.startswith("n3"))
    assert row.split() == ["n3", "1200", "337.6", "KiB", "61s", "2", "of", "places"]


def test_buckets_in_need_of_repair_are_shown(dabba: Dabba, door: AdminDoor) -> None:
    door.body = QUIET | {"needs_repair": MARKS}
    answer = dabba("hints")
    assert "no hint waits" in answer.out
    assert "places" in answer.out
    assert "aged out" in answer.out
    everywhere = next(line for line in answer.out.splitlines() if line.startswith("all"))
    assert everywhere.split()[:5] == ["all", "all", "1", "not", "yet"]


def test_a_log_that_does_not_work_says_why(dabba: Dabba, door: AdminDoor) -> None:
    door.body = QUIET | {"state": "off", "problem": "no state_dir: hints are kept nowhere"}
    assert "hints are off: no state_dir" in dabba("hints").out


def test_json_is_what_the_door_answers(dabba: Dabba, door: AdminDoor) -> None:
    door.body = QUIET | {"nodes": [NODE], "counters": {"stored": 5}}
    assert dabba("hints", "-o", "json").json == door.body


@pytest.mark.parametrize("body", [b"<html>", b"{}", orjson.dumps(QUIET | {"nodes": 5})])
def test_another_server_is_told_apart(dabba: Dabba, door: AdminDoor, body: bytes) -> None:
    door.body = body
    answer = dabba("hints")
    assert answer.status == 1
    assert "does not answer as a sidecar's admin door" in answer.err


def test_a_door_that_is_not_there_is_said_in_one_line(dabba: Dabba) -> None:
    answer = dabba("hints", "--admin", "127.0.0.1:1")
    assert answer.status == 1
    assert "cannot reach the sidecar's admin door at 127.0.0.1:1" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_without_an_address_every_way_to_give_one_is_named(dabba: Dabba) -> None:
    answer = dabba("hints")
    assert answer.status == 1
    assert "--admin HOST:PORT, or set DABBA_ADMIN" in answer.err
