"""What the sidecar's admin door answers. Straight to it, whatever proxy the environment names."""

import http.client

import msgspec

_TIMEOUT_S = 5.0


def _get(admin: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(admin, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def not_ready(admin: str) -> str:
    """What the sidecar at `host:port` still waits for; empty: it is ready. Blocks."""
    try:
        status, body = _get(admin, "/ready")
    except OSError as error:
        return str(error)
    return "" if status == http.client.OK else body.decode(errors="replace").strip()


def node_counters(admin: str) -> list[dict[str, object]]:
    """Each node as the sidecar sees it: id, zone, reads and more. Blocks. Raises OSError."""
    status, body = _get(admin, "/nodes")
    if status != http.client.OK:
        raise OSError(f"http://{admin}/nodes answered {status}: {body[:200]!r}")
    return msgspec.json.decode(body, type=list[dict[str, object]])
