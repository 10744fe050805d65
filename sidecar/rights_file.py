"""The rights_file: read at the start, and again when it changes.

TOML, or JSON when its name ends in .json. A new file that can not be used is refused whole: the
rights of before stay in force.
"""

import pwd
from pathlib import Path
from typing import Final

import structlog

from sidecar.config import ConfigError, SidecarConfig, decode_settings
from sidecar.rights import Rights, RightsError, parse_rights
from sidecar.watched_files import Stamp, stamp_of

_MOST_BYTES: Final = 1 << 20

log = structlog.get_logger()


class RightsFile:
    """The rights in force. Raises ConfigError when the first file can not be used."""

    def __init__(self, config: SidecarConfig) -> None:
        self._config = config
        self.problem = ""
        self._stamp: Stamp = stamp_of([config.rights_file])
        try:
            self.rights = self._read()
        except RightsError as error:
            raise ConfigError(
                f"configuration: rights_file is {config.rights_file}: {error}"
            ) from None

    def reload(self) -> bool:
        """Look at the file; True when there are new rights."""
        stamp = stamp_of([self._config.rights_file])
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.rights = self._read()
        except RightsError as error:
            self._stamp = ()  # what was wrong may not be the file: it is looked at again
            problem = f"keeps the rights it had: {self._config.rights_file}: {error}"
            if problem != self.problem:
                log.error("rights_file can not be used", why=problem)
            self.problem = problem
            return False
        self.problem = ""
        log.info("rights_file read again", file=self._config.rights_file)
        return True

    def _read(self) -> Rights:
        path = self._config.rights_file
        try:
            with Path(path).open("rb") as file:
                raw = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise RightsError(error.strerror or str(error)) from None
        if len(raw) > _MOST_BYTES:
            raise RightsError(f"it has more than {_MOST_BYTES} bytes; name fewer applications")
        try:
            content = decode_settings(path, raw)
        except ValueError as error:
            raise RightsError(str(error)) from None
        rights = parse_rights(content, _uid_of)
        config = self._config
        if rights.uids and config.grpc_engine == "grpcio" and config.grpc_socket:
            raise RightsError(
                "it names unix_users, and grpcio can not tell who is at the other end of"
                " grpc_socket; use grpc_engine own, or leave grpc_socket or unix_users out"
            )
        return rights


def make_rights(config: SidecarConfig) -> RightsFile | None:
    """None: everything is allowed to everybody. Raises ConfigError."""
    return RightsFile(config) if config.rights_file else None


def _uid_of(name: str) -> int:
    return pwd.getpwnam(name).pw_uid
