"""Identity, names and order of files."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firebolt_cdc.config import DMS_CHANGES, DMS_FULL_LOAD, Config, Table
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import FileVersion, Kind, SkippedError, digest, file_rank, identify, stamp_text
from support import repository

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
    other = version("dms/fair/other/20241124-1.parquet")
    with pytest.raises(PermanentError, match="not in the table map"):
        identify(config(), other)
    with pytest.raises(SkippedError, match="skipped"):
        identify(config(unlisted_tables="skip"), other)
    file = identify(config(unlisted_tables="append"), other)
    assert (file.target, file.turn) == ("fair__other", "*b/dms/")


def unlisted(source_table: str, **changes: object) -> str:
    """The target of an unlisted table."""
    file = version(f"dms/{source_table}/20241124-1.parquet")
    return identify(config(unlisted_tables="append", **changes), file).target


NAMES = st.text("aA_-.", min_size=1, max_size=4) | st.sampled_from(["cdc_x", "CDC_x", "cdc_reload_1", "x" * 200])


@given(st.lists(st.tuples(NAMES, NAMES), min_size=2, max_size=30, unique=True))
def test_two_unlisted_tables_never_share_a_target(tables: list[tuple[str, str]]) -> None:
    targets = []
    for schema, table in tables:
        with suppress(PermanentError):
            targets.append(unlisted(f"{schema}/{table}"))
    assert len(targets) == len(set(targets))


@pytest.mark.parametrize(
    ("source_table", "complaint"),
    [
        ("a__b/c", "in more than one place"),
        ("a/b__c", "in more than one place"),
        ("a_/b", "in more than one place"),
        ("a/_b", "in more than one place"),
        ("dbo/__history", "in more than one place"),
        ("cdc_x/applied", "a name of the ledger's own"),
        ("CDC_x/applied", "a name of the ledger's own"),
        ("fair/cdc_reload_2", "a name of the ledger's own"),
        ("s/" + "t" * 253, "more than the 255 characters"),
    ],
)
def test_an_unlisted_table_that_has_no_name_of_its_own_is_to_be_listed(source_table: str, complaint: str) -> None:
    with pytest.raises(PermanentError, match=f"{complaint}.*; list it in `tables` with a target of its own") as caught:
        unlisted(source_table)
    assert f"dms/{source_table}/" in str(caught.value)


@pytest.mark.parametrize(
    ("source_table", "target"),
    [("a_b/c", "a_b__c"), ("a/b_c", "a__b_c"), ("fair/cdc_applied", "fair__cdc_applied"), ("s/" + "t" * 252, None)],
)
def test_an_unlisted_table_is_named_after_schema_and_table(source_table: str, target: str | None) -> None:
    assert unlisted(source_table) == (target or source_table.replace("/", "__"))


def test_an_unlisted_table_never_fills_a_listed_target() -> None:
    tables = {"fair/sessions": {"target": "dbo__sessions", "mode": "append"}}
    with pytest.raises(PermanentError, match="another source fills"):
        unlisted("dbo/sessions", tables=tables)
    assert unlisted("dbo/sessions") == "dbo__sessions"


def test_a_table_that_is_listed_under_its_unlisted_name_keeps_what_was_applied() -> None:
    """So docs/upgrade.md can say: list it with the target that it had, in mode append."""
    file = identify(
        config(tables={"fair/other": {"target": "other", "mode": "append"}}),
        version("dms/fair/other/20241124-1.parquet"),
    )
    assert file.applied_id(1) == file.version.applied_id("other", 1)


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


numbers = st.lists(st.integers(0, 10**24 - 1), min_size=1, max_size=4)


@given(numbers, numbers, st.sampled_from(["-", "+", "_", "T", ".", "|"]))
def test_text_order_of_other_stamps_is_the_order_of_their_numbers(a: list[int], b: list[int], mark: str) -> None:
    one, two = (f"1|{stamp_text(mark.join(map(str, numbers)), dms=False)}|20240101T" for numbers in (a, b))
    assert (one < two, one == two) == (a < b, a == b)


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)), st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S.%f", "%Y%m%dT%H%M%S%f", "%Y_%m_%d/%H-%M-%S.%fZ"])
def test_text_order_of_times_in_other_stamps_is_time_order(form: str, a: datetime, b: datetime) -> None:
    def text(moment: datetime) -> str:
        return stamp_text(moment.strftime(form.replace("%Y", f"{moment.year:04}")), dms=False)

    assert (text(a) < text(b)) == (a < b)


@pytest.mark.parametrize("stamp", ["", "a b", "7!", "\n1", "1" + "0" * 24])
def test_stamps_that_cannot_be_ordered_are_refused(stamp: str) -> None:
    files = {"changes": "(?s:d(?P<stamp>.*))"}
    listed = {"target": "t", "mode": "merge", "primary_key": ["id"], "files": files}
    with pytest.raises(PermanentError, match=r"the stamp .* in the name .* the order of changes is unknown"):
        identify(config(tables={"fair/t": listed}), version(f"dms/fair/t/d{stamp}.parquet"))


def source(path: str | None, target: str, **files: str) -> dict[str, object]:
    return {"target": target, "mode": "append", "files": {"path": path, **files}}


PATHS = {
    "shop/all": source("", "everything"),
    "shop/topics": source("topics/", "topics"),
    "shop/orders": source("topics/orders/", "orders", changes=r"orders\+[0-9]+\+(?P<stamp>[0-9]+)(?:\.snappy)?"),
    "shop/plain": source(None, "plain", full_load="all", changes="part-.*"),
}


@pytest.mark.parametrize(
    ("key", "target", "kind", "stamp"),
    [
        ("topics/orders/partition=0/orders+0+0000001234.snappy.parquet", "orders", "change", f"{1234:024}!"),
        ("topics/orders/orders+12+99.parquet", "orders", "change", f"{99:024}!"),
        ("topics/orders2/20240101-1.parquet", "topics", "change", "20240101-10000000000000000000"),
        ("topics/LOAD00000001.parquet", "topics", "full", ""),
        ("20240101-1.parquet", "everything", "change", "20240101-10000000000000000000"),
        ("elsewhere/20240101-1.parquet", "everything", "change", "20240101-10000000000000000000"),
        ("shop/plain/all.parquet", "plain", "full", ""),
        ("shop/plain/x/y/part-7 of 9.parquet", "plain", "change", ""),
    ],
)
def test_the_longest_path_says_whose_a_file_is(key: str, target: str, kind: str, stamp: str) -> None:
    file = identify(config(tables=PATHS), version(f"dms/{key}"))
    assert (file.target, file.kind, file.stamp, file.file_key) == (target, kind, stamp, key)


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("topics/orders/orders+0+x.parquet", r"neither files.full_load \(LOAD.* nor files.changes \(orders"),
        ("topics/orders/20240101-1.parquet", "nor files.changes"),
        ("shop/plain/part-1.parquet.parquet2", "suffix"),
        ("topics/notes.parquet", "neither LOAD and a counter nor YYYYMMDD-time"),
    ],
)
def test_names_that_do_not_fit_their_table_are_permanent(key: str, complaint: str) -> None:
    with pytest.raises(PermanentError, match=complaint):
        identify(config(tables=PATHS), version(f"dms/{key}"))


@pytest.mark.parametrize("policy", ["fail", "append"])
def test_a_listed_tables_file_outside_its_path_is_told_where_it_belongs(policy: str) -> None:
    tables = {"shop/orders": PATHS["shop/orders"]}
    with pytest.raises(PermanentError, match="the files of shop/orders lie below 'dms/topics/orders/'"):
        identify(config(tables=tables, unlisted_tables=policy), version("dms/shop/orders/20240101-1.parquet"))


def test_the_order_format_changes_with_the_order_and_with_the_names_only() -> None:
    def form(**settings: object) -> str:
        return Table.model_validate({"target": "t", "mode": "merge", "primary_key": ["id"]} | settings).order_format

    assert form() == "file"
    assert form(order={"by": "change_seq", "column": "seq"}) == "change_seq:seq"
    assert form(files={"path": "x/", "full_load": "all"}, before_image={}, op={"column": "o"}) == "file"
    others = [
        form(order={"by": "number", "column": "seq"}),
        form(order={"by": "number", "columns": ["a", "b"]}),
        form(order={"by": "number", "columns": ["b", "a"]}),
        form(order={"by": "number", "column": '["a", "b"]'}),
        form(order={"by": "number", "column": "seq"}, files={"changes": ".*"}),
        form(files={"changes": "(?P<stamp>.*)"}),
        form(files={"changes": "x(?P<stamp>.*)"}),
    ]
    assert len({"file", "change_seq:seq", *others}) == len(others) + 2


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({"a/b": source("x", "b")}, "must be empty, or end in /"),
        ({"a/b": source("/x/", "b")}, "not start with one"),
        ({"a/b": source("x/", "b"), "a/c": source("x/", "c")}, "the files of a/b and a/c both lie below 'x/'"),
        ({"a/b": source("a/c/", "b"), "a/c": source(None, "c")}, "the files of a/b and a/c both lie below 'a/c/'"),
        ({"a/b": source(None, "b", changes="(")}, "not a regular expression"),
        ({"a/b": source(None, "b", changes=".*") | {"mode": "merge", "primary_key": ["id"]}}, "needs the order of"),
        ({"a/b": source(None, "b") | {"before_image": {}}}, "before_image is for mode merge"),
        ({"a/b": source(None, "b") | {"before_image": {"prefix": ""}}}, "needs a prefix or a suffix"),
        ({"a/b": source(None, "b") | {"op": {"insert": ["U"]}}}, "each value once"),
        ({"a/b": source(None, "b") | {"op": {"column": ""}}}, "must name a column"),
        ({"a/b": source(None, "b") | {"delete_marker": {"column": "x", "values": []}}}, "at least 1 item"),
        ({"a/b": source(None, "b") | {"order": {"by": "number"}}}, "order.column must be named"),
        ({"a/b": source(None, "b") | {"order": {"columns": ["x"]}}}, "order.column must be left out"),
        ({"a/b": source(None, "b") | {"order": {"by": "number", "column": "x", "columns": ["y"]}}}, "exclude each"),
        ({"a/b": source(None, "b") | {"order": {"by": "number", "columns": ["y", "y"]}}}, "each column once"),
        ({"a/b": source(None, "b") | {"mode": "merge", "primary_key": ["Op"]}}, r"\['Op'\] cannot be both primary_key"),
        (
            {"a/b": source(None, "b") | {"mode": "merge", "primary_key": ["BI_id"], "before_image": {}}},
            r"\['BI_id'\] cannot be both primary_key",
        ),
    ],
)  # fmt: skip
def test_a_table_map_that_cannot_be_meant_is_refused(tables: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        config(tables=tables)


def test_full_loads_sort_below_every_change() -> None:
    late_full = rank("LOAD00000001", NOW + timedelta(days=900))
    assert late_full < rank("19990101-0", NOW - timedelta(days=9000))


def test_equal_stamps_are_ordered_by_last_modified() -> None:
    assert rank("20241124-1", NOW) < rank("20241124-1", NOW + timedelta(seconds=1))


def test_no_file_is_loaded_into_the_ledger_itself() -> None:
    for target in ("cdc_processed_files", "CDC_applied", "sessions__cdc_reload_2"):
        with pytest.raises(ValueError, match="the ledger's own"):
            config(tables={"fair/x": {"target": target, "mode": "append"}})


def test_the_module_and_the_handler_mean_the_same_names_of_dms() -> None:
    """Where Terraform's default is another text, DMS's stamps would be ordered as plain numbers."""
    variables = (repository() / "variables.tf").read_text()
    for pattern in (DMS_FULL_LOAD, DMS_CHANGES):
        assert f'optional(string, "{pattern}")' in variables
