"""`dabba-sidecar`: the process beside an application."""

import argparse
import sys

import msgspec
import uvloop

from sidecar.app import Sidecar, default_id
from sidecar.config import BAD_CONFIGURATION, LISTS, ConfigError, SidecarConfig, load_config
from sidecar.logs import set_up_logs


def main() -> None:
    """Run a sidecar until it is told to stop; status 2 and one line when it can not start."""
    try:
        uvloop.run(_serve(_configuration(sys.argv[1:])))
    except ConfigError as error:
        sys.stderr.write(f"dabba-sidecar: {error}\n")
        raise SystemExit(BAD_CONFIGURATION) from None


async def _serve(config: SidecarConfig) -> None:
    set_up_logs(sidecar=config.id)
    await Sidecar(config).run()


def _configuration(arguments: list[str]) -> SidecarConfig:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="dabba-sidecar",
        description="Dabbawala's proxy beside an application.",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML or JSON (*.json) file; see docs/configuration.md"
    )
    for name in SidecarConfig.__struct_fields__:
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name)
    given = vars(parser.parse_args(arguments))
    path = given.pop("config")
    for name in LISTS:
        if given[name] is not None:
            given[name] = given[name].split(",")
    config = load_config(path, given)
    return config if config.id else msgspec.structs.replace(config, id=default_id())


if __name__ == "__main__":
    main()
