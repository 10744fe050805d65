"""The admin API over gRPC. Reads are answered from what is known here; writes by the leader."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import grpc
import structlog

from buckets.codec import keyspace_message
from control_plane.controllers.cluster_state import ClusterState, StoredKeyspace
from control_plane.controllers.creation import owners_zones
from control_plane.controllers.doctor import diagnose
from control_plane.controllers.instance import ControlPlaneInstance
from control_plane.controllers.keyspace_rules import notes
from control_plane.controllers.keyspaces import create_keyspace, wait_published
from control_plane.controllers.registration import add_node
from control_plane.controllers.status import (
    View,
    keyspace_status,
    natural,
    node_entry,
    node_statuses,
    shares,
    status,
)
from control_plane.coordination.errors import Conflict, CoordinationError
from control_plane.errors import AdminError, Later, Missing
from control_plane.jobs.answers import (
    check_compaction,
    check_loss,
    check_recovery,
    check_repair,
    job_status,
)
from control_plane.jobs.job import wait_moved
from protos.dabbawala.v1 import admin_pb2, admin_pb2_grpc, map_pb2

Context = grpc.aio.ServicerContext[Any, Any]
SidecarSource = Callable[[], Sequence[admin_pb2.SidecarStatus]]
_Answer = TypeVar("_Answer")

FORWARDED: Final = "dabbawala-forwarded"  # metadata: asked by another instance, so not passed on
DETAILS: Final = "grpc-status-details-bin"
PEER_TIMEOUT_S: Final = 0.5
FORWARD_TIMEOUT_S: Final = 30.0
PUBLISH_TIMEOUT_S: Final = 25.0
ELECTION_WAIT_S: Final = 3.0
ELECTION_POLL_S: Final = 0.05
ANSWER_MARGIN_S: Final = 0.25  # of a caller's deadline, so that the reason arrives in time
_CHANNEL_OPTIONS: Final = (("grpc.enable_http_proxy", 0),)

_log = structlog.get_logger(part="admin")


class AdminService(admin_pb2_grpc.AdminServicer):
    """dabbawala.v1.Admin. `sidecars` are those connected to this instance."""

    def __init__(
        self,
        instance: ControlPlaneInstance,
        own_id: str,
        sidecars: SidecarSource,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._instance = instance
        self._own_id = own_id
        self._sidecars = sidecars
        self._environment = environment
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """Close the channels to other instances."""
        channels, self._channels = self._channels, {}
        await asyncio.gather(*(channel.close() for channel in channels.values()))

    # --- reads: from what is known here

    async def Status(  # noqa: N802 - the name is that of the method in the .proto file
        self, request: admin_pb2.StatusRequest, context: Context
    ) -> admin_pb2.StatusResponse:
        """Everything on one page."""
        return status(await self._view(context))

    async def ListKeyspaces(  # noqa: N802
        self, request: admin_pb2.ListKeyspacesRequest, context: Context
    ) -> admin_pb2.ListKeyspacesResponse:
        """All keyspaces, also those being created."""
        view = self._instance.view()
        known = sorted(view.state.keyspaces.items())
        answers = [keyspace_status(view, stored) for _, stored in known]
        return admin_pb2.ListKeyspacesResponse(keyspaces=answers)

    async def DescribeKeyspace(  # noqa: N802
        self, request: admin_pb2.DescribeKeyspaceRequest, context: Context
    ) -> admin_pb2.DescribeKeyspaceResponse:
        """One keyspace: where its buckets are, and what it promises."""
        return await _answered(context, self._describe(request))

    async def ListNodes(  # noqa: N802
        self, request: admin_pb2.ListNodesRequest, context: Context
    ) -> admin_pb2.ListNodesResponse:
        """All nodes as this instance sees them."""
        return admin_pb2.ListNodesResponse(nodes=node_statuses(self._instance.view()))

    async def GetMap(  # noqa: N802
        self, request: admin_pb2.GetMapRequest, context: Context
    ) -> admin_pb2.GetMapResponse:
        """The map as the store has it, with keyspaces that are being created."""
        return await _answered(context, self._get_map(request))

    async def ListSidecars(  # noqa: N802
        self, request: admin_pb2.ListSidecarsRequest, context: Context
    ) -> admin_pb2.ListSidecarsResponse:
        """The sidecars of all instances."""
        view = await self._view(context)
        return admin_pb2.ListSidecarsResponse(sidecars=view.sidecars)

    async def Doctor(  # noqa: N802
        self, request: admin_pb2.DoctorRequest, context: Context
    ) -> admin_pb2.DoctorResponse:
        """What is not well, why, and what to do."""
        findings = diagnose(await self._view(context), self._environment)
        return admin_pb2.DoctorResponse(findings=findings)

    # --- writes: by the leader

    async def CreateKeyspace(  # noqa: N802
        self, request: admin_pb2.CreateKeyspaceRequest, context: Context
    ) -> admin_pb2.CreateKeyspaceResponse:
        """Create a keyspace, and answer once it is published."""
        return await _answered(context, self._create_keyspace(request, context))

    async def AddNode(  # noqa: N802
        self, request: admin_pb2.AddNodeRequest, context: Context
    ) -> admin_pb2.AddNodeResponse:
        """Register a node, or a known one again."""
        return await _answered(context, self._add_node(request, context))

    # --- jobs: shown by all, begun by the leader

    async def ListJobs(  # noqa: N802
        self, request: admin_pb2.ListJobsRequest, context: Context
    ) -> admin_pb2.ListJobsResponse:
        """The jobs in the store."""
        return await _answered(context, self._list_jobs(request))

    async def StartRepair(  # noqa: N802
        self, request: admin_pb2.StartRepairRequest, context: Context
    ) -> admin_pb2.JobStatus:
        """Begin to compare the owners of a keyspace's buckets."""
        return await _answered(context, self._start_repair(request, context))

    async def StartCompaction(  # noqa: N802
        self, request: admin_pb2.StartCompactionRequest, context: Context
    ) -> admin_pb2.JobStatus:
        """Begin to take a keyspace's old tombstones away."""
        return await _answered(context, self._start_compaction(request, context))

    async def ReportHints(  # noqa: N802
        self, request: admin_pb2.ReportHintsRequest, context: Context
    ) -> admin_pb2.ReportHintsResponse:
        """A sidecar says what hints it has, and is told which of its marks are done with."""
        state = self._instance.feed.state
        return await _answered(context, self._instance.hints.answer(request, state))

    async def ForgetHints(  # noqa: N802
        self, request: admin_pb2.ForgetHintsRequest, context: Context
    ) -> admin_pb2.ForgetHintsResponse:
        """A sidecar will not come back."""
        return await _answered(context, self._forget_hints(request))

    async def RecoverNode(  # noqa: N802
        self, request: admin_pb2.RecoverNodeRequest, context: Context
    ) -> admin_pb2.JobStatus:
        """Take a node back whose data is not trusted."""
        return await _answered(context, self._recover_node(request, context))

    async def _list_jobs(self, request: admin_pb2.ListJobsRequest) -> admin_pb2.ListJobsResponse:
        ledger = self._instance.ledger
        if request.id and request.seen_ms:
            await wait_moved(ledger, request.id, request.seen_ms)
        known = await ledger.read_all()
        chosen = [
            job_status(job)
            for job in known
            if request.id in ("", job.id) and request.kind in ("", job.kind)
        ]
        return admin_pb2.ListJobsResponse(jobs=chosen)

    async def _start_repair(
        self, request: admin_pb2.StartRepairRequest, context: Context
    ) -> admin_pb2.JobStatus:
        await self._some_leader(context)
        jobs = self._instance.jobs
        if jobs is None:
            return await self._leader(context).StartRepair(
                request, metadata=_forward_metadata(), timeout=_time_left(context)
            )
        stored = _keyspace(self._instance.feed.state, request.keyspace)
        buckets = sorted(set(request.buckets))
        check_repair(stored, buckets)
        total = len(buckets) or stored.settings.buckets
        return job_status(await jobs.start_repair(request.keyspace, buckets, total))

    async def _start_compaction(
        self, request: admin_pb2.StartCompactionRequest, context: Context
    ) -> admin_pb2.JobStatus:
        await self._some_leader(context)
        jobs = self._instance.jobs
        if jobs is None:
            return await self._leader(context).StartCompaction(
                request, metadata=_forward_metadata(), timeout=_time_left(context)
            )
        check_compaction(_keyspace(self._instance.feed.state, request.keyspace))
        return job_status(await jobs.start_compaction(request.keyspace))

    async def _forget_hints(
        self, request: admin_pb2.ForgetHintsRequest
    ) -> admin_pb2.ForgetHintsResponse:
        known = await self._instance.hints.forget(request.sidecar)
        return admin_pb2.ForgetHintsResponse(known=known)

    async def _recover_node(
        self, request: admin_pb2.RecoverNodeRequest, context: Context
    ) -> admin_pb2.JobStatus:
        await self._some_leader(context)
        jobs = self._instance.jobs
        if jobs is None:
            return await self._leader(context).RecoverNode(
                request, metadata=_forward_metadata(), timeout=_time_left(context)
            )
        check_recovery(self._instance.feed.state, request.id)
        blocked = jobs.obstacle_of(request.id)
        check_loss(request.id, blocked, accept_loss=request.accept_loss)
        return job_status(await jobs.recover(request.id, accept_loss=request.accept_loss))

    async def _describe(
        self, request: admin_pb2.DescribeKeyspaceRequest
    ) -> admin_pb2.DescribeKeyspaceResponse:
        view = self._instance.view()
        stored = _keyspace(view.state, request.name)
        nodes = [known.node for known in view.state.nodes.values()]
        zones = [node.zone for node in nodes]
        return admin_pb2.DescribeKeyspaceResponse(
            keyspace=keyspace_status(view, stored),
            shares=shares(view, stored),
            notes=notes(stored.settings, owners_zones(stored.keyspace, nodes), zones),
        )

    async def _get_map(self, request: admin_pb2.GetMapRequest) -> admin_pb2.GetMapResponse:
        state = self._instance.feed.state
        if request.keyspace:
            chosen = [_keyspace(state, request.keyspace)]
        else:
            chosen = [stored for _, stored in sorted(state.keyspaces.items())]
        nodes = [stored.node for _, stored in sorted(state.by_number.items())]
        return admin_pb2.GetMapResponse(
            revision=state.revision,
            nodes=map_pb2.NodeTable(
                cluster=state.cluster, nodes=[node_entry(node) for node in nodes]
            ),
            keyspaces=[keyspace_message(ks.settings, creating=ks.creating) for ks in chosen],
            ranges=[map_pb2.BucketRange.FromString(r.raw) for ks in chosen for r in ks.ranges],
        )

    async def _create_keyspace(
        self, request: admin_pb2.CreateKeyspaceRequest, context: Context
    ) -> admin_pb2.CreateKeyspaceResponse:
        await self._some_leader(context)
        term, reconciler = self._instance.term, self._instance.reconciler
        if term is None or reconciler is None:
            return await self._leader(context).CreateKeyspace(
                request, metadata=_forward_metadata(), timeout=_time_left(context)
            )
        sights = self._instance.probes.sights
        created = await create_keyspace(term, reconciler, sights, request.config)
        timeout_s = min(_time_left(context) - ANSWER_MARGIN_S, PUBLISH_TIMEOUT_S)
        name = created.settings.name
        await wait_published(self._instance.feed, reconciler, name, max(timeout_s, 0.0))
        config = keyspace_message(created.settings)
        return admin_pb2.CreateKeyspaceResponse(config=config, warnings=created.warnings)

    async def _add_node(
        self, request: admin_pb2.AddNodeRequest, context: Context
    ) -> admin_pb2.AddNodeResponse:
        await self._some_leader(context)
        term = self._instance.term
        if term is None:
            return await self._leader(context).AddNode(
                request, metadata=_forward_metadata(), timeout=_time_left(context)
            )
        added = await add_node(term, request)
        self._instance.probes.note(added.node.id, added.sight)
        return admin_pb2.AddNodeResponse(node=node_entry(added.node), warnings=added.warnings)

    # --- other instances

    async def _some_leader(self, context: Context) -> None:
        """Wait a moment while instances elect a leader, as they do after a start."""
        polls = int(min(_time_left(context), ELECTION_WAIT_S) / ELECTION_POLL_S)
        for _ in range(polls):
            led_here = self._instance.term is not None and self._instance.reconciler is not None
            leader = self._instance.roster.leader
            if led_here or leader not in ("", self._own_id):
                return
            await asyncio.sleep(ELECTION_POLL_S)

    def _leader(self, context: Context) -> "admin_pb2_grpc.AdminAsyncStub":
        leader = self._instance.roster.leader
        address = self._instance.roster.address_of(leader)
        if _is_forwarded(context) or not address or leader == self._own_id:
            text = (
                f"instance {leader!r} leads, but cannot be asked from here; ask it itself"
                if leader and leader != self._own_id
                else "no instance leads now; try again in some seconds"
            )
            raise Later("NOT_LEADER", text, metadata={"leader": leader, "address": address})
        return self._stub(address)

    def _stub(self, address: str) -> "admin_pb2_grpc.AdminAsyncStub":
        channel = self._channels.get(address)
        if channel is None:
            channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
            self._channels[address] = channel
        return admin_pb2_grpc.AdminStub(channel)

    async def _view(self, context: Context) -> View:
        own = list(self._sidecars())
        if _is_forwarded(context):
            return self._instance.view(own)
        others = [i for i in self._instance.roster.instances if i.id != self._own_id]
        found = await asyncio.gather(*(self._sidecars_of(i.address) for i in others))
        await self._close_all_but({instance.address for instance in others})
        by_id: dict[str, admin_pb2.SidecarStatus] = {}
        for sidecar in [*own, *(s for sidecars in found for s in sidecars)]:
            known = by_id.get(sidecar.id)
            # One that moved to another instance may still be listed by the former.
            if known is None or known.connected_since_ms < sidecar.connected_since_ms:
                by_id[sidecar.id] = sidecar
        sidecars = [by_id[name] for name in sorted(by_id, key=natural)]
        return self._instance.view(sidecars, await self._instance.hints.known())

    async def _close_all_but(self, addresses: set[str]) -> None:
        for gone in self._channels.keys() - addresses:
            channel = self._channels.pop(gone, None)  # another call may have been here first
            if channel is not None:
                await channel.close()

    async def _sidecars_of(self, address: str) -> Sequence[admin_pb2.SidecarStatus]:
        try:
            answer = await self._stub(address).ListSidecars(
                admin_pb2.ListSidecarsRequest(),
                metadata=_forward_metadata(),
                timeout=PEER_TIMEOUT_S,
            )
        except grpc.aio.AioRpcError:
            return ()  # its sidecars are connecting to another instance
        return answer.sidecars


