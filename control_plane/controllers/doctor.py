"""Findings with a cause and a fix, for `doctor`. Pure."""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Final

from buckets.bucket_map import Durability
from buckets.topology import NodeState
from control_plane.controllers.sight import DOWN, SUSPECT, UP
from control_plane.controllers.status import (
    HINTS_AWAY_FIX,
    View,
    bucket_counts,
    hints_away_text,
    hints_of_absent,
)
from protos.dabbawala.v1.admin_pb2 import Finding

CLOCK_WARNING_MS: Final = 200.0
CLOCK_ERROR_MS: Final = 500.0  # the default of max_skew_ms: writes are refused beyond it
_PROXIES: Final = ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy")


def diagnose(view: View, environment: Mapping[str, str]) -> list[Finding]:
    """Everything that is not well, or one finding "ok" when nothing was found."""
    found = [
        *_instance_findings(view, environment),
        *_node_findings(view),
        *_keyspace_findings(view),
        *_sidecar_findings(view),
    ]
    if found:
        return found
    cause = (
        f"{len(view.state.nodes)} nodes, {len(view.state.keyspaces)} keyspaces,"
        f" {len(view.sidecars)} sidecars: nothing to mend was found"
    )
    return [Finding(id="all-well", severity="ok", subject=view.state.cluster, cause=cause)]


def _warning(id_: str, subject: str, cause: str, fix: str) -> Finding:
    return Finding(id=id_, severity="warning", subject=subject, cause=cause, fix=fix)


def _error(id_: str, subject: str, cause: str, fix: str) -> Finding:
    return Finding(id=id_, severity="error", subject=subject, cause=cause, fix=fix)


def _instance_findings(view: View, environment: Mapping[str, str]) -> Iterator[Finding]:
    if view.feed_problem and view.store_reachable:
        fix = "restore the coordination store from its backup, then restart the control plane"
        yield _error("map-refused", view.state.cluster, view.feed_problem, fix)
    if not view.store_reachable:
        cause = "the coordination store does not answer; the last known map stays in use"
        yield _error("store-unreachable", view.store, cause, "start it, or mend the network to it")
    if not view.leader:
        cause = "no instance of the control plane leads: the map cannot be changed"
        fix = "wait some seconds; if it stays so, look at the coordination store"
        yield _error("no-leader", view.state.cluster, cause, fix)
    if len(view.instances) == 1 and view.store != "embedded":
        cause = "one instance of the control plane: the map cannot be changed while it is down"
        yield _warning("one-instance", view.instances[0].id, cause, "start a second instance")
    proxy = _proxy(environment)
    if proxy:
        cause = f"the variable {proxy} is set: gRPC clients send calls to 127.0.0.1 to the proxy"
        yield _warning("http-proxy-set", proxy, cause, "add 127.0.0.1 and localhost to no_proxy")


def _proxy(environment: Mapping[str, str]) -> str:
    exempt = environment.get("no_proxy", environment.get("NO_PROXY", "")).split(",")
    if {"*", "127.0.0.1", "127.0.0.0/8"} & {name.strip() for name in exempt}:
        return ""
    for name in _PROXIES:
        for spelling in (name, name.upper()):
            if environment.get(spelling):
                return spelling
    return ""


def _node_findings(view: View) -> Iterator[Finding]:
    fsync = any(ks.settings.durability is Durability.FSYNC for ks in view.state.keyspaces.values())
    for node_id, stored in sorted(view.state.nodes.items()):
        known = view.healths.get(node_id)
        if known is None or known.word == DOWN:
            detail = known.detail if known else "not looked at yet"
            fix = f"start its server at {stored.node.address}, or mend the network to it"
            yield _error("node-unreachable", node_id, detail, fix)
        if stored.node.state is NodeState.SUSPECT:
            fix = "keep the other owners of its buckets up; add a new node in its zone"
            cause = "; ".join(filter(None, (stored.node.reason, view.admissions.get(node_id, ""))))
            yield _error("node-suspect", node_id, cause, fix)
        elif known is not None and known.word == SUSPECT:
            fix = "wait some seconds; then look again"
            yield _warning("node-examined", node_id, known.detail, fix)
        if fsync and not stored.record.durable:
            cause = "a keyspace has durability fsync, but this node is not durable"
            fix = "CONFIG SET appendonly yes, and appendfsync always"
            yield _error("node-not-durable", node_id, cause, fix)
        yield from _sight_findings(view, node_id)
    yield from _clock_findings(view)


