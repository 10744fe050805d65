"""Attacks on the Redis door: declared sizes, half commands, floods and replies nobody reads."""

from bench.attacks import Attack, always


def packed(*args: bytes) -> bytes:
    """A command as clients send it."""
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in args)


def _once(name: str, text: bytes) -> Attack:
    return Attack(name=name, burst=always(text), frames=1, bursts=1)


# Each ends the connection at once, with an error before that: the words it begins with.
REFUSED = (
    (_once("2^31 arguments declared", b"*2147483647\r\n"), b"invalid multibulk length"),
    (_once("one argument too many declared", b"*32769\r\n"), b"invalid multibulk length"),
    (_once("a bulk of 2^63 declared", b"*1\r\n$9223372036854775807\r\n"), b"invalid bulk length"),
    (_once("a bulk of 16 MiB and 1 declared", b"*1\r\n$16777217\r\n"), b"invalid bulk length"),
    (_once("a negative bulk", b"*1\r\n$-1\r\n"), b"invalid bulk length"),
    (_once("a count without end", b"*" + b"1" * 1_000_000), b"too big mbulk count string"),
    (_once("a size without end", b"*1\r\n$" + b"1" * 1_000_000), b"too big bulk count string"),
    (_once("arrays in arrays", b"*1\r\n" * 200_000), b"expected '$', got '*'"),
    (_once("a line of words", b"PING\r\n"), b"inline commands are off"),
    (_once("a line of words without end", b"x" * 1_000_000), b"inline commands are off"),
    (_once("a bulk longer than it says", b"*1\r\n$4\r\nPINGPING\r\n"), b"invalid CRLF"),
)
# Hung up on without a word.
HTTP = (
    _once("an HTTP GET", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    _once("an HTTP POST whose body is commands", b"POST / HTTP/1.1\r\n\r\n" + packed(b"PING")),
    _once("an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _once("a smuggled Host line", b"Host: localhost\r\n" + packed(b"PING")),
)
# Served, refused command by command, or held back; and read no faster than they are.
GRINDS = (
    Attack(
        name="unknown commands with CR and LF",
        burst=always(packed(b"A\r\n+OK\r\n", b"x\r\n-ERR\r\n") * 200),
        frames=200,
        bursts=50,
    ),
    Attack(
        name="names of 64 KiB",
        burst=always(packed(b"N" * 65_536)),
        frames=1,
        bursts=200,
    ),
    Attack(
        name="commands that would wait or listen",
        burst=always(
            b"".join(
                packed(*words.split())
                for words in (
                    b"SUBSCRIBE c",
                    b"PSUBSCRIBE *",
                    b"BLPOP l 0",
                    b"MONITOR",
                    b"WAIT 9 0",
                    b"XREAD BLOCK 0 STREAMS s $",
                    b"MULTI",
                )
            )
            * 40
        ),
        frames=280,
        bursts=40,
    ),
    Attack(
        name="a flood of SETs after CLIENT REPLY OFF",
        opening=packed(b"CLIENT", b"REPLY", b"OFF"),
        burst=always(packed(b"SET", b"muted", b"v") * 200),
        frames=200,
        bursts=50,
    ),
    Attack(
        name="a pipeline whose replies are not read",
        burst=always(packed(b"GET", b"large") * 500),
        frames=500,
        reads=False,
    ),
    Attack(
        name="one large key, over and over in one command",
        burst=always(packed(b"MGET", *[b"large"] * 4_000)),
        frames=4_000,
        bursts=2,
        reads=False,
    ),
    Attack(
        name="many keys in one command",
        burst=always(packed(b"MGET", *(b"k%d" % key for key in range(10_000)))),
        frames=10_000,
        bursts=2,
    ),
    Attack(
        name="a large ECHO whose replies are not read",
        burst=always(packed(b"ECHO", b"e" * 1_000_000)),
        frames=1,
        bursts=200,
        reads=False,
    ),
    Attack(
        name="arguments declared, dribbling in",
        opening=b"*32768\r\n",
        burst=always(b"$1\r\nx\r\n" * 50),
        frames=50,
        bursts=300,
    ),
    Attack(
        name="commands that need the careful way",
        burst=always(packed(b"GET", b"a\r\nb") * 200),
        frames=200,
        bursts=50,
    ),
)
ATTACKS = (*(attack for attack, _ in REFUSED), *HTTP, *GRINDS)
