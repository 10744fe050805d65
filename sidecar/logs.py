"""Structured logs: JSON lines on stderr, one event each."""

import sys

import orjson
import structlog


def set_up_logs(**bound: str) -> None:
    """Configure logging once per process; `bound` goes into every line (which sidecar, worker)."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(**bound)


def _dumps(event: object, **_: object) -> bytes:
    return orjson.dumps(event, default=str)