def _keyspace(state: ClusterState, name: str) -> StoredKeyspace:
    stored = state.keyspaces.get(name)
    if stored is None:
        known = ", ".join(sorted(state.keyspaces)) or "none"
        raise Missing(
            "KEYSPACE_UNKNOWN",
            f"keyspace {name!r} does not exist; there are: {known}",
            metadata={"keyspace": name},
        )
    return stored


def _is_forwarded(context: Context) -> bool:
    return any(key == FORWARDED for key, _ in context.invocation_metadata() or ())


def _forward_metadata() -> grpc.aio.Metadata:
    return grpc.aio.Metadata((FORWARDED, "1"))


def _time_left(context: Context) -> float:
    remaining = cast(float | None, context.time_remaining())  # None: no deadline
    return FORWARD_TIMEOUT_S if remaining is None else min(remaining, FORWARD_TIMEOUT_S)


async def _answered(context: Context, work: Awaitable[_Answer]) -> _Answer:
    """The answer, or the call ended with a status that says who must do what."""
    try:
        return await work
    except grpc.aio.AioRpcError as error:  # the leader's answer, passed on
        await _abort_with_answer_of(context, error)
        raise
    except AdminError as error:
        await _abort(context, error)
        raise
    except Conflict as error:
        await _abort(context, Later("MAP_BUSY", f"the map changed meanwhile; try again ({error})"))
        raise
    except CoordinationError as error:
        text = f"the coordination store cannot be written now; try again ({error})"
        await _abort(context, Later("STORE_UNAVAILABLE", text))
        raise


async def _abort(context: Context, error: AdminError) -> None:
    details = error.to_status().SerializeToString()
    await context.abort(error.code, error.message, trailing_metadata=((DETAILS, details),))


async def _abort_with_answer_of(context: Context, error: grpc.aio.AioRpcError) -> None:
    found = error.trailing_metadata() or ()
    metadata = tuple((key, value) for key, value in found if key == DETAILS)
    if error.code() is grpc.StatusCode.UNAVAILABLE and not metadata:
        text = "the leading instance does not answer; another one will lead in some seconds"
        await _abort(context, Later("LEADER_UNREACHABLE", text))
    await context.abort(error.code(), error.details() or "", trailing_metadata=metadata)
