from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.errors import BrokerError
from eventbus_core.records import Record
from eventbus_redis.encoding import decode, encode

bytes_or_none = st.none() | st.binary(max_size=50)
headers = st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=10)), max_size=4).map(tuple)


@given(bytes_or_none, bytes_or_none, headers, st.integers(-(2**63), 2**63 - 1))
def test_a_record_comes_back_with_the_same_bytes(value, key, headers, timestamp):
    record = Record("t", value, key, headers, timestamp)
    assert decode("t", encode(record), 7) == record


def test_a_record_without_a_timestamp_has_the_time_of_storing():
    assert decode("t", encode(Record("t", b"v")), 7).timestamp_ms == 7


@pytest.mark.parametrize("value", [None, b""])
@pytest.mark.parametrize("key", [None, b""])
def test_none_and_empty_differ(key, value):
    found = decode("t", encode(Record("t", value, key)), 0)
    assert (found.key, found.value) == (key, value)


@pytest.mark.parametrize("blob", [b"", b"\xff", b"\x11\x00\x00\x00\x09ab", b"{}"])
def test_what_others_wrote_is_refused(blob):
    with pytest.raises(BrokerError, match="not written by eventbus"):
        decode("t", blob, 0)


def test_headers_with_very_long_names_come_back():
    record = Record("t", b"v", b"k", (("n" * 5000, b"1"), ("n" * 5000, b"2")))
    for _ in range(2):
        assert decode("t", encode(record), 7).headers == record.headers


def test_no_part_of_a_blob_is_taken_for_a_whole():
    record = Record("t", b"", b"key", (("name", b"value"), ("", b"")), 5)
    blob = encode(record)
    for size in range(len(blob)):
        with pytest.raises(BrokerError, match="not written by eventbus"):
            decode("t", blob[:size], 0)
