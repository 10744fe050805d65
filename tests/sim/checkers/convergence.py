"""Once faults have stopped and a key was read, replicas agree on it.

After a read at QUORUM a majority of the owners holds the newest version that any trusted owner has
and that a read may return; after one at ALL every owner holds the same bytes.
"""

from replicas.record import decode_record
from tests.sim.history import OK, History, short


def convergence(history: History) -> list[str]:
    """Keys that were read, and on which replicas still differ."""
    found = []
    held = {node: history.stored.get(node, {}) for node in history.final_owners}
    for key in sorted(history.read_at_quorum if held else ()):
        answered = [
            op.version
            for op in history.ops
            if op.client == "judge" and op.key == key and op.outcome == OK
        ]
        newest = max(answered, default=b"")
        gone = newest <= max((bound for _, bound in history.purged), default=b"")
        holders = [
            node
            for node, records in held.items()
            if _version(records, key) >= newest or (gone and key not in records)
        ]
        if len(holders) <= history.owner_count // 2:
            found.append(f"{key!r} {short(newest)} was read, and stands on {holders} alone")
    for key in sorted(history.read_at_all):
        copies = {node: records.get(key) for node, records in held.items()}
        if len(set(copies.values())) > 1:
            versions = {
                f"n{node}": short(raw[8:24]) if raw else "none" for node, raw in copies.items()
            }
            found.append(f"{key!r} was read at ALL, and its owners differ: {versions}")
    return found


def _version(records: object, key: bytes) -> bytes:
    raw = records.get(key) if isinstance(records, dict) else None
    record = decode_record(raw) if raw is not None else None
    return record.version if record is not None else b""
