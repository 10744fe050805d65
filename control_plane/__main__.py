"""`dabba-control-plane`: configuration, logs, signals, exit status."""

import asyncio
import logging
import signal
import sys

import structlog
import uvloop

from control_plane.app import run_until
from control_plane.config import Config, load_config
from control_plane.coordination.errors import Unavailable
from control_plane.errors import BadConfig

EXIT_BAD_CONFIG = 2
EXIT_STORE_UNREACHABLE = 3


def main() -> None:
    """Entry point of the command."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        config = load_config(arguments)
        set_up_logs(config.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(config))
    except BadConfig as error:
        _say(str(error))
        return EXIT_BAD_CONFIG
    except Unavailable as error:
        _say(f"{error}; start the coordination store first")
        return EXIT_STORE_UNREACHABLE
    return 0


async def _main(config: Config) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await run_until(stopping, config)


def set_up_logs(level: str) -> None:
    """JSON lines to stderr."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _say(line: str) -> None:
    sys.stderr.write(f"dabba-control-plane: {line}\n")


if __name__ == "__main__":
    main()
