"""Which partition a key belongs to: as Pulsar's Java client with ``HashingScheme.Murmur3_32Hash`` places it.

The native client's own hash differs between builds, so the bus places keys itself.
"""

from __future__ import annotations

from functools import lru_cache

_MASK = 0xFFFFFFFF


def _scramble(k: int) -> int:
    k = k * 0xCC9E2D51 & _MASK
    k = (k << 15 | k >> 17) & _MASK
    return k * 0x1B873593 & _MASK


def murmur3(data: bytes) -> int:
    """MurmurHash3 x86 32-bit with seed 0, unsigned."""
    h = 0
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        h ^= _scramble(int.from_bytes(data[start : start + 4], "little"))
        h = (h << 13 | h >> 19) & _MASK
        h = (h * 5 + 0xE6546B64) & _MASK
    if len(data) & 3:
        h ^= _scramble(int.from_bytes(data[whole:], "little"))
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & _MASK
    h = (h ^ h >> 13) * 0xC2B2AE35 & _MASK
    return h ^ h >> 16


@lru_cache(maxsize=1 << 16)
def _positive_hash(key: bytes) -> int:
    return murmur3(key) & 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key."""
    return _positive_hash(key) % partitions
