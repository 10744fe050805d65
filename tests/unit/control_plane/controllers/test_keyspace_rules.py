import pytest

from buckets.bucket_map import Consistency, Durability, KeyspaceSettings, Mode
from buckets.codec import keyspace_value
from control_plane.controllers.keyspace_rules import (
    notes,
    violations,
    warnings,
    with_defaults,
)
from protos.dabbawala.v1 import map_pb2

ONE_EACH = [["a", "b", "c"]]


def config(**fields: object) -> map_pb2.KeyspaceConfig:
    named: dict[str, object] = {"name": "places", "redis_db": -1}
    return with_defaults(map_pb2.KeyspaceConfig(**(named | fields)))  # type: ignore[arg-type]


def fields_of(request: map_pb2.KeyspaceConfig, nodes: int = 6, **taken: int) -> list[str]:
    found = violations(request, nodes, {number: name for name, number in taken.items()})
    assert all(violation.description for violation in found)
    return [violation.field for violation in found]


def test_what_is_left_out_takes_its_default() -> None:
    assert keyspace_value(config(), "x") == KeyspaceSettings(name="places")
    assert fields_of(config()) == []


def test_what_a_caller_says_of_creating_is_ignored() -> None:
    assert not config(creating=True).creating


def test_database_0_is_a_database() -> None:
    assert config(redis_db=0).redis_db == 0


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("name", ["a", "0", "a-b", "a" * 63], ["", "-a", "A", "a_b", "a b", "a" * 64, "é"]),
        ("buckets", [1, 2, 64, 16_384], [3, 100, 32_768]),
        ("replication_factor", [1, 3, 6], [7, 8, 100]),
        ("redis_db", [-1, 0, 1_023], [-2, 1_024, 1 << 30]),
        ("max_value_bytes", [1, 16 << 20], [(16 << 20) + 1]),
        ("log_bytes_per_bucket", [4_096, 1 << 30], [1, 4_095, (1 << 30) + 1]),
        ("max_skew_ms", [10, 60_000], [9, 60_001]),
        ("grace_ms", [4 * 3_600_000, 315_360_000_000], [1, 4 * 3_600_000 - 1, 315_360_000_001]),
        ("retention_ms", [0], [1]),
        ("mode", [1, 2], [3]),
        ("durability", [1, 2], [3]),
        ("read_consistency", [2, 3, 4, 5, 7], [1, 6, 8, 9, 10]),
        ("write_consistency", [1, 2, 3, 4, 5, 6, 7], [8, 9, 10]),
    ],
)
def test_each_field_has_its_bound(field: str, good: list[object], bad: list[object]) -> None:
    for value in good:
        assert fields_of(config(**{field: value})) == [], value
    for value in bad:
        assert fields_of(config(**{field: value})) == [field], value


def test_linearizable_is_durable_unless_somebody_chose_otherwise() -> None:
    assert config(mode=2).durability == map_pb2.DURABILITY_FSYNC
    assert config(mode=2, durability=1).durability == map_pb2.DURABILITY_MEMORY
    assert config(mode=1).durability == map_pb2.DURABILITY_MEMORY
    [found] = violations(config(mode=2), 2, {})
    assert "appendfsync always" in found.description
    assert "durability memory explicitly" in found.description


def test_who_chooses_any_is_told_what_it_costs() -> None:
    [found] = warnings(settings(write_consistency=Consistency.ANY), ONE_EACH, ["a", "b", "c"])
    assert "lost with that disk" in found


@pytest.mark.parametrize("field", ["read_consistency", "write_consistency"])
def test_linearizable_has_no_levels(field: str) -> None:
    assert fields_of(config(mode=2, **{field: Consistency.QUORUM})) == []
    assert fields_of(config(mode=2, **{field: Consistency.ONE})) == [field]


def test_what_memory_costs_a_linearizable_keyspace_is_said() -> None:
    linearizable = settings(mode=Mode.LINEARIZABLE)
    said = " ".join(notes(linearizable, ONE_EACH, ["a", "b", "c"]))
    assert "linearizable: every read sees" in said
    assert "acknowledged changes are lost" in said


def test_copies_need_as_many_nodes() -> None:
    [found] = violations(config(), 2, {})
    assert "3 copies need" in found.description
    assert "there are 2" in found.description
    [durable] = violations(config(durability=2), 2, {})
    assert "appendfsync always" in durable.description


def test_a_database_belongs_to_one_keyspace() -> None:
    assert fields_of(config(redis_db=4), other=4) == ["redis_db"]
    assert fields_of(config(redis_db=4), other=5) == []
    assert fields_of(config(redis_db=-1), other=4) == []


def settings(**fields: object) -> KeyspaceSettings:
    return KeyspaceSettings(name="places", **fields)  # type: ignore[arg-type]


def test_three_copies_in_three_zones_need_no_warning() -> None:
    assert warnings(settings(), ONE_EACH, ["a", "b", "c"]) == []


def test_each_quorum_with_one_owner_per_zone_is_all() -> None:
    each = settings(write_consistency=Consistency.EACH_QUORUM)
    [found] = warnings(each, ONE_EACH, ["a", "b", "c"])
    assert "EACH_QUORUM" in found
    assert "ALL" in found
    five = [["a", "a", "b", "b", "c"]]
    several = settings(write_consistency=Consistency.EACH_QUORUM, replication_factor=5)
    assert not any("EACH_QUORUM" in each for each in warnings(several, five, ["a", "b", "c"]))


def test_fewer_zones_than_copies() -> None:
    [found] = warnings(settings(), [["a", "a", "b"]], ["a", "b"])
    assert "2 zones only" in found


@pytest.mark.parametrize("level", [Consistency.LOCAL_ONE, Consistency.LOCAL_QUORUM])
def test_a_local_level_where_a_zone_has_no_owner(level: Consistency) -> None:
    [found] = warnings(settings(read_consistency=level), ONE_EACH, ["a", "b", "c", "d"])
    assert level.name in found
    assert "zone d" in found
    assert warnings(settings(read_consistency=level), ONE_EACH, ["a", "b", "c"]) == []


@pytest.mark.parametrize(("copies", "words"), [(1, "one copy"), (2, "two copies")])
def test_few_copies_say_what_they_cost(copies: int, words: str) -> None:
    zones = ["a", "b", "c"]
    [found] = warnings(settings(replication_factor=copies), [zones[:copies]], zones)
    assert words in found


def test_notes_say_what_a_power_loss_costs() -> None:
    memory = " ".join(notes(settings(), ONE_EACH, ["a", "b", "c"]))
    fsync = " ".join(notes(settings(durability=Durability.FSYNC), ONE_EACH, ["a", "b", "c"]))
    assert "it is lost" in memory
    assert "on its disk before it acknowledges" in fsync
    assert "2 of 3 owners, 1 may be down" in fsync
