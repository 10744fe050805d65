"""What the Redis door counts: plain integers, read by the metrics of the admin door."""

from sidecar.redis.command import Family
from sidecar.rights import Denials


class RespCounters:
    """Totals since the start. `calls` is indexed by `Family`."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "calls",
        "closed_half_commands",
        "closed_output",
        "closed_protocol",
        "closed_query",
        "closed_stalled",
        "closed_unauthenticated",
        "closed_wrong_tokens",
        "connections_accepted",
        "connections_rejected",
        "denials",
        "errors",
        "pauses",
    )

    def __init__(self) -> None:
        self.calls = [0] * len(Family)
        self.denials = Denials()
        self.errors = 0  # replies that are errors, protocol errors included
        self.bytes_in = 0
        self.bytes_out = 0
        self.connections_accepted = 0
        self.connections_rejected = 0
        self.closed_protocol = 0
        self.closed_output = 0
        self.closed_query = 0
        self.closed_stalled = 0
        self.closed_half_commands = 0
        self.closed_unauthenticated = 0
        self.closed_wrong_tokens = 0
        self.pauses = 0  # times that a connection was not read from for a while

    def numbers(self) -> dict[str, int]:
        """Everything by name; commands as `calls_read`, `calls_write_many` and so on."""
        plain = {
            name: getattr(self, name) for name in self.__slots__ if name not in ("calls", "denials")
        }
        calls = {f"calls_{family.name.lower()}": self.calls[family] for family in Family}
        return plain | calls | self.denials.numbers()
