"""The hint file: what is committed stays, what is damaged is found."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.background.errors import (
    HintDiskFailed,
    HintDiskFull,
    HintFileBusy,
    HintFileDamaged,
    HintFileForeign,
    hint_file_error,
)
from sidecar.background.hint_file import (
    EVERYWHERE,
    Batch,
    Group,
    HintFile,
    Mark,
    StoredHint,
    open_hint_file,
)
from sidecar.background.hint_salvage import start_over
from sidecar.core.hints import ONLY_COPY, Hint

CLUSTER = "test"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "hints-0.db"


@pytest.fixture
def file(path: Path) -> Iterator[HintFile]:
    opened = open_hint_file(path, CLUSTER)
    yield opened
    opened.close()


def hint(number: int, *, node: int = 3, bucket: int = 5, created_ms: int = 1000) -> Hint:
    return Hint("places", bucket, b"key-%d" % number, b"record-%d" % number, node, created_ms)


def hints_of(file: HintFile, node: int = 3) -> list[Hint]:
    return [stored.hint for stored in file.read(node, 0, 1000).hints]


def filled(path: Path, *hints: Hint, cluster: str = CLUSTER) -> None:
    file = open_hint_file(path, cluster)
    file.commit(Batch(list(hints)))
    file.close()


def spoil(path: Path, statement: str) -> None:
    """Change the file behind its back."""
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


def test_what_was_committed_is_read_in_order_by_node(file: HintFile) -> None:
    file.commit(Batch([hint(1), hint(2, node=4), hint(3)]))
    file.commit(Batch([hint(4)]))
    assert hints_of(file) == [hint(1), hint(3), hint(4)]
    assert hints_of(file, 4) == [hint(2, node=4)]


def test_it_is_read_page_by_page(file: HintFile) -> None:
    file.commit(Batch([hint(number) for number in range(5)]))
    first = file.read(3, 0, 2)
    second = file.read(3, first.last_id, 2)
    assert [s.hint for s in first.hints + second.hints] == [hint(n) for n in range(4)]


def test_it_is_there_when_opened_again(path: Path) -> None:
    filled(path, hint(1), hint(2))
    file = open_hint_file(path, CLUSTER)
    assert hints_of(file) == [hint(1), hint(2)]
    file.close()


def test_a_commit_replaces_rows_with_others_at_once(file: HintFile) -> None:
    file.commit(Batch([hint(1, node=ONLY_COPY)]))
    [stored] = file.read(ONLY_COPY, 0, 9).hints
    removed = file.commit(Batch([hint(1, node=4), hint(1, node=7)], [stored.id, 99]))
    assert removed == {stored.id}
    assert hints_of(file, ONLY_COPY) == []
    assert hints_of(file, 4) == [hint(1, node=4)]


def test_the_ids_of_removed_rows_are_never_given_again(file: HintFile) -> None:
    file.commit(Batch([hint(1)]))
    [first] = file.read(3, 0, 9).hints
    file.commit(Batch([], [first.id]))
    file.commit(Batch([hint(2)]))
    assert file.read(3, first.id, 9).hints == [StoredHint(first.id + 1, hint(2))]


def test_everything_is_added_up_by_node_and_bucket(file: HintFile) -> None:
    file.commit(Batch([hint(1), hint(2), hint(3, bucket=6), hint(4, node=8)]))
    assert sorted(file.groups()) == [
        Group(3, "places", 5, 2, 2 * 13),
        Group(3, "places", 6, 1, 13),
        Group(8, "places", 5, 1, 13),
    ]


def test_the_oldest_of_a_node_is_known(file: HintFile) -> None:
    file.commit(Batch([hint(1, created_ms=500), hint(2, created_ms=700)]))
    assert file.oldest_ms(3) == 500
    assert file.oldest_ms(4) == 0


def test_the_oldest_only_copy_need_not_be_the_first(file: HintFile) -> None:
    assert file.oldest_ms(ONLY_COPY) == 0
    copies = [hint(n, node=ONLY_COPY, created_ms=at_ms) for n, at_ms in ((1, 700), (2, 500))]
    file.commit(Batch(copies))
    assert file.oldest_ms(ONLY_COPY) == 500


def test_what_is_too_old_goes_and_its_bucket_is_marked_in_the_same_commit(file: HintFile) -> None:
    old, young = hint(1, created_ms=1000), hint(2, created_ms=1001)
    file.commit(Batch([old, young, hint(3, bucket=6, created_ms=2)]))
    dropped = file.expire(1000, now_ms=9000)
    assert sum(group.hints for group in dropped) == 2
    assert hints_of(file) == [young]
    assert sorted(file.marks()) == [
        Mark("places", 5, "aged out", 9000, 1),
        Mark("places", 6, "aged out", 9000, 1),
    ]


def test_an_only_copy_never_ages_out(file: HintFile) -> None:
    file.commit(Batch([hint(1, node=ONLY_COPY, created_ms=1)]))
    assert file.expire(1 << 40, now_ms=1 << 41) == []
    assert len(hints_of(file, ONLY_COPY)) == 1


def test_marks_are_kept_until_they_are_removed(path: Path) -> None:
    file = open_hint_file(path, CLUSTER)
    file.commit(Batch(marks=[Mark("places", 5, "why", 1, 2), Mark(*EVERYWHERE, "why", 1, 1)]))
    file.close()
    file = open_hint_file(path, CLUSTER)
    file.commit(Batch(unmarks=[EVERYWHERE]))
    assert file.marks() == [Mark("places", 5, "why", 1, 2)]
    file.close()


# --- damage


@pytest.mark.parametrize(
    "change",
    [
        "key = x'6b65792d32'",
        "record = x'00'",
        "created_ms = 1001",
        "record = 'text'",
        "checksum = x'00'",
    ],
)
def test_a_row_that_was_changed_is_no_hint(path: Path, change: str) -> None:
    filled(path, hint(1), hint(2))
    spoil(path, f"UPDATE hints SET {change} WHERE id = 1")
    file = open_hint_file(path, CLUSTER)
    page = file.read(3, 0, 9)
    assert [stored.hint for stored in page.hints] == [hint(2)]
    place = EVERYWHERE if change.startswith("checksum") else ("places", 5)
    assert page.corrupt == [(1, place)]
    file.close()


@pytest.mark.parametrize("change", ["bucket = 6", "keyspace = 'other'", "node = 3 + 0 * bucket"])
def test_a_row_whose_place_was_changed_marks_everything(path: Path, change: str) -> None:
    filled(path, hint(1, node=4 if "node" in change else 3))
    spoil(path, f"UPDATE hints SET {change}")
    file = open_hint_file(path, CLUSTER)
    assert file.read(3, 0, 9).corrupt == [(1, EVERYWHERE)]
    file.close()


def test_a_byte_flipped_in_the_file_is_found(path: Path) -> None:
    filled(path, hint(1), hint(2))
    raw = bytearray(path.read_bytes())
    at = raw.index(b"record-1")
    raw[at] ^= 1
    path.write_bytes(raw)
    file = open_hint_file(path, CLUSTER)
    page = file.read(3, 0, 9)
    assert [stored.hint for stored in page.hints] == [hint(2)]
    assert page.corrupt == [(1, ("places", 5))]
    file.close()


def test_a_torn_end_of_the_log_is_as_if_the_last_commit_had_not_been(path: Path) -> None:
    file = open_hint_file(path, CLUSTER)
    file.commit(Batch([hint(1)]))
    kept = Path(f"{path}-wal").stat().st_size
    file.commit(Batch([hint(2)]))
    wal = Path(f"{path}-wal").read_bytes()
    main = path.read_bytes()
    file.close()
    path.write_bytes(main)
    Path(f"{path}-wal").write_bytes(wal[: kept + (len(wal) - kept) // 2])
    file = open_hint_file(path, CLUSTER)
    assert hints_of(file) == [hint(1)]
    file.close()


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be read" * 100])
def test_what_is_no_hint_file_is_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(HintFileDamaged, match="not a database"):
        open_hint_file(path, CLUSTER)


def test_another_programs_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    spoil(path, "CREATE TABLE hints (id)")
    with pytest.raises(HintFileDamaged, match="no hint file"):
        open_hint_file(path, CLUSTER)


def test_a_file_of_a_later_format_is_refused(path: Path) -> None:
    filled(path, hint(1))
    spoil(path, "PRAGMA user_version = 2")
    with pytest.raises(HintFileDamaged, match="format is 2"):
        open_hint_file(path, CLUSTER)


def test_a_truncated_file_is_found(path: Path) -> None:
    filled(path, *(hint(number) for number in range(2000)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(HintFileDamaged):
        open_hint_file(path, CLUSTER)


def test_a_file_of_another_cluster_is_refused(path: Path) -> None:
    filled(path, hint(1), cluster="other")
    with pytest.raises(HintFileForeign, match="of cluster other, not test"):
        open_hint_file(path, CLUSTER)


@pytest.mark.slow
def test_two_processes_can_not_have_one_file(path: Path, file: HintFile) -> None:
    file.commit(Batch([hint(1)]))
    with pytest.raises(HintFileBusy, match="state_dir of its own"):
        open_hint_file(path, CLUSTER)


def test_a_folder_that_can_not_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HintDiskFailed, match="Check the disk"):
        open_hint_file(tmp_path / "file" / "hints-0.db", CLUSTER)


# --- setting aside


def damaged(path: Path) -> HintFileDamaged:
    with pytest.raises(HintFileDamaged) as caught:
        open_hint_file(path, CLUSTER)
    return caught.value


def test_a_damaged_file_is_set_aside_and_its_good_rows_are_kept(path: Path) -> None:
    filled(path, *(hint(number, bucket=number % 7) for number in range(2000)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    started = start_over(path, CLUSTER, damaged(path), 12345)
    assert started.aside.name == "hints-0.db.aside-12345"
    assert started.aside.stat().st_size == len(whole) // 2
    assert 0 < started.kept < 2000
    assert len(started.file.read(3, 0, 5000).hints) == started.kept
    places = {mark.place for mark in started.file.marks()}
    assert places == {EVERYWHERE, *(("places", bucket) for bucket in range(7))}
    started.file.close()


def test_a_file_of_which_nothing_can_be_read_marks_everything(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"rubbish" * 1000)
    started = start_over(path, CLUSTER, damaged(path), 1)
    assert [mark.place for mark in started.file.marks()] == [EVERYWHERE]
    assert started.file.groups() == []
    started.file.close()


def test_hints_of_another_cluster_are_not_taken_over(path: Path) -> None:
    filled(path, hint(1), cluster="other")
    why = HintFileForeign(path, "it is of another")
    started = start_over(path, CLUSTER, why, 1)
    assert started.file.groups() == []
    assert [mark.place for mark in started.file.marks()] == [("places", 5)]
    started.file.close()


def test_marks_survive_the_damage(path: Path) -> None:
    filled(path, hint(1))
    spoil(path, "INSERT INTO marks VALUES ('places', 60, 'aged out', 7, 9)")
    spoil(path, "PRAGMA user_version = 2")
    started = start_over(path, CLUSTER, damaged(path), 1)
    assert Mark("places", 60, "aged out", 7, 9) in started.file.marks()
    assert started.kept == 1
    started.file.close()


# --- room


def test_room_of_removed_rows_goes_back_to_the_disk(path: Path, file: HintFile) -> None:
    file.commit(Batch([hint(number) for number in range(5000)]))
    file.shrink()
    full = path.stat().st_size
    ids = [stored.id for page in file.all_rows() for stored in page.hints]
    file.commit(Batch(removes=ids))
    file.shrink()
    assert path.stat().st_size < full / 4


def test_a_full_disk_is_told_apart_and_leaves_what_stands(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "full.db", isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA max_page_count = 4")
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.executemany("INSERT INTO t VALUES (?)", [(bytes(4000),)] * 9)
    connection.close()
    error = hint_file_error(tmp_path, caught.value)
    assert isinstance(error, HintDiskFull)
    assert "Free space" in str(error)
