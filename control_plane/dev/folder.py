"""The folder of one local cluster: who it belongs to, and that only one `dabba dev` uses it."""

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from control_plane.dev.errors import FolderRefused
from control_plane.dev.files import write_atomically
from control_plane.dev.options import DEFAULT_NODES, DEFAULT_ZONES, DevOptions
from control_plane.dev.ports import choose_ports

FORMAT = 1
_RECORD = "dabbawala.json"
_LOCK = "lock"
_PREFIX = "dabbawala-dev-"
# The children of a `dabba dev` that was killed outlive it for as long as the kernel takes.
_LOCK_PATIENCE_S = 2.0
_LEFTOVER_AGE_S = 10.0


class NodeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One data node of the cluster. It keeps its port, since its address is in the map."""

    id: str
    zone: str
    port: int


class ClusterRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What dabbawala.json holds. `zookeeper` is "" for the embedded store."""

    cluster: str
    format: int
    nodes: list[NodeRecord]
    zookeeper: str = ""


@dataclass(frozen=True, slots=True)
class DevFolder:
    """A folder that this process holds the lock of. `kept`: the data outlives this run."""

    path: Path
    kept: bool
    record: ClusterRecord
    lock_fd: int

    def node_folder(self, node_id: str) -> Path:
        return _made(self.path / node_id)

    @property
    def control_plane_folder(self) -> Path:
        return _made(self.path / "control-plane")

    @property
    def sidecar_folder(self) -> Path:
        return _made(self.path / "sidecar")

    @property
    def logs(self) -> Path:
        return _made(self.path / "logs")

    @property
    def session_key_file(self) -> Path:
        """The key that signs session tokens, for every sidecar that is started on this cluster."""
        path = self.path / "session.key"
        if not path.exists():
            write_atomically(path, f"{secrets.token_hex(32)}\n".encode())
        return path

    def close(self) -> None:
        """Gives the lock back; a folder that is not kept is removed."""
        if not self.kept:
            shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Gives the lock back and leaves the folder as it is."""
        os.close(self.lock_fd)


def _made(path: Path) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def open_folder(options: DevOptions) -> DevFolder:
    """The folder of `--data`, or a temporary one. Raises FolderRefused, having changed nothing."""
    if options.data is None:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock_fd = _lock(path)
        return DevFolder(path, False, _new_record(path, options), lock_fd)
    path = options.data.absolute()
    _kept_record(path, options)  # a folder that is not ours gets no lock file either
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = _lock(path)
        kept = _kept_record(path, options)  # again: the lock may have been waited for
        return DevFolder(path, True, kept or _new_record(path, options), lock_fd)
    except OSError as error:
        raise FolderRefused(
            f"--data {path} can not be used: {error.strerror}; give a folder that you may write to"
        ) from error


def _kept_record(path: Path, options: DevOptions) -> ClusterRecord | None:
    kept = _read_record(path)
    if kept is not None:
        _check_same(path, kept, options)
    return kept


def _read_record(path: Path) -> ClusterRecord | None:
    """What a cluster wrote there; None for a new folder. Raises FolderRefused for any other."""
    try:
        names = {entry.name for entry in path.iterdir()} - {_LOCK}
        content = (path / _RECORD).read_bytes() if _RECORD in names else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FolderRefused(
            f"--data {path} can not be read: {error.strerror}; give a folder of your own"
        ) from error
    if content is not None:
        return _decoded(path, content)
    if names:
        raise FolderRefused(
            f"--data {path} holds files but no {_RECORD}, so it is not a data folder of"
            " `dabba dev`; give an empty or a new folder"
        )
    return None


def _decoded(path: Path, content: bytes) -> ClusterRecord:
    try:
        written = msgspec.json.decode(content, type=dict[str, object])
        found = written.get("format")
        if isinstance(found, int) and found > FORMAT:
            raise FolderRefused(
                f"--data {path} has format {found}, and this version reads up to {FORMAT}; use the"
                " newer version that wrote it, or give another folder"
            )
        return msgspec.convert(written, ClusterRecord)
    except msgspec.MsgspecError as error:
        raise FolderRefused(
            f"{path / _RECORD} can not be understood ({error}); restore it, or give another folder"
        ) from error


def _check_same(path: Path, kept: ClusterRecord, options: DevOptions) -> None:
    """The folder must be used as it was made: its nodes hold what its store says they hold."""
    zookeeper = options.zookeeper or ""
    if bool(zookeeper) != bool(kept.zookeeper):
        before = f"--zookeeper {kept.zookeeper}" if kept.zookeeper else "the embedded store"
        raise FolderRefused(
            f"--data {path} belongs to cluster {kept.cluster}, which is kept in {before}; use that,"
            " or give another folder"
        )
    zones = len({node.zone for node in kept.nodes})
    for flag, wanted, there in (
        ("--nodes", options.nodes, len(kept.nodes)),
        ("--zones", options.zones, zones),
    ):
        if wanted is not None and wanted != there:
            raise FolderRefused(
                f"--data {path} holds a cluster with {flag} {there}, not {wanted};"
                f" leave {flag} out, or give another folder"
            )


def _new_record(path: Path, options: DevOptions) -> ClusterRecord:
    nodes = options.nodes or DEFAULT_NODES
    zones = options.zones or min(nodes, DEFAULT_ZONES)
    record = ClusterRecord(
        # A store that others use too must be able to tell two local clusters apart.
        cluster=f"dev-{secrets.token_hex(4)}",
        format=FORMAT,
        nodes=[
            NodeRecord(id=f"node-{number + 1}", zone=zone_name(number % zones), port=port)
            for number, port in enumerate(choose_ports(nodes))
        ],
        zookeeper=options.zookeeper or "",
    )
    write_atomically(path / _RECORD, msgspec.json.format(msgspec.json.encode(record), indent=2))
    return record


def zone_name(number: int) -> str:
    """0 -> "a", 25 -> "z", 26 -> "aa"."""
    letters = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters


def _lock(path: Path) -> int:
    """Locks the folder. The servers inherit the lock: it is held until the last one is gone."""
    lock_fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            holder = os.pread(lock_fd, 32, 0).decode(errors="replace").strip()
            os.close(lock_fd)
            raise FolderRefused(
                f"--data {path} is in use by the `dabba dev` with pid {holder or '?'};"
                " stop that one, or give another folder"
            ) from None
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, str(os.getpid()).encode(), 0)
        return lock_fd


def leftovers(now: float, temporary: Path | None = None) -> list[DevFolder]:
    """Temporary folders of runs that were killed, locked; the caller cleans up and closes them.

    `now` is Unix seconds: a folder that has just been made may not be locked yet.
    """
    found = []
    for path in (temporary or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*"):
        folder = _leftover(path, now)
        if folder is not None:
            found.append(folder)
    return found


def _leftover(path: Path, now: float) -> DevFolder | None:
    try:
        stat = path.lstat()
        if path.is_symlink() or stat.st_uid != os.getuid() or now - stat.st_mtime < _LEFTOVER_AGE_S:
            return None
        lock_fd = os.open(path / _LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        record = _read_record(path)
    except (OSError, FolderRefused):
        record = None
    if record is None:
        os.close(lock_fd)
        return None
    return DevFolder(path, False, record, lock_fd)
