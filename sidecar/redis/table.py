"""All commands of the Redis door, in one table."""

from sidecar.redis import (
    client,
    connection,
    introspection,
    levels,
    modifies,
    reads,
    refusals,
    server,
    tokens,
    walks,
    writes,
)
from sidecar.redis.command import Command, Family, Handler

_ONE_KEY = (1, 1, 1)
_ALL_KEYS = (1, -1, 1)
_PAIRS = (1, -1, 2)
_READ = ("readonly", "fast")
_WRITE = ("write", "denyoom")
_PLAIN = ("noscript", "loading", "stale", "fast")


def _reading(
    name: str, handler: Handler, arity: int, summary: str, group: str = "string"
) -> Command:
    return Command(name, handler, arity, Family.READ, summary, _ONE_KEY, _READ, group)


def _connection(name: str, handler: Handler, arity: int, summary: str) -> Command:
    family = Family.CONNECTION
    return Command(name, handler, arity, family, summary, flags=_PLAIN, group="connection")


def _server(name: str, handler: Handler, arity: int, summary: str) -> Command:
    return Command(name, handler, arity, Family.SERVER, summary, flags=_PLAIN, group="server")


def _walking(name: str, handler: Handler, arity: int, summary: str) -> Command:
    return Command(
        name, handler, arity, Family.READ_MANY, summary, flags=("readonly",), group="generic"
    )


def _modifying(name: str, handler: Handler, arity: int, summary: str) -> Command:
    summary += " Needs a linearizable keyspace."
    group = "generic" if "expire" in name or name == "persist" else "string"
    tells = name.startswith(("get", "incr", "decr"))
    return Command(
        name, handler, arity, Family.WRITE, summary, _ONE_KEY, _WRITE, group, tells=tells
    )


_COMMANDS = (
    _reading("get", reads.get, 2, "Returns the string value of a key."),
    _reading("strlen", reads.strlen, 2, "Returns the length of a string value."),
    _reading("getrange", reads.getrange, 4, "Returns a substring of the string stored at a key."),
    _reading("type", reads.type_of, 2, "Determines the type of value stored at a key.", "generic"),
    _reading("ttl", reads.ttl, 2, "Returns the expiration time in seconds of a key.", "generic"),
    _reading(
        "pttl", reads.pttl, 2, "Returns the expiration time in milliseconds of a key.", "generic"
    ),
    _reading(
        "expiretime", reads.expiretime, 2, "Returns when a key expires, Unix seconds.", "generic"
    ),
    _reading("pexpiretime", reads.pexpiretime, 2, "The same in Unix milliseconds.", "generic"),
    Command(
        "mget",
        reads.mget,
        -2,
        Family.READ_MANY,
        "Returns the string values of one or more keys.",
        _ALL_KEYS,
        _READ,
        complexity="O(N)",
    ),
    Command(
        "exists",
        reads.exists,
        -2,
        Family.READ_MANY,
        "Determines whether one or more keys exist.",
        _ALL_KEYS,
        _READ,
        "generic",
        complexity="O(N)",
    ),
    Command(
        "set",
        writes.set_value,
        -3,
        Family.WRITE,
        "Sets the string value of a key. Options that read first need a linearizable keyspace.",
        _ONE_KEY,
        _WRITE,
    ),
    Command(
        "setex",
        writes.setex,
        4,
        Family.WRITE,
        "Sets the string value and expiration time of a key.",
        _ONE_KEY,
        _WRITE,
        since="2.0.0",
    ),
    Command(
        "psetex",
        writes.psetex,
        4,
        Family.WRITE,
        "Sets both string value and expiration time in milliseconds of a key.",
        _ONE_KEY,
        _WRITE,
        since="2.6.0",
    ),
    Command(
        "mset",
        writes.mset,
        -3,
        Family.WRITE_MANY,
        "Sets the string values of several keys, each a write of its own.",
        _PAIRS,
        _WRITE,
        complexity="O(N)",
    ),
    *(
        Command(
            name,
            writes.delete,
            -2,
            Family.WRITE_MANY,
            "Deletes one or more keys, each a write of its own.",
            _ALL_KEYS,
            ("write",),
            "generic",
            complexity="O(N)",
        )
        for name in ("del", "unlink")
    ),
    _modifying("setnx", modifies.setnx, 3, "Sets a key that does not exist."),
    _modifying("getset", modifies.getset, 3, "Sets a key and returns its previous value."),
    _modifying("getdel", modifies.getdel, 2, "Returns the value of a key and deletes it."),
    _modifying("getex", modifies.getex, -2, "Returns the value of a key and sets its expiration."),
    _modifying("append", modifies.append, 3, "Appends to the value of a key."),
    _modifying("setrange", modifies.setrange, 4, "Overwrites a part of a value."),
    _modifying("incr", modifies.incr, 2, "Increments an integer by one."),
    _modifying("decr", modifies.decr, 2, "Decrements an integer by one."),
    _modifying("incrby", modifies.incrby, 3, "Increments an integer."),
    _modifying("decrby", modifies.decrby, 3, "Decrements an integer."),
    _modifying("incrbyfloat", modifies.incrbyfloat, 3, "Increments a number."),
    _modifying("expire", modifies.expire, -3, "Sets the expiration of a key in seconds."),
    _modifying("pexpire", modifies.expire, -3, "Sets the expiration of a key in milliseconds."),
    _modifying("expireat", modifies.expire, -3, "Sets the expiration of a key, Unix seconds."),
    _modifying("pexpireat", modifies.expire, -3, "The same in Unix milliseconds."),
    _modifying("persist", modifies.persist, 2, "Removes the expiration of a key."),
    _walking("scan", walks.scan, -2, "Iterates over the keys of the keyspace."),
    _walking("dbsize", walks.dbsize, 1, "Returns the number of keys, roughly."),
    _server("keys", refusals.refuse_keys, 2, "Refused: it would read every node."),
    _connection("ping", connection.ping, -1, "Returns the server's liveliness response."),
    _connection("echo", connection.echo, 2, "Returns the given string."),
    _connection("quit", connection.quit_now, -1, "Closes the connection."),
    _connection("reset", connection.reset, 1, "Resets the connection."),
    _connection("auth", connection.auth, -2, "Authenticates, or picks the keyspace by name."),
    _connection("select", connection.select, 2, "Picks the keyspace by its number."),
    _connection("hello", connection.hello, -1, "Handshakes with the server."),
    _connection("client", client.client, -2, "A container for client connection commands."),
    _server("command", introspection.command, -1, "Returns information about all commands."),
    _server("info", server.info, -1, "Returns information about the server."),
    _server("role", server.role, 1, "Returns the replication role."),
    _server("config", server.config, -2, "A container for server configuration commands."),
    _server("time", server.time_now, 1, "Returns the server time."),
    _server(
        "dabba.consistency",
        levels.consistency,
        -1,
        "Shows or sets how many owners must agree, for this connection.",
    ),
    Command(
        "dabba.locate",
        server.locate,
        2,
        Family.SERVER,
        "Tells the bucket and owners of a key.",
        _ONE_KEY,
        _READ,
        "server",
    ),
    _server(
        "dabba.session",
        tokens.session,
        -2,
        "Starts, shows, sets or stops the session of this connection: START GET SET STOP.",
    ),
)


def command_table() -> dict[str, Command]:
    """All commands by name, in lower case."""
    return {command.name: command for command in _COMMANDS}
