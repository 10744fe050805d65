"""A change of a linearizable key is answered only when a majority that write needs names has
accepted it under one ballot: in trusted lives, in the incarnations and under the epoch that the
sidecar knew when it said so. One that was refused too: what it was refused for has to stand.
"""

from collections import defaultdict

from buckets.bucket_map import Bucket, Consistency, Owner
from replicas.acceptor import decode_acceptor
from tests.sim.checkers.acknowledged_by import groups
from tests.sim.history import OK, Accept, History
from tests.sim.register_history import REFUSED, RegisterOp


def chosen(history: History) -> list[str]:
    """Changes that were answered although too few had accepted them."""
    by_record = defaultdict(list)
    for accept in history.accepts:
        by_record[accept.key, accept.raw].append(accept)
    by_id = defaultdict(list)
    for (key, raw), accepts in by_record.items():
        acceptor = decode_acceptor(raw)
        for past in acceptor.content.decided if acceptor is not None else ():
            by_id[key, past.id].append(accepts)
    found = []
    for op in history.ops:
        if not isinstance(op, RegisterOp) or not op.write or op.bucket is None:
            continue
        if op.outcome in (OK, REFUSED) and op.operation_id:
            ballots = by_id[op.key, op.operation_id]
            if not any(_is_chosen(history, op, op.bucket, accepts) for accepts in ballots):
                found.append(f"{op} under epoch {op.bucket.epoch}: no ballot was chosen")
    return found


def _is_chosen(history: History, op: RegisterOp, bucket: Bucket, accepts: list[Accept]) -> bool:
    holders = {
        Owner(accept.node, accept.incarnation)
        for accept in accepts
        if accept.step < op.ended
        and accept.epoch == bucket.epoch
        and history.trusted.get(accept.life, op.ended) < op.ended
    }
    needs = groups(op, bucket, Consistency.QUORUM)
    return all(len(members & holders) >= need for members, need in needs)
