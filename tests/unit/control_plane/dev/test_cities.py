from collections import Counter
from itertools import islice

import orjson
import pytest

from control_plane.dev.cities import Popularity, Record, read_cities


def records(*weights: int) -> list[Record]:
    return [Record(str(n).encode(), b"", weight) for n, weight in enumerate(weights)]


def drawn(popularity: Popularity, count: int) -> list[bytes]:
    return [record.key for record in islice(popularity, count)]


def test_the_more_people_the_more_often() -> None:
    counts = Counter(drawn(Popularity(records(1, 3, 6), seed=1), 10_000))
    assert counts[b"0"] / 10_000 == pytest.approx(0.1, abs=0.02)
    assert counts[b"2"] / 10_000 == pytest.approx(0.6, abs=0.02)


def test_nobody_lives_there_nobody_asks() -> None:
    assert set(drawn(Popularity(records(0, 1, 0, 1, 0), seed=1), 2_000)) == {b"1", b"3"}
    with pytest.raises(ValueError, match="weight above 0"):
        Popularity(records(0, 0), seed=1)


def test_the_same_seed_draws_the_same() -> None:
    places = records(5, 4, 3, 2, 1)
    assert drawn(Popularity(places, 7), 100) == drawn(Popularity(places, 7), 100)
    assert drawn(Popularity(places, 7), 100) != drawn(Popularity(places, 8), 100)


@pytest.mark.slow
def test_a_city_is_its_geonameid_all_that_is_known_and_its_people() -> None:
    # The data set of cities above 15,000 people: it is small.
    cities = {record.key: record for record in read_cities(15_000)}
    assert len(cities) > 20_000
    mumbai = cities[b"1275339"]
    assert orjson.loads(mumbai.value)["name"] == "Mumbai"
    assert mumbai.weight == orjson.loads(mumbai.value)["population"] > 10_000_000
