"""The rights_file: read at the start, and again when it changes.

TOML, or JSON when its name ends in .json. A new file that can not be used is refused whole: the
rights of before stay in force.
"""

import pwd
from pathlib import Path
from typing import Final

from sidecar.config import SidecarConfig, decode_settings
from sidecar.rights import Rights, RightsError, parse_rights
from sidecar.watched_files import UnusableError, WatchedFiles

_MOST_BYTES: Final = 1 << 20


class RightsFile(WatchedFiles[Rights]):
    """The rights in force. Raises ConfigError when the first file can not be used."""

    def __init__(self, config: SidecarConfig) -> None:
        self._config = config
        super().__init__([config.rights_file], "the rights")

    @property
    def rights(self) -> Rights:
        """Those of the last file that could be used."""
        return self.made

    def _make(self) -> Rights:
        try:
            return self._read()
        except RightsError as error:
            raise UnusableError(f"rights_file is {self._config.rights_file}: {error}") from None

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
