"""The hints of all workers together, and how the admin door shows them."""

from typing import Any

import msgspec

from buckets.bucket_map import BucketMap
from sidecar.background.hint_ledger import BucketHints, HintsView, MarkView, NodeHints
from sidecar.core.hints import ONLY_COPY

_ANY_OWNER = "any owner (only copies)"
_WORST_FIRST = ("failing", "off", "opening", "on")


def merge_hints(mine: HintsView, theirs: HintsView) -> HintsView:
    """The sum over two workers; the worse state of the two."""
    worse = min(mine, theirs, key=lambda view: _WORST_FIRST.index(view.state))
    return HintsView(
        state=worse.state,
        problem=worse.problem,
        size_bytes=mine.size_bytes + theirs.size_bytes,
        bound_bytes=mine.bound_bytes + theirs.bound_bytes,
        queued_bytes=mine.queued_bytes + theirs.queued_bytes,
        nodes=_merged_nodes(mine.nodes + theirs.nodes),
        marks=_merged_marks(mine.marks + theirs.marks),
        counters={name: mine.counters[name] + theirs.counters[name] for name in mine.counters},
    )


def _merged_nodes(nodes: list[NodeHints]) -> list[NodeHints]:
    merged: dict[int, NodeHints] = {}
    for node in nodes:
        known = merged.setdefault(node.node, NodeHints(node.node, 0, 0, node.oldest_ms, []))
        known.count += node.count
        known.size_bytes += node.size_bytes
        known.oldest_ms = min(known.oldest_ms, node.oldest_ms)
        known.buckets = _merged_buckets(known.buckets + node.buckets)
    return [merged[number] for number in sorted(merged)]


def _merged_buckets(buckets: list[BucketHints]) -> list[BucketHints]:
    merged: dict[tuple[str, int], BucketHints] = {}
    for one in buckets:
        place = (one.keyspace, one.bucket)
        known = merged.setdefault(place, BucketHints(*place, 0, 0))
        known.count += one.count
        known.size_bytes += one.size_bytes
    return [merged[place] for place in sorted(merged)]


def _merged_marks(marks: list[MarkView]) -> list[MarkView]:
    merged: dict[tuple[str, int], MarkView] = {}
    for one in sorted(marks, key=lambda mark: mark.last_ms):
        place = (one.keyspace, one.bucket)
        known = merged.get(place)
        lost = one.lost + (known.lost if known is not None else 0)
        durable = one.durable and (known is None or known.durable)
        merged[place] = msgspec.structs.replace(one, lost=lost, durable=durable)
    return [merged[place] for place in sorted(merged)]


def hints_page(view: HintsView, bucket_map: BucketMap | None, now_ms: int) -> dict[str, Any]:
    """GET /hints: nodes by their id, ages in seconds."""
    names = {number: node.id for number, node in bucket_map.nodes.items()} if bucket_map else {}
    names[ONLY_COPY] = _ANY_OWNER
    return {
        "state": view.state,
        "problem": view.problem,
        "size_bytes": view.size_bytes,
        "bound_bytes": view.bound_bytes,
        "queued_bytes": view.queued_bytes,
        "nodes": [
            {
                "node": names.get(node.node, f"#{node.node} (not in the map)"),
                "number": node.node,
                "count": node.count,
                "size_bytes": node.size_bytes,
                "oldest_age_s": max(0, now_ms - node.oldest_ms) / 1000,
                "buckets": msgspec.to_builtins(node.buckets),
            }
            for node in view.nodes
        ],
        "needs_repair": msgspec.to_builtins(view.marks),
        "counters": view.counters,
    }
