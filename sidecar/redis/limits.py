"""Bounds of the Redis door. One frozen value; sizes in bytes, times in milliseconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RespLimits:
    """What one connection, and all of them together, may take."""

    connections: int = 10_000
    args: int = 32_768  # arguments of one command
    bulk_bytes: int = 16 << 20  # one argument; a keyspace's own bound on values is usually lower
    query_bytes: int = 64 << 20  # one command that has not arrived whole
    door_query_bytes: int = 256 << 20  # all such commands of all connections
    # Unanswered keys of one connection before its reading stops: others may have to wait for them
    # at a replica. Also how many of its commands are dispatched in one turn, if time allows that.
    in_flight: int = 256
    output_soft_bytes: int = 1 << 20  # unsent replies before reading and dispatching stop
    output_hard_bytes: int = 64 << 20  # unsent replies before the connection is closed
    door_output_bytes: int = 256 << 20  # of all connections whose replies pile up
    stalled_reader_ms: int = 30_000  # unsent replies above the soft bound for longer: closed
    half_command_ms: int = 60_000  # a command that has not arrived whole for longer: closed
    # Of clients to whom nothing is granted, where there are rights: before they have authenticated.
    stranger_args: int = 10
    stranger_bulk_bytes: int = 16 << 10
    stranger_output_bytes: int = 1 << 10  # unsent replies before the connection is closed
    wrong_tokens: int = 5  # that one connection may bring: closed with the last
    auth_timeout_ms: int = 10_000  # of who is nobody without AUTH: closed
    inline_commands: bool = False  # lines of words instead of arrays, for people with telnet
