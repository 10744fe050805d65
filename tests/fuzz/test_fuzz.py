"""Every parser takes whatever comes, in whatever pieces: the corpus, and mutations of it."""

from random import Random

import pytest

from tests.fuzz.hunt import Fallen, hunt, try_one
from tests.fuzz.mutate import CORPUS, corpus_of, cut
from tests.fuzz.targets import TARGETS

SEED = 1
INPUTS = 1_000


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_understood_alike_whole_and_in_pieces(target: str) -> None:
    fallen = [try_one(target, path.read_bytes(), Random(SEED)) for path in corpus_of(target)]
    assert fallen
    assert [one.how for one in fallen if one is not None] == []


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_mutations_of_the_corpus_crash_nothing_and_hang_nothing(target: str) -> None:
    fallen = next(hunt(target, SEED, inputs=INPUTS), None)
    assert fallen is None, f"{fallen.data[:500]!r}: {fallen.how}"


def test_the_corpus_has_no_folder_that_is_not_fuzzed() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)


def test_pieces_are_the_input() -> None:
    dice = Random(SEED)
    for size in (0, 1, 2, 1000):
        data = dice.randbytes(size)
        assert all(b"".join(cut(dice, data)) == data for _ in range(50))


def test_what_falls_is_told_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts_pieces(pieces: object) -> object:
        return pieces

    monkeypatch.setitem(TARGETS, "token", counts_pieces)
    fallen = try_one("token", b"abc", Random(SEED))
    assert isinstance(fallen, Fallen)
    assert fallen.data == b"abc"
    assert "pieces differ" in fallen.how
