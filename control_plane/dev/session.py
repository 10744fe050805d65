"""One run of `dabba dev`, from the first check to the last process gone."""

import asyncio
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.text import Text

from control_plane.dev.admin_calls import KEYSPACES
from control_plane.dev.cluster import Addresses, DevCluster
from control_plane.dev.context_file import (
    DevContext,
    context_path,
    process_age_s,
    remove_context,
    started_ticks,
    write_context,
)
from control_plane.dev.errors import FolderRefused
from control_plane.dev.files import write_atomically
from control_plane.dev.folder import DevFolder, open_folder
from control_plane.dev.leaving import check_reachable, remove_cluster, remove_leftovers
from control_plane.dev.load_report import Finished, LoadPlan
from control_plane.dev.loading import run_load
from control_plane.dev.options import DEFAULT_RUN_S, DevOptions
from control_plane.dev.processes import Server
from control_plane.dev.screen import Screen, show_finished
from control_plane.dev.servers import child_environment

T = TypeVar("T")

EXIT_OK = 0
EXIT_WRONG = 1
EXIT_INTERRUPTED = 130

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SOCKET_PATH_BOUND = 80  # the kernel takes 107 bytes; the name of the socket comes on top

_WHEN_DEAD = {
    "sidecar": "nothing is served any more; stop this with Ctrl-C and start it again",
    "control-plane": "reads and writes go on, but nothing is placed or watched; to have it back,"
    " stop this with Ctrl-C and start it again",
}
_WHEN_NODE_DEAD = (
    "reads and writes at QUORUM go on while a majority of each bucket's owners is left; see:"
    " dabba status"
)


def run(options: DevOptions, screen: Screen) -> int:
    """Runs a local cluster until it is told to stop; the exit status. Raises DevError."""
    options.check()
    return asyncio.run(_Session(options, screen).run())