def _clock_findings(view: View) -> Iterator[Finding]:
    """Whose clock is off: a node's, held against the other nodes', or this instance's."""
    seen = {
        node_id: sight.clock_offset_ms
        for node_id, sight in sorted(view.sights.items())
        if sight.reachable and node_id in view.state.nodes
    }
    if not seen:
        return
    middle_ms = median(seen.values())
    fix = "synchronize the clocks (chrony, ntpd)"
    for node_id, offset_ms in seen.items():
        off_ms = offset_ms - middle_ms
        if abs(off_ms) >= CLOCK_WARNING_MS:
            make = _error if abs(off_ms) >= CLOCK_ERROR_MS else _warning
            cause = f"its clock is {off_ms:+.0f} ms from the median of all nodes"
            yield make("node-clock", node_id, cause, fix)
    if abs(middle_ms) >= CLOCK_WARNING_MS:
        cause = f"the clock of the instance that says this is {-middle_ms:+.0f} ms from its nodes'"
        yield _warning("instance-clock", view.state.cluster, cause, fix)


def _sight_findings(view: View, node_id: str) -> Iterator[Finding]:
    sight = view.sights.get(node_id)
    if sight is None:
        return
    if sight.fault == "Evicting" or (sight.reachable and sight.eviction_policy != "noeviction"):
        cause = sight.detail or f"its maxmemory-policy is {sight.eviction_policy}"
        yield _error("node-evicting", node_id, cause, "CONFIG SET maxmemory-policy noeviction")
    if not sight.reachable:
        return
    if sight.connected_replicas:
        cause = f"{sight.connected_replicas} servers replicate from it; their copies are not used"
        yield _warning("node-has-replicas", node_id, cause, "REPLICAOF NO ONE on those servers")


def _keyspace_findings(view: View) -> Iterator[Finding]:
    for name, stored in sorted(view.state.keyspaces.items()):
        if stored.creating:
            cause = view.blocked.get(name, "its fences are being made")
            fix = "start the node that it waits for"
            yield _warning("keyspace-creating", name, cause, fix)
            continue
        counts = bucket_counts(view, stored)
        if counts[DOWN]:
            cause = f"{counts[DOWN]} of {sum(counts.values())} buckets have lost their majority"
            yield _error("buckets-unavailable", name, cause, "start the nodes that are down")
        elif counts[SUSPECT]:
            cause = f"{counts[SUSPECT]} of {sum(counts.values())} buckets lack an owner"
            fix = "start the nodes that are down; one more loss may stop these buckets"
            yield _warning("buckets-degraded", name, cause, fix)
    zones = {stored.node.zone for stored in view.state.nodes.values()}
    up = {
        stored.node.zone
        for node_id, stored in view.state.nodes.items()
        if node_id in view.healths and view.healths[node_id].word == UP
    }
    for zone in sorted(zones - up):
        yield _error("zone-down", zone, "no node of this zone is up", "start its nodes")


def _sidecar_findings(view: View) -> Iterator[Finding]:
    for sidecar in view.sidecars:
        if sidecar.state == "REJECTED":
            fix = "its log says why; it keeps serving from the map it has"
            yield _error("sidecar-rejected", sidecar.id, sidecar.detail, fix)
        elif sidecar.state == "STALE":
            cause = sidecar.detail or (
                f"it has revision {sidecar.map_revision}, the map is at {view.state.revision}"
            )
            yield _warning("sidecar-stale", sidecar.id, cause, "wait; then restart it")
        if sidecar.clock_problem:
            fix = "synchronize its host's clock (chrony, ntpd)"
            yield _error("sidecar-clock", sidecar.id, sidecar.clock_problem, fix)
    for record in hints_of_absent(view):
        fix = f"{HINTS_AWAY_FIX} {record.sidecar}"
        yield _warning("hints-away", record.sidecar, hints_away_text(record), fix)
