from replicas.layout import (
    FENCE_FIELD,
    LOG_FIELD,
    MAP_FIELD,
    BucketKeys,
    bucket_keys,
    user_field,
)


def test_the_keys_of_a_bucket_share_a_hash_tag() -> None:
    assert bucket_keys("places", 17) == BucketKeys(
        b"dabba:{places:17}:data", b"dabba:{places:17}:log", b"dabba:{places:17}:history"
    )


def test_no_two_buckets_share_a_key() -> None:
    assert bucket_keys("a", 11) != bucket_keys("a1", 1)


def test_no_user_key_collides_with_a_reserved_field() -> None:
    reserved = {FENCE_FIELD, MAP_FIELD, LOG_FIELD}
    for key in (b"f", b"m", b"e", b"k", b"kf", b"\0"):
        assert user_field(key) not in reserved
