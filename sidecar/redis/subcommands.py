"""Commands with a second word."""

from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.redis import replies
from sidecar.redis.command import Handler
from sidecar.redis.session import Session
from sidecar.wire import resp_reply as resp


@dataclass(frozen=True, slots=True)
class Subcommand:
    """`arity` counts both words; negative: at least so many."""

    handler: Handler
    arity: int

    def takes(self, args: list[bytes]) -> bool:
        """Whether the number of arguments is right."""
        return len(args) == self.arity or (self.arity < 0 and len(args) >= -self.arity)


def dispatch(
    session: Session, args: list[bytes], parent: str, subcommands: Mapping[str, Subcommand]
) -> None:
    """Run the one that the second word names, or say what is wrong as Redis does."""
    name = args[1].upper().decode("latin-1")
    if name == "HELP" and len(args) == 2:
        session.reply(resp.encode(session.version, _help(parent, subcommands)))
        return
    subcommand = subcommands.get(name)
    if subcommand is None:
        session.fail(replies.unknown_subcommand(parent, args[1]))
    elif not subcommand.takes(args):
        session.fail(replies.wrong_arity(f"{parent.lower()}|{name.lower()}"))
    else:
        subcommand.handler(session, args)


def _help(parent: str, subcommands: Mapping[str, Subcommand]) -> list[str]:
    first = f"{parent} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    return [first, *sorted(subcommands), "HELP"]
