"""What Prometheus may ask: read from the instance when it is asked, nothing is counted twice."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from control_plane.controllers.sight import DOWN, SUSPECT, UP
from control_plane.controllers.status import View


class InstanceCollector(Collector):
    """Gauges of one instance. `view` and `leads` must be safe to call from another thread."""

    def __init__(self, view: Callable[[], View], leads: Callable[[], bool]) -> None:
        self._view = view
        self._leads = leads

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Part of prometheus_client."""
        view = self._view()
        yield _gauge("map_revision", "Revision of the map in use.", view.state.revision)
        yield _gauge("leader", "1 while this instance leads.", int(self._leads()))
        reachable = int(view.store_reachable)
        yield _gauge("store_reachable", "1 while the store answers.", reachable)
        yield _gauge("map_refused", "1 while the store's map is refused.", int(_refused(view)))
        yield _gauge("sidecars", "Sidecars connected to this instance.", len(view.sidecars))
        nodes = GaugeMetricFamily("dabbawala_nodes", "Nodes by health.", labels=["health"])
        words = [known.word for known in list(view.healths.values())]
        for word in (UP, SUSPECT, DOWN):
            nodes.add_metric([word], words.count(word))
        yield nodes
        creating = sum(ks.creating for ks in view.state.keyspaces.values())
        yield _gauge("keyspaces", "Published keyspaces.", len(view.state.keyspaces) - creating)
        yield _gauge("keyspaces_creating", "Keyspaces whose fences are not all made.", creating)
        yield _gauge("nodes_in_repair", "Nodes that are being taken back.", len(view.admissions))
        yield from _divergence(view)
        yield from _compactions(view)


def _divergence(view: View) -> Iterator[GaugeMetricFamily]:
    """Of the buckets whose copies differed when they were last compared."""
    labels = ["keyspace", "bucket"]
    keys = GaugeMetricFamily("dabbawala_diverged_keys", "Keys that differed.", labels=labels)
    oldest = GaugeMetricFamily(
        "dabbawala_diverged_oldest_timestamp_seconds",
        "Time of the oldest version that a copy lacked.",
        labels=labels,
    )
    for (keyspace, bucket), found in sorted(view.diverged.items()):
        keys.add_metric([keyspace, str(bucket)], found.keys)
        oldest.add_metric([keyspace, str(bucket)], found.oldest_ms / 1000)
    yield keys
    yield oldest


def _compactions(view: View) -> Iterator[GaugeMetricFamily]:
    """Of each keyspace's last compaction, on all owners; known to the leader."""
    jobs = sorted(view.compactions.items())
    for name, help_, values in (
        ("started_timestamp_seconds", "When it began.", [j.started_ms / 1000 for _, j in jobs]),
        ("tombstones", "Tombstones seen.", [j.counts.tombstones for _, j in jobs]),
        ("purged", "Records removed.", [j.counts.purged for _, j in jobs]),
        ("purged_bytes", "Bytes removed.", [j.counts.purged_bytes for _, j in jobs]),
        ("buckets_skipped", "Buckets left out.", [j.skipped for _, j in jobs]),
    ):
        family = GaugeMetricFamily(f"dabbawala_compaction_{name}", help_, labels=["keyspace"])
        for (keyspace, _), value in zip(jobs, values, strict=True):
            family.add_metric([keyspace], value)
        yield family


def _gauge(name: str, help_: str, value: int) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dabbawala_{name}", help_, value=value)


def _refused(view: View) -> bool:
    return bool(view.feed_problem) and view.store_reachable


class MetricsPage:
    """A Prometheus page on a thread of its own. OSError when the port is in use."""

    def __init__(self, host: str, port: int, collector: Collector) -> None:
        registry = CollectorRegistry()
        registry.register(collector)
        self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