class _Session:
    def __init__(self, options: DevOptions, screen: Screen) -> None:
        self._options = options
        self._screen = screen
        self._asked_to_stop = asyncio.Event()
        self._cluster: DevCluster | None = None

    async def run(self) -> int:
        self._listen_to_signals()
        if self._options.zookeeper is not None:
            await check_reachable(self._options.zookeeper)
        await remove_leftovers(self._options.zookeeper)
        folder = open_folder(self._options)
        sockets: Path | None = None
        try:
            sockets = _sockets_folder(folder)
            self._cluster = DevCluster(folder, sockets, self._report_death)
            return await self._serve(self._cluster)
        finally:
            await self._leave(folder, sockets)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop_asked)

    def _stop_asked(self) -> None:
        if not self._asked_to_stop.is_set():
            self._asked_to_stop.set()
        elif self._cluster is not None:
            self._screen.line("ending everything at once", "yellow")
            self._cluster.kill()

    async def _serve(self, cluster: DevCluster) -> int:
        addresses = await self._unless_stopped(cluster.start())
        if addresses is None:
            return EXIT_INTERRUPTED
        ready_s = round(process_age_s(os.getpid()), 3)
        self._remember(cluster, addresses)
        self._announce(cluster, addresses, ready_s)
        status = EXIT_OK
        if self._options.load is not None:
            finished = await self._unless_stopped(self._load(cluster, addresses, ready_s))
            if finished is None:
                return EXIT_INTERRUPTED
            status = EXIT_WRONG if finished.wrong else EXIT_OK
            if self._options.exit_after_load:
                return status
        await self._asked_to_stop.wait()
        return status

    async def _unless_stopped(self, work: Coroutine[None, None, T]) -> T | None:
        """What `work` answers; None, with the work cancelled, when told to stop before its end."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._asked_to_stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for one in (task, stopped):
                one.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)

    async def _load(self, cluster: DevCluster, addresses: Addresses, ready_s: float) -> Finished:
        keyspace = "places"
        plan = LoadPlan(
            grpc=addresses.grpc,
            redis=addresses.redis,
            admin=addresses.admin,
            keyspace=keyspace,
            redis_db=KEYSPACES[keyspace],
            sidecar_pid=cluster.sidecar.pid if cluster.sidecar is not None else 0,
            run_s=self._options.run_s or DEFAULT_RUN_S,
            ready_seconds=ready_s,
        )
        log = cluster.folder.logs / "loader.log"
        finished = await run_load(plan, log, child_environment(), self._screen)
        show_finished(self._screen, finished)
        if self._options.report is not None:
            content = msgspec.json.format(msgspec.json.encode(finished.report), indent=2)
            write_atomically(self._options.report.absolute(), content + b"\n")
        return finished

    def _remember(self, cluster: DevCluster, addresses: Addresses) -> None:
        """Tells the other commands where the servers are; they can be told by flags too."""
        path = context_path()
        try:
            write_context(path, _context(cluster, addresses))
        except OSError as error:
            self._screen.line(
                f"! {path} can not be written ({error.strerror}); give the other commands"
                f" --control-plane {addresses.control_plane} --sidecar {addresses.grpc}",
                "yellow",
            )

    def _report_death(self, server: Server) -> None:
        advice = _WHEN_DEAD.get(server.name, _WHEN_NODE_DEAD)
        self._screen.line(
            f"{server.name} (pid {server.pid}) {server.epitaph()}: {advice}", "bold red"
        )
        for line in server.last_words():
            self._screen.line(f"  {server.name}: {line}", "dim")

    def _announce(self, cluster: DevCluster, addresses: Addresses, ready_s: float) -> None:
        for problem in cluster.problems:
            self._screen.line(f"! {problem}", "bold red")
        nodes = cluster.folder.record.nodes
        zones = len({node.zone for node in nodes})
        self._screen.line(
            f"ready in {ready_s:.1f} s: cluster {cluster.folder.record.cluster},"
            f" {_counted(len(nodes), 'Valkey server')} in {_counted(zones, 'zone')}",
            "bold green",
        )
        redis_port = addresses.redis.rpartition(":")[2]
        kept = cluster.folder.kept
        facts = [
            ("Redis door", f"{addresses.redis}  {addresses.redis_socket}"),
            ("gRPC door", f"{addresses.grpc}  {addresses.grpc_socket}"),
            ("sidecar admin", f"http://{addresses.admin}"),
            ("control plane", addresses.control_plane),
            *((node.id, f"127.0.0.1:{node.port}  zone {node.zone}") for node in nodes),
            ("data", f"kept in {cluster.folder.path}" if kept else "gone when this ends"),
        ]
        for name, text in facts:
            self._screen.line(Text(f"  {name:14}", style="dim").append(text, style="not dim"))
        self._screen.line("try:")
        for command in (
            f"redis-cli -p {redis_port} SET hello world",
            "dabba get hello",
            "dabba where hello",
        ):
            self._screen.line(f"  {command}", "cyan")
        self._screen.line("Ctrl-C stops everything")
        if self._screen.as_json:
            self._screen.object(_as_object(cluster, addresses, ready_s))

    async def _leave(self, folder: DevFolder, sockets: Path | None) -> None:
        remove_context(context_path(), os.getpid())
        if self._cluster is not None:
            self._screen.line("stopping", "dim")
            await self._cluster.stop()
        problem = await remove_cluster(folder)
        if problem is not None:
            self._screen.line(f"! {problem}", "bold red")
        if sockets is not None:
            shutil.rmtree(sockets, ignore_errors=True)
        folder.close()


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _sockets_folder(folder: DevFolder) -> Path:
    """Where the sockets are: with the data when the path is short enough for a socket."""
    inside = folder.path / "run"
    if len(os.fsencode(inside)) > _SOCKET_PATH_BOUND:
        # The same name in every run, so that one that was killed leaves nothing for good.
        named = hashlib.sha1(os.fsencode(folder.path), usedforsecurity=False).hexdigest()[:16]
        inside = Path(tempfile.gettempdir()) / f"dabbawala-run-{os.getuid()}-{named}"
        if inside.is_symlink() or (inside.exists() and inside.stat().st_uid != os.getuid()):
            raise FolderRefused(f"{inside} belongs to somebody else; remove it, or set TMPDIR")
    inside.mkdir(mode=0o700, exist_ok=True)
    return inside


def _context(cluster: DevCluster, addresses: Addresses) -> DevContext:
    return DevContext(
        pid=os.getpid(),
        started_ticks=started_ticks(os.getpid()),
        cluster=cluster.folder.record.cluster,
        control_plane=addresses.control_plane,
        sidecar=addresses.grpc,
        redis=addresses.redis,
        admin=addresses.admin,
    )


def _as_object(cluster: DevCluster, addresses: Addresses, ready_s: float) -> dict[str, object]:
    record = cluster.folder.record
    return {
        "cluster": record.cluster,
        "pid": os.getpid(),
        "ready_seconds": ready_s,
        "control_plane": addresses.control_plane,
        "sidecar": {
            "grpc": addresses.grpc,
            "redis": addresses.redis,
            "admin": addresses.admin,
            "grpc_socket": addresses.grpc_socket,
            "redis_socket": addresses.redis_socket,
        },
        "nodes": [
            {
                "id": node.id,
                "zone": node.zone,
                "address": f"127.0.0.1:{node.port}",
                "pid": cluster.nodes[node.id].pid,
            }
            for node in record.nodes
        ],
        "pids": {server.name: server.pid for server in cluster.servers},
        "folder": str(cluster.folder.path),
        "problems": cluster.problems,
    }
