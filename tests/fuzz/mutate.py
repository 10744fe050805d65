"""Inputs from a corpus, a seed, and nothing else: the same seed gives the same inputs."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.fuzz.targets import WORDS

CORPUS = Path(__file__).parent / "corpus"
MAX_INPUT_BYTES = 16_384


def corpus_of(target: str) -> list[Path]:
    """The files of a target, in order."""
    return sorted((CORPUS / target).iterdir())


def mutated(dice: Random, corpus: Sequence[bytes]) -> bytes:
    """One of the corpus with some changes, or with a part of another."""
    data = bytearray(dice.choice(corpus))
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at = dice.randrange(len(data) + 1)
        change = dice.randrange(7)
        if change == 0 and data:
            data[at % len(data)] ^= 1 << dice.randrange(8)
        elif change == 1:
            data[at:at] = dice.randbytes(dice.choice((1, 2, 9, 40)))
        elif change == 2:
            del data[at : at + dice.choice((1, 2, 9, 100))]
        elif change == 3:
            data[at:at] = dice.choice(WORDS)
        elif change == 4:
            end = at + dice.choice((1, 9, 100))
            data[at:at] = data[at:end] * dice.choice((1, 2, 50))
        elif change == 5:
            other = dice.choice(corpus)
            start = dice.randrange(len(other) + 1)
            data[at:] = other[start:]
        elif data:
            data[at % len(data)] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0D, 0x0A, 0x2A, 0x24))
    return bytes(data[:MAX_INPUT_BYTES])


def cut(dice: Random, data: bytes) -> list[bytes]:
    """The same bytes in pieces: a few, many, or one byte each."""
    count = dice.choice((1, 2, 5, 50, len(data)))
    if count >= len(data):
        return [data[at : at + 1] for at in range(len(data))] or [b""]
    edges = sorted(dice.randrange(len(data) + 1) for _ in range(count))
    return [data[a:b] for a, b in zip([0, *edges], [*edges, len(data)], strict=True)]
