"""SETTINGS: what we tell a client, and its own settings checked (RFC 9113, section 6.5)."""

from sidecar.wire import http2_frames as h2
from sidecar.wire.http2_frames import ConnectionFault
from sidecar.wire.http2_limits import Http2Limits


def greeting(limits: Http2Limits) -> bytes:
    """A server's first frames: its settings, and a connection window above the default."""
    settings = h2.settings_frame(
        {
            h2.SETTINGS_MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
            h2.SETTINGS_INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            h2.SETTINGS_MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
        }
    )
    extra = limits.connection_window_bytes - h2.DEFAULT_WINDOW_BYTES
    return settings + (h2.window_update_frame(0, extra) if extra > 0 else b"")


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """A client's settings in their order, each within its bounds."""
    if len(payload) % h2.SETTING.size:
        raise ConnectionFault(h2.FRAME_SIZE_ERROR, "SETTINGS is no multiple of 6 bytes")
    settings = list(h2.SETTING.iter_unpack(payload))
    for name, value in settings:
        _check(name, value)
    return settings


def _check(name: int, value: int) -> None:
    if name == h2.SETTINGS_ENABLE_PUSH and value > 1:
        raise ConnectionFault(h2.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH is {value}, not 0 or 1")
    if name == h2.SETTINGS_INITIAL_WINDOW_SIZE and value > h2.LARGEST_WINDOW_BYTES:
        raise ConnectionFault(
            h2.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE is {value}, over 2^31-1"
        )
    if name == h2.SETTINGS_MAX_FRAME_SIZE and not (
        h2.DEFAULT_MAX_FRAME_BYTES <= value <= h2.LARGEST_MAX_FRAME_BYTES
    ):
        raise ConnectionFault(
            h2.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE is {value}, not 2^14 to 2^24-1"
        )
