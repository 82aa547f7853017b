"""Identity, names and order of files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firebolt_cdc.config import Config
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import FileVersion, Kind, SkippedError, digest, file_rank, identify

CONFIG = {
    "name": "t",
    "source": {"bucket": "b", "prefix": "dms/"},
    "firebolt": {"database": "d", "core_url": "http://127.0.0.1:1"},
    "queue": {"url": "u", "arn": "a", "dlq_url": "d", "dlq_arn": "e"},
    "staging": {"bucket": "m"},
    "tables": {"fair/sessions": {"target": "sessions", "mode": "merge", "primary_key": ["sid"]}},
}
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def config(**changes: object) -> Config:
    return Config.model_validate(CONFIG | changes)


def version(key: str, bucket: str = "b", etag: str = "e1") -> FileVersion:
    return FileVersion(bucket, key, etag)


@pytest.mark.parametrize(
    ("key", "kind", "stamp"),
    [
        ("dms/fair/sessions/2024/11/24/20241124-123456.parquet", Kind.CHANGE, "20241124-12345600000000000000"),
        ("dms/fair/sessions/20241124-123456789.parquet", Kind.CHANGE, "20241124-12345678900000000000"),
        ("dms/fair/sessions/2024112412/20241124-1.parquet", Kind.CHANGE, "20241124-10000000000000000000"),
        ("dms/fair/sessions/LOAD0000000A.parquet", Kind.FULL, ""),
        ("dms/fair/sessions/LOAD100000000.parquet", Kind.FULL, ""),
    ],
)
def test_names_that_dms_writes(key: str, kind: Kind, stamp: str) -> None:
    file = identify(config(), version(key))
    assert (file.kind, file.stamp, file.target, file.turn) == (kind, stamp, "sessions", "sessions")
    assert file.file_key == key.removeprefix("dms/")


@pytest.mark.parametrize(
    "key",
    [
        "other/fair/sessions/20241124-1.parquet",
        "dms/fair/sessions/20241124-1.csv",
        "dms/fair/20241124-1.parquet",
        "dms/fair//20241124-1.parquet",
        "dms/fair/sessions/notes.parquet",
        "dms/fair/sessions/LOAD1.parquet",
        "dms/fair/sessions/20241124.parquet",
        "dms/fair/sessions/\u0662\u0660\u0662\u0664\u0661\u0661\u0662\u0664-\u0661.parquet",
        "dms/fair/sessions/20241124-1\n.parquet",
        "dms/",
        "dms/.parquet",
    ],
)
def test_names_that_nobody_can_place_are_permanent(key: str) -> None:
    with pytest.raises(PermanentError) as caught:
        identify(config(), version(key))
    assert key in str(caught.value)


def test_another_bucket_is_permanent() -> None:
    with pytest.raises(PermanentError, match="reads the bucket b"):
        identify(config(), version("dms/fair/sessions/20241124-1.parquet", bucket="elsewhere"))


def test_unlisted_tables_follow_the_policy() -> None:
    unlisted = version("dms/fair/other/20241124-1.parquet")
    with pytest.raises(PermanentError, match="not in the table map"):
        identify(config(), unlisted)
    with pytest.raises(SkippedError, match="skipped"):
        identify(config(unlisted_tables="skip"), unlisted)
    file = identify(config(unlisted_tables="append"), unlisted)
    assert (file.target, file.turn) == ("other", "*b/dms/")


def test_an_unlisted_table_never_fills_a_listed_target() -> None:
    with pytest.raises(PermanentError, match="another source fills"):
        identify(config(unlisted_tables="append"), version("dms/dbo/sessions/20241124-1.parquet"))


def test_an_etag_makes_a_version() -> None:
    one, two = version("k"), version("k", etag="e2")
    assert one.file_id != two.file_id
    assert one.key_id == two.key_id
    assert one.applied_id("t", 1) != one.applied_id("t", 2) != two.applied_id("t", 1)


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_no_two_lists_of_parts_share_a_hash(one: list[str], two: list[str]) -> None:
    assert (digest(*one) == digest(*two)) == (one == two)


def rank(name: str, modified: datetime = NOW) -> str:
    return file_rank(identify(config(), version(f"dms/fair/sessions/{name}.parquet")), modified)


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1)),
    st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1)),
    st.integers(3, 6),
    st.integers(3, 6),
)
def test_text_order_of_ranks_is_time_order_whatever_the_digits(a: datetime, b: datetime, m: int, n: int) -> None:
    """DMS cuts the digits after the dash at will; HHMMSS and a fraction of any length must still compare as times."""

    def name(moment: datetime, digits: int) -> tuple[str, str]:
        text = moment.strftime("%Y%m%d-%H%M%S") + f"{moment.microsecond:06}"[:digits]
        return text, text.split("-")[0] + text.split("-")[1].ljust(12, "0")

    (name_a, exact_a), (name_b, exact_b) = name(a, m), name(b, n)
    if exact_a < exact_b:
        assert rank(name_a) < rank(name_b)


def test_full_loads_sort_below_every_change() -> None:
    late_full = rank("LOAD00000001", NOW + timedelta(days=900))
    assert late_full < rank("19990101-0", NOW - timedelta(days=9000))


def test_equal_stamps_are_ordered_by_last_modified() -> None:
    assert rank("20241124-1", NOW) < rank("20241124-1", NOW + timedelta(seconds=1))
