"""How good the planner's plans are for a large cluster, and how long they take (C3).

What moves when a node joins is compared with the least that can: what the new node must hold to be
level with the others, which is its share of all replicas.
"""

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from bench.report import Figure, Report, publish
from buckets.planner import plan
from buckets.topology import Node

Owners = Mapping[int, tuple[int, ...]]


def make_nodes(count: int, zones: int) -> list[Node]:
    """Equal nodes, dealt out over zones and twenty racks in each."""
    return [
        Node(index + 1, f"n{index + 1}", "10.0.0.1", 7000, f"z{index % zones}", f"r{index % 20}")
        for index in range(count)
    ]


def moved(before: Owners, after: Owners) -> int:
    """Replicas that have to be copied."""
    return sum(len(set(after[bucket]) - set(before[bucket])) for bucket in after)


def max_over_mean(owners: Owners, nodes: int) -> float:
    """Buckets of the fullest node over the mean of all."""
    load = Counter(number for of_bucket in owners.values() for number in of_bucket)
    return max(load.values()) / (sum(load.values()) / nodes)


def measure(buckets: int, copies: int, count: int, zones: int) -> Report:
    """Plans a cluster from nothing, then with one node more."""
    nodes = make_nodes(count + 1, zones)
    start = time.perf_counter()
    before = plan(nodes[:count], range(buckets), copies)
    first_s = time.perf_counter() - start
    start = time.perf_counter()
    after = plan(nodes, range(buckets), copies, before)
    join_s = time.perf_counter() - start
    least = buckets * copies / (count + 1)
    zone_of = {node.number: node.zone for node in nodes}
    firsts = Counter(zone_of[owners[0]] for owners in before.values())
    return Report(
        f"planner: {buckets:,} buckets x {copies} on {count} nodes in {zones} zones",
        [
            Figure("plan", first_s, "s", reach=5),
            Figure("plan when a node joins", join_s, "s", reach=5),
            Figure("buckets per node, max / mean", max_over_mean(before, count), reach=1.05),
            Figure("the same after the join", max_over_mean(after, count + 1), reach=1.05),
            Figure("moved by the join / minimum", moved(before, after) / least, reach=1.05),
            Figure("first owners per zone, max / mean", max(firsts.values()) * zones / buckets),
        ],
    )


def main(arguments: Sequence[str]) -> int:
    """Runs with sizes from the command line; status 1 when a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench planner", description=__doc__)
    parser.add_argument("--buckets", type=int, default=16_384)
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=400)
    parser.add_argument("--zones", type=int, default=4)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    chosen = parser.parse_args(arguments)
    report = measure(chosen.buckets, chosen.copies, chosen.nodes, chosen.zones)
    publish(report, chosen.json)
    return int(any(figure.reached is False for figure in report.figures))
