"""Keys land where Kafka's Java client puts them."""

from __future__ import annotations

import pytest

from eventbus_core.partitioning import murmur2, partition_of

# From the unit tests of Kafka's Java client (UtilsTest.testMurmur2), as signed 32-bit numbers.
_JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), _JAVA.items())
def test_the_hash_is_javas(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF


@pytest.mark.parametrize(("key", "signed"), _JAVA.items())
@pytest.mark.parametrize("partitions", [1, 3, 4, 12, 100])
def test_the_partition_is_the_positive_hash_modulo_the_count(key: bytes, signed: int, partitions: int) -> None:
    assert partition_of(key, partitions) == (signed & 0x7FFFFFFF) % partitions


def test_an_empty_key_is_a_key() -> None:
    assert 0 <= partition_of(b"", 7) < 7


def test_keys_spread_over_all_partitions() -> None:
    counts = [0] * 8
    for number in range(8000):
        counts[partition_of(f"order-{number}".encode(), 8)] += 1
    assert min(counts) > 800
