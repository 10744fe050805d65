"""What can go wrong with a replica server, grouped by who must act. Each names cause and next step.

On the data path nothing here is raised: replies, refusals and lost connections are values there.
"""


class ReplicaError(Exception):
    """A replica server can not be used. `address` is host:port; `fix` is what to do about it."""

    def __init__(self, address: str, problem: str, fix: str) -> None:
        super().__init__(f"{address}: {problem}. {fix}")
        self.address = address
        self.problem = problem
        self.fix = fix

    @property
    def code(self) -> str:
        """Stable name of the kind of error."""
        return type(self).__name__


# The network or the server must come back: worth another attempt.


class Unreachable(ReplicaError):
    """No connection, no answer in time, or the connection broke during the first questions."""


class Loading(ReplicaError):
    """The server is still reading its dump."""


class LinkLost(ReplicaError):
    """The link closed before the reply came: what was asked may or may not have been done."""


class LinkFull(ReplicaError):
    """The link has its bound of commands or bytes waiting: nothing of this one was sent."""


# Whoever runs the server must act: another attempt ends the same way.


class NotAReplicaServer(ReplicaError):
    """Something answers at the address, but it is neither Valkey nor Redis."""


class TooOld(ReplicaError):
    """A Valkey below 7.2 or a Redis below 6.2."""


class Evicting(ReplicaError):
    """The server may drop records when memory is short: acknowledged writes would be lost."""


class NotMaster(ReplicaError):
    """The server replicates from another one, is a Sentinel, or is part of a Cluster."""


class AuthenticationFailed(ReplicaError):
    """The server wants a password, or another one."""


class Misconfigured(ReplicaError):
    """The server refuses a command that a replica needs (EVALSHA, SCRIPT, INFO, TIME)."""


class CommandFailed(ReplicaError):
    """The server answered a command with an error."""


# Whoever placed the server must act: its data is not what the address stands for.


class WrongIdentity(ReplicaError):
    """The server's data belongs to another cluster or node."""


# A program of ours must be mended.


class UnexpectedReply(ReplicaError):
    """A script or command answered in a form that it never has."""
