"""The counts of the workers in Prometheus' text format.

prometheus-client's own counters take microseconds and locks; the data path counts in plain
integers, and these families are made from them when somebody asks.
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from sidecar.core.hints import ONLY_COPY
from sidecar.rights import DENIED
from sidecar.stats import WorkerStats

_HELP = {
    "reads": "Reads begun",
    "writes": "Writes begun",
    "reads_divergent": "Reads whose replicas differed",
    "reads_hurried": "Reads that asked one more replica because one was slow",
    "reads_replaced": "Reads that asked another replica in place of one that failed",
    "demotions": "Times a replica stalled, or mostly failed, and was read last from then on",
    "hedges_denied": "Times a slow read did not ask one more: the budget was spent",
    "replacements_denied": "Times a failed replica was not replaced: the budget was spent",
    "read_repairs": "Records written back to a replica that lacked them",
    "corrupt_records": "Records that failed their checksum",
    "fence_refusals": "Answers refused because of the replica's fence",
    "restarts": "Operations begun again because their bucket moved",
    "not_applied": "Writes that ended as NOT_APPLIED",
    "unknown": "Writes that ended as UNKNOWN",
    "outbid": "Attempts at a register that another operation was faster than",
}


def prometheus_text(stats: WorkerStats, feed: dict[str, Any]) -> bytes:
    """All families in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(stats, feed))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, stats: WorkerStats, feed: dict[str, Any]) -> None:
        self._stats = stats
        self._feed = feed

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        for name, text in _HELP.items():
            yield CounterMetricFamily(f"dabbawala_{name}", text, value=stats.counters[name])
        errors = CounterMetricFamily("dabbawala_errors", "Errors by reason", labels=["reason"])
        for reason, count in stats.errors.items():
            errors.add_metric([reason], count)
        yield errors
        yield _histogram("read", stats.read_latency, stats.read_seconds)
        yield _histogram("write", stats.write_latency, stats.write_seconds)
        yield from self._doors()
        yield from self._nodes()
        yield from self._hints()
        yield from self._clock()
        yield from self._divergence()
        yield from self._gauges()

    def _doors(self) -> Iterator[Metric]:
        denied = CounterMetricFamily(
            "dabbawala_denied",
            "Requests denied for want of a token or right, and tokens that are nobody's",
            labels=["door", "kind"],
        )
        for door, numbers in (("grpc", self._stats.grpc), ("redis", self._stats.redis)):
            for name, value in numbers.items():
                if name.startswith(DENIED):
                    denied.add_metric([door, name.removeprefix(DENIED)], value)
                    continue
                metric = f"dabbawala_{door}_{name}"
                kind = GaugeMetricFamily if name == "connections" else CounterMetricFamily
                yield kind(metric, f"{door} door: {name.replace('_', ' ')}", value=value)
        yield denied

    def _nodes(self) -> Iterator[Metric]:
        labels = ["node", "zone"]
        counts = {
            name: CounterMetricFamily(
                f"dabbawala_node_{name}", f"{name} sent to a node", labels=labels
            )
            for name in ("reads", "writes", "errors")
        }
        up = GaugeMetricFamily("dabbawala_node_counts", "1: answers count", labels=labels)
        last = GaugeMetricFamily(
            "dabbawala_node_read_last", "1: it stalled; others are read first", labels=labels
        )
        latency = GaugeMetricFamily(
            "dabbawala_node_latency_seconds", "Moving average", labels=labels
        )
        clock = GaugeMetricFamily(
            "dabbawala_node_clock_skew_ms", "Its clock minus the median of all nodes", labels=labels
        )
        for node in self._stats.nodes:
            label = [node.id, node.zone]
            for name, family in counts.items():
                family.add_metric(label, getattr(node, name))
            up.add_metric(label, float(node.health == "connected"))
            last.add_metric(label, float(node.read_last))
            latency.add_metric(label, node.latency_ms / 1000)
            if node.clock_ms is not None:
                clock.add_metric(label, node.clock_ms)
        yield from (*counts.values(), up, last, latency, clock)

    def _hints(self) -> Iterator[Metric]:
        hints = self._stats.hints
        for name, value in hints.counters.items():
            text = f"Hints {name.replace('_', ' ')}"
            yield CounterMetricFamily(f"dabbawala_hints_{name}", text, value=value)
        names = {node.number: node.id for node in self._stats.nodes} | {ONLY_COPY: ""}
        waiting = GaugeMetricFamily(
            "dabbawala_hints_waiting",
            "Hints that wait for a node; for none: only copies, of level ANY",
            labels=["node"],
        )
        oldest = GaugeMetricFamily(
            "dabbawala_hints_oldest_timestamp_seconds", "When it was made", labels=["node"]
        )
        for node in hints.nodes:
            label = [names.get(node.node, f"#{node.node}")]
            waiting.add_metric(label, node.count)
            oldest.add_metric(label, node.oldest_ms / 1000)
        yield from (waiting, oldest)
        for name, text, number in (
            ("hints_bytes", "Bytes that hints take of their bound", hints.size_bytes),
            ("hints_kept", "1: hints are kept", int(hints.state == "on")),
            ("needs_repair_buckets", "Buckets that lost a hint", len(hints.marks)),
        ):
            yield GaugeMetricFamily(f"dabbawala_{name}", text, value=number)

    def _divergence(self) -> Iterator[Metric]:
        labels = ["keyspace", "bucket"]
        keys = CounterMetricFamily(
            "dabbawala_divergent_reads", "Reads of keys whose replicas differed", labels=labels
        )
        oldest = GaugeMetricFamily(
            "dabbawala_divergent_oldest_timestamp_seconds",
            "When the oldest version was written that a read found to be missing on a replica",
            labels=labels,
        )
        for place in self._stats.divergent:
            label = [place.keyspace, str(place.bucket) if place.keyspace else "others"]
            keys.add_metric(label, place.keys)
            oldest.add_metric(label, place.oldest_ms / 1000)
        yield from (keys, oldest)

    def _clock(self) -> Iterator[Metric]:
        clock = self._stats.clock
        skew = GaugeMetricFamily(
            "dabbawala_clock_skew_ms", "This clock minus the median of the nodes' clocks"
        )
        if clock.skew_ms is not None:
            skew.add_metric([], clock.skew_ms)
        yield skew
        yield GaugeMetricFamily(
            "dabbawala_clock_good", "0: it is not the source of versions", value=not clock.problem
        )

    def _gauges(self) -> Iterator[Metric]:
        stats = self._stats
        for name, text, value in (
            ("active_operations", "Operations under way", stats.active),
            ("map_revision", "Revision of the map that is served", stats.map_revision),
            ("map_age_seconds", "Since the control plane last spoke", self._feed.get("age_s") or 0),
            ("resident_bytes", "Resident memory of all workers", stats.resident_bytes),
            ("workers", "Worker processes", stats.workers),
        ):
            yield GaugeMetricFamily(f"dabbawala_{name}", text, value=value)


def _histogram(verb: str, counts: list[int], seconds: float) -> Metric:
    total = 0
    buckets: list[tuple[str, float]] = []
    for power, count in enumerate(counts):
        total += count
        buckets.append((str((1 << power) / 1_000_000), total))
    buckets[-1] = ("+Inf", total)
    name = f"dabbawala_{verb}_seconds"
    return HistogramMetricFamily(name, f"Latency of {verb}s", buckets=buckets, sum_value=seconds)
