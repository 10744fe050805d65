"""Hints of several workers as one, and as the admin door shows them."""

from sidecar.background.hint_ledger import BucketHints, HintsView, MarkView, NodeHints
from sidecar.core.hints import ONLY_COPY
from sidecar.hint_stats import hints_page, merge_hints
from tests.support.maps import make_map

ON = HintsView("on", "", 100, 1000, 5, [], [], {"stored": 1, "lost": 2})


def view(**changes: object) -> HintsView:
    fields = {name: getattr(ON, name) for name in ON.__struct_fields__}
    return HintsView(**(fields | changes))


def test_counts_of_workers_add_up() -> None:
    both = merge_hints(ON, view(size_bytes=50, counters={"stored": 10, "lost": 20}))
    assert (both.size_bytes, both.bound_bytes, both.queued_bytes) == (150, 2000, 10)
    assert both.counters == {"stored": 11, "lost": 22}


def test_one_worker_that_keeps_none_is_shown() -> None:
    failing = view(state="failing", problem="the disk is full")
    assert merge_hints(ON, failing).problem == "the disk is full"
    assert merge_hints(failing, ON).state == "failing"
    assert merge_hints(ON, view(state="opening")).state == "opening"


def test_hints_for_one_node_in_one_bucket_are_one_number() -> None:
    mine = view(nodes=[NodeHints(2, 3, 30, 500, [BucketHints("ks", 1, 3, 30)])])
    theirs = view(
        nodes=[
            NodeHints(1, 1, 10, 900, [BucketHints("ks", 1, 1, 10)]),
            NodeHints(2, 2, 20, 400, [BucketHints("ks", 0, 1, 10), BucketHints("ks", 1, 1, 10)]),
        ]
    )
    first, second = merge_hints(mine, theirs).nodes
    assert first.node == 1
    assert (second.count, second.size_bytes, second.oldest_ms) == (5, 50, 400)
    assert second.buckets == [BucketHints("ks", 0, 1, 10), BucketHints("ks", 1, 4, 40)]
    assert mine.nodes[0].count == 3  # what was given is left alone


def test_a_mark_of_several_workers_is_one_and_durable_when_all_are() -> None:
    mine = view(marks=[MarkView("ks", 1, "later", 9, 2, durable=True)])
    theirs = view(marks=[MarkView("ks", 1, "earlier", 5, 1, durable=False)])
    assert merge_hints(mine, theirs).marks == [MarkView("ks", 1, "later", 9, 3, durable=False)]


def test_the_page_names_nodes_and_ages() -> None:
    nodes = [NodeHints(number, 1, 10, 4000, []) for number in (ONLY_COPY, 2, 99)]
    page = hints_page(view(nodes=nodes), make_map(), now_ms=5500)
    names = [node["node"] for node in page["nodes"]]
    assert names == ["any owner (only copies)", "n2", "#99 (not in the map)"]
    assert page["nodes"][1]["oldest_age_s"] == 1.5


def test_before_the_first_map_nodes_are_numbers() -> None:
    page = hints_page(view(nodes=[NodeHints(2, 1, 10, 4000, [])]), None, now_ms=5500)
    assert page["nodes"][0]["node"] == "#2 (not in the map)"
