"""Where things are in the coordination store, and which names are allowed. Pure."""

import re
from dataclasses import dataclass
from typing import Final

from control_plane.coordination.errors import BadPath

ROOT: Final = "/dabbawala"
PATH_BOUND_CHARS: Final = 512
DEPTH_BOUND: Final = 16

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,128}")


def checked_name(kind: str, name: str) -> str:
    """The name itself when it may name a cluster, node, keyspace, job or instance; else BadPath."""
    if not _NAME.fullmatch(name):
        raise BadPath(
            f"{kind} name {name!r} is not allowed: 1 to 63 of a-z, 0-9 and '-',"
            " not beginning with '-'"
        )
    return name


def checked_path(path: str) -> str:
    """The path itself when a store may hold it, else BadPath."""
    if len(path) > PATH_BOUND_CHARS:
        raise BadPath(f"path of {len(path)} characters, the bound is {PATH_BOUND_CHARS}")
    if not path.startswith("/"):
        raise BadPath(f"path {path!r} must begin with '/'")
    segments = path.split("/")[1:]
    if len(segments) > DEPTH_BOUND:
        raise BadPath(f"path {path!r} is {len(segments)} deep, the bound is {DEPTH_BOUND}")
    for segment in segments:
        if segment in (".", "..") or not _SEGMENT.fullmatch(segment):
            raise BadPath(
                f"path {path!r}: segment {segment!r} must be 1 to 128 of a-z A-Z 0-9 . _ -"
            )
    return path


def parents(path: str) -> list[str]:
    """Every path above this one, outermost first: /a/b/c -> [/a, /a/b]."""
    segments = path.split("/")[1:-1]
    return ["/" + "/".join(segments[: end + 1]) for end in range(len(segments))]


@dataclass(frozen=True, slots=True)
class ClusterPaths:
    """The layout of one cluster. Methods raise BadPath for a name that is not allowed."""

    cluster: str

    def __post_init__(self) -> None:
        checked_name("cluster", self.cluster)

    @property
    def root(self) -> str:
        return f"{ROOT}/{self.cluster}"

    @property
    def epoch(self) -> str:
        """Bumped with every change of the map; the only path that is watched."""
        return f"{self.root}/epoch"

    @property
    def leader(self) -> str:
        return f"{self.root}/leader"

    @property
    def nodes(self) -> str:
        return f"{self.root}/nodes"

    @property
    def keyspaces(self) -> str:
        return f"{self.root}/keyspaces"

    @property
    def jobs(self) -> str:
        return f"{self.root}/jobs"

    @property
    def instances(self) -> str:
        return f"{self.root}/instances"

    def node(self, node_id: str) -> str:
        return f"{self.nodes}/{checked_name('node', node_id)}"

    def keyspace(self, keyspace: str) -> str:
        return f"{self.keyspaces}/{checked_name('keyspace', keyspace)}"

    def keyspace_config(self, keyspace: str) -> str:
        return f"{self.keyspace(keyspace)}/config"

    def ranges(self, keyspace: str) -> str:
        return f"{self.keyspace(keyspace)}/ranges"

    def bucket_range(self, keyspace: str, index: int) -> str:
        """The path of the index-th range of 64 buckets; at least three digits, so that names sort
        up to 999.
        """
        if not 0 <= index <= 99_999:
            raise BadPath(f"range index {index} must be 0 to 99999")
        return f"{self.ranges(keyspace)}/{index:03d}"

    def job(self, job_id: str) -> str:
        return f"{self.jobs}/{checked_name('job', job_id)}"

    def instance(self, instance_id: str) -> str:
        return f"{self.instances}/{checked_name('instance', instance_id)}"
