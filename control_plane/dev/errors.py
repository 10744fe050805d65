"""What keeps `dabba dev` from running: each says what is wrong and what to do."""


class DevError(Exception):
    """Base: `str()` is one sentence for a person, with what to do about it."""


class BadOption(DevError):
    """An option is wrong or does not go with another one."""


class FolderRefused(DevError):
    """The data folder is not ours to use: foreign, newer, of another cluster, or in use."""


class PortTaken(DevError):
    """A port that the kept data names belongs to another program now."""


class StartFailed(DevError):
    """A server did not start, or was not ready in time."""
