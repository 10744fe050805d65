import http.server
import threading
from collections.abc import Iterator

import pytest

from control_plane.dev.sidecar_admin import node_counters, not_ready

ANSWERS = {
    "/ready": (503, b"not ready: connecting to node-3\n"),
    "/nodes": (200, b'[{"id": "node-1", "zone": "a", "reads": 7}]'),
}


class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = self.server.answers[self.path]  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with http.server.HTTPServer(("127.0.0.1", 0), Answering) as server:
        server.answers = dict(ANSWERS)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(server: http.server.HTTPServer) -> str:
    return f"127.0.0.1:{server.server_port}"


def test_what_is_missing_is_in_the_sidecars_own_words(server: http.server.HTTPServer) -> None:
    assert not_ready(address(server)) == "not ready: connecting to node-3"
    server.answers["/ready"] = (200, b"ready\n")  # type: ignore[attr-defined]
    assert not_ready(address(server)) == ""


def test_nobody_there_is_not_ready() -> None:
    assert "refused" in not_ready("127.0.0.1:1")


def test_counters_of_each_node(server: http.server.HTTPServer) -> None:
    assert node_counters(address(server)) == [{"id": "node-1", "zone": "a", "reads": 7}]
    server.answers["/nodes"] = (500, b"no")  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="answered 500"):
        node_counters(address(server))
