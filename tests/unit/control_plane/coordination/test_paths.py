import pytest

from control_plane.coordination.errors import BadPath
from control_plane.coordination.paths import ClusterPaths, checked_name, checked_path, parents


def test_the_layout_of_a_cluster() -> None:
    paths = ClusterPaths("dev")
    assert paths.root == "/dabbawala/dev"
    assert paths.epoch == "/dabbawala/dev/epoch"
    assert paths.leader == "/dabbawala/dev/leader"
    assert paths.node("n-1") == "/dabbawala/dev/nodes/n-1"
    assert paths.keyspace_config("ks") == "/dabbawala/dev/keyspaces/ks/config"
    assert paths.bucket_range("ks", 7) == "/dabbawala/dev/keyspaces/ks/ranges/007"
    assert paths.job("j1") == "/dabbawala/dev/jobs/j1"
    assert paths.instance("i1") == "/dabbawala/dev/instances/i1"


def test_everything_of_a_cluster_is_a_path_a_store_may_hold() -> None:
    paths = ClusterPaths("c" * 63)
    longest = paths.bucket_range("k" * 63, 99_999)
    assert checked_path(longest) == longest


def test_range_names_sort_like_their_numbers_up_to_999() -> None:
    names = [ClusterPaths("dev").bucket_range("ks", index) for index in range(1_000)]
    assert names == sorted(names)


@pytest.mark.parametrize("index", [-1, 100_000])
def test_a_range_index_out_of_bounds_is_refused(index: int) -> None:
    with pytest.raises(BadPath):
        ClusterPaths("dev").bucket_range("ks", index)


@pytest.mark.parametrize("name", ["a", "0", "a-b-", "a" * 63])
def test_good_names_pass(name: str) -> None:
    assert checked_name("node", name) == name


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a/b", "a.b", "a" * 64, "a\n", "é"])
def test_bad_names_are_refused_everywhere(name: str) -> None:
    with pytest.raises(BadPath, match="keyspace name"):
        checked_name("keyspace", name)
    with pytest.raises(BadPath):
        ClusterPaths(name)
    paths = ClusterPaths("dev")
    for place in (paths.node, paths.keyspace, paths.ranges, paths.job, paths.instance):
        with pytest.raises(BadPath):
            place(name)


@pytest.mark.parametrize(
    "path",
    ["", "a", "/", "/a/", "//", "/a//b", "/.", "/a/..", "/a b", "/a\n", "/" + "x/" * 20 + "y"],
)
def test_bad_paths_are_refused(path: str) -> None:
    with pytest.raises(BadPath):
        checked_path(path)


def test_parents_are_listed_outermost_first() -> None:
    assert parents("/a/b/c") == ["/a", "/a/b"]
    assert parents("/a") == []
