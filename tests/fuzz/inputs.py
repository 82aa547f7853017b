"""What is fed to the entrances: nearly good input, and junk."""

from __future__ import annotations

import copy
import io
import json
import string
import struct
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import assume
from hypothesis import strategies as st

from wire.world import PREFIX, SOURCE

GOOD = f"{PREFIX}t/merge/20260101-000000001.parquet"
NASTY = (
    "'", '"', "''", '""', "\\", "\\'", '\\"', ";", "; DROP TABLE canary; --", "'; DROP TABLE canary; --",
    '"; DROP TABLE canary; --', '"); DROP TABLE canary; --', "') OR 1=1 --", "--", "/*", "*/", "?", "$1", "%s",
    "%", "%00",
    "{}", "{0}", "[", "]", "*", "$$", "`", "\n", "\r\n", "\t", "\0", "\x01", "\x1b", "\x7f", "\x85", "\u2028", "\ufeff",
    "\ufffe", "\ud800", "\udfff", "é", "e\u0301", "ß", "日本", "😀", "\u202e", "+", " ", "  ", ".", "..", "/", "//",
    "&", "#", "=",
    "NULL", "null", "None", "true", "0", "-1", "1e999", "NaN", "select", "table", "ORDER", "a" * 300, "x" * 2000,
    "_cdc_seq", "_CDC_SEQ", "_cdc_op", "_cdc_file", "_cdc_deleted", "Op", "op", "id", "ID", "#", "s", "t", "p",
    "d", "begin",
    "canary", "cdc_applied", "cdc_tables", "theirs",
)  # fmt: skip
anything = st.characters(exclude_categories=())
text = st.one_of(
    st.sampled_from(NASTY),
    st.text(anything, max_size=10),
    st.lists(st.sampled_from(NASTY) | st.text(string.ascii_letters, max_size=4), max_size=5).map("".join),
)
number = st.integers() | st.floats() | st.sampled_from((0, -1, 2**31, 2**63, 2**64, 10**40, -(10**40)))
junk = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("detail", "Records", "bucket", "object", "s3", "key", "name", "etag", "body")) | text,
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
deep = st.builds(
    lambda depth, pair: pair[0] * depth + "1" + pair[1] * depth,
    st.sampled_from((50, 900, 5_000, 100_000)),
    st.sampled_from((("[", "]"), ('{"a":', "}"), ('{"detail":{"bucket":{"name":"b"},"x":', "}}"))),
)


@st.composite
def damaged(draw: Any, whole: st.SearchStrategy[Any], hits: int = 2) -> Any:
    """JSON with some of its places, at any depth, replaced, removed or doubled."""
    value = copy.deepcopy(draw(whole))
    for _ in range(draw(st.integers(0, hits))):
        places: list[tuple[Any, Any]] = []

        def walk(thing: Any, places: list[tuple[Any, Any]]) -> None:
            for key in list(thing) if isinstance(thing, dict) else range(len(thing)):
                places.append((thing, key))
                if isinstance(thing[key], (dict, list)):
                    walk(thing[key], places)

        if not isinstance(value, (dict, list)):
            break
        walk(value, places)
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        how = draw(st.sampled_from(("replace", "replace", "remove", "extra")))
        if how == "replace":
            holder[key] = draw(junk)
        elif how == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(text)] = draw(junk)
        else:
            holder.append(copy.deepcopy(holder[key]))
    return value


# ---------------------------------------------------------------- keys and events

_digits = st.text(string.digits, min_size=6, max_size=10)
file_names = st.one_of(
    st.builds("{}-{}".format, _digits, st.text(string.digits + "-. ", max_size=22)),
    st.builds("LOAD{}".format, st.text("0123456789ABCDEFabcdefG", max_size=12)),
    st.builds("{}{}".format, st.sampled_from(("20260101-1", "LOAD00000001", "20260101-", "load00000001")), text),
    st.sampled_from(
        (
            "20260101-000000002",
            "LOAD00000001",
            "LOAD00000002",
            "20261399-999999999",
            "\u0662\u0660\u0662\u0666\u0660\u0661\u0660\u0661-\u0661",
        )
    ),
    text,
)
suffixes = st.sampled_from((".parquet", ".parquet", ".parquet", ".PARQUET", "", ".parquet.gz", ".parquet\n"))
keys = st.one_of(
    st.builds(
        lambda prefix, schema, table, folders, name, suffix: (
            prefix + "/".join([schema, table, *folders, name]) + suffix
        ),
        st.sampled_from((PREFIX, PREFIX, PREFIX, PREFIX, "", "/", PREFIX + "/", PREFIX.upper())),
        st.just("t") | text,
        st.sampled_from(("merge", "log", "canary")) | text,
        st.lists(st.sampled_from(("2026", "01", "..", "")) | text, max_size=3),
        file_names,
        suffixes,
    ),
    st.just(GOOD),
    text,
)
good_keys = st.builds(
    lambda table, folders, name: f"{PREFIX}t/{table}/" + "/".join([*folders, name]) + ".parquet",
    st.sampled_from(("merge", "log")),
    st.lists(text.filter(bool).map(lambda t: t.replace("/", "_")), max_size=2),
    st.sampled_from(("20260101-000000002", "LOAD00000001")),
)
buckets = st.sampled_from((SOURCE, SOURCE, SOURCE, "other-bucket", "x", "")) | text
etags = st.none() | st.sampled_from(("RIGHT", '"RIGHT"', 'W/"RIGHT"', "wrong", "", '"')) | text
moments = st.sampled_from(("2026-01-01T00:00:00+00:00", "2026-01-01", "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",                           "noon", "")) | text  # fmt: skip
_things = st.builds(lambda key, etag: {"key": key} | ({} if etag is None else {"etag": etag}), keys, etags)
event_bodies = st.one_of(
    st.builds(lambda bucket, thing: {"detail": {"bucket": {"name": bucket}, "object": thing}}, buckets, _things),
    st.lists(
        st.builds(
            lambda bucket, thing: {"eventSource": "aws:s3", "s3": {"bucket": {"name": bucket}, "object": thing}},
            buckets,
            _things,
        ),
        max_size=3,
    ).map(lambda records: {"Records": records}),
    st.just({"Event": "s3:TestEvent"}),
    junk,
)
texts_of_bodies = st.one_of(
    damaged(event_bodies).map(json.dumps),
    damaged(event_bodies).map(json.dumps),
    damaged(event_bodies).map(json.dumps),
    deep,
    text,
)
attributes = st.fixed_dictionaries(
    {},
    optional={
        "cdc_origin": st.sampled_from(("s3", "copy", "sweep", "operator", "")) | text,
        "cdc_first_seen": moments,
        "cdc_waits": st.sampled_from(("0", "3", "-3", "-10000", "999999999999", "²", "9" * 5000)) | text,
        "cdc_reason": text,
    },
).map(lambda found: {name: {"stringValue": value, "dataType": "String"} for name, value in found.items()})
records = st.builds(
    lambda body, found, sent, number: {
        "messageId": str(number),
        "eventSource": "aws:sqs",
        "body": body,
        "attributes": {"SentTimestamp": sent},
        "messageAttributes": found,
    },
    texts_of_bodies,
    attributes,
    st.sampled_from(("1767225600000", "0", "9" * 30, "-1", "²", "")),
    st.integers(0, 9),
)
damaged_records = (
    records | records | damaged(records).filter(lambda r: isinstance(r, dict) and r.get("eventSource") == "aws:sqs")
)

# ---------------------------------------------------------------- Arrow schemas and Parquet bytes

simple_types = st.sampled_from(
    [
        pa.null(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
        pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.string_view(),
        pa.binary(), pa.large_binary(), pa.binary(3), pa.binary_view(), pa.date32(), pa.date64(), pa.time32("s"),
        pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"),
        pa.timestamp("ns"), pa.timestamp("us", tz="UTC"), pa.timestamp("ns", tz="America/New_York"), pa.duration("us"),
        pa.decimal32(7, 2), pa.decimal128(38, 0), pa.decimal128(10, 2), pa.decimal128(20, -2), pa.decimal256(60, 5),
        pa.month_day_nano_interval(), pa.uuid(), pa.json_(pa.string()), pa.bool8(),
    ]
)  # fmt: skip
types = st.recursive(
    simple_types,
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(lambda t: pa.list_(t, 2)),
        inner.map(lambda t: pa.map_(pa.string(), t)),
        st.lists(
            st.tuples(st.sampled_from(("a", "b", "'", "\\", "")), inner), max_size=2, unique_by=lambda pair: pair[0]
        ).map(pa.struct),
        st.sampled_from([pa.dictionary(pa.int32(), t) for t in (pa.string(), pa.int64(), pa.binary())]),
    ),
    max_leaves=3,
)
_VALUES: dict[str, list[Any]] = {
    "bool": [True, False],
    "int": [0, 1, -1, 127, 2**31 - 1, 2**63 - 1, -(2**63), 2**64 - 1],
    "float": [0.0, -0.0, 0.1, 1e300, float("nan"), float("inf"), float("-inf")],
    "string": [*(t for t in NASTY if t.isascii()), "é", "日本😀"],
    "binary": [b"", b"\0", b"abc", b"\xff\xfe", b"'"],
    "decimal": [Decimal(0), Decimal("1.5"), Decimal("-99999.99"), Decimal(10) ** 30],
    "date": [date(1970, 1, 1), date(1, 1, 1), date(9999, 12, 31)],
    "time": [time(0), time(23, 59, 59, 999999)],
    "timestamp": [
        datetime(1970, 1, 1), datetime(2026, 1, 1, 1, 2, 3, 456789), datetime(1, 1, 1),
        datetime(9999, 12, 31, 23, 59, 59),
        datetime(2026, 1, 1, tzinfo=UTC),
    ],
}  # fmt: skip


def column(draw: Any, type_: pa.DataType, rows: int, *, nulls: bool = True) -> pa.Array:
    """Values of a type, with extremes; nulls where there are no samples."""
    name = str(type_)
    kind = next((k for k in _VALUES if k in name.replace("uint", "int").replace("double", "float")), None)
    if pa.types.is_list(type_) and not nulls:
        return pa.ListArray.from_arrays(pa.array([0] * (rows + 1), pa.int32()), pa.nulls(0, type_.value_type), type_)
    if pa.types.is_nested(type_) or kind is None:
        return pa.nulls(rows, type_)
    some = st.sampled_from(_VALUES[kind])
    values = draw(st.lists(st.none() | some if nulls else some, min_size=rows, max_size=rows))
    fitting = []
    for value in values:
        try:
            pa.array([value], type_)
            fitting.append(value)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            fitting.append(None)
    try:
        return pa.array(fitting, type_)
    except (pa.ArrowException, ValueError, TypeError):
        return pa.nulls(rows, type_)


utf8 = text.filter(lambda t: not any("\ud800" <= c <= "\udfff" for c in t))
column_names = st.sampled_from(("v", "w", "V", "amount", "seq", "ts")) | utf8


@st.composite
def tables(draw: Any, *, keyed: bool = True) -> pa.Table:
    """Some rows of any schema; mostly with a usable `id` and `Op`, sometimes with doubled or odd names."""
    rows = draw(st.integers(0, 4))
    names: list[str] = []
    arrays: list[pa.Array] = []
    if keyed and draw(st.integers(0, 9)):
        names.append(draw(st.sampled_from(("id", "id", "id", "ID"))))
        if draw(st.integers(0, 5)):
            arrays.append(pa.array(draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)), pa.int64()))
        else:
            arrays.append(column(draw, draw(types), rows, nulls=False))
    if draw(st.integers(0, 3)):
        names.append(draw(st.sampled_from(("Op", "Op", "OP"))))
        ops = st.sampled_from("IIIUDX") if draw(st.integers(0, 5)) == 0 else st.sampled_from("IUD")
        arrays.append(pa.array(draw(st.lists(ops, min_size=rows, max_size=rows)), pa.string()))
    for _ in range(draw(st.sampled_from((0, 1, 1, 2, 4)))):
        names.append(draw(column_names))
        arrays.append(column(draw, draw(types), rows))
    assume(names)
    return pa.table(arrays, names=names)


def parquet(table: pa.Table, **how: Any) -> bytes | None:
    """The bytes of a Parquet file; None where Arrow does not write such a table."""
    buffer = io.BytesIO()
    try:
        pq.write_table(table, buffer, **how)
    except (pa.ArrowException, OSError, ValueError, NotImplementedError):
        return None
    return buffer.getvalue()


def _samples() -> list[bytes]:
    rows = 40
    whole = pa.table(
        {
            "Op": ["I", "U", "D", "I"] * (rows // 4),
            "id": pa.array(range(rows), pa.int64()),
            "v": [f"value {n % 7}" for n in range(rows)],
            "amount": pa.array([Decimal(n) / 100 for n in range(rows)], pa.decimal128(10, 2)),
            "ts": pa.array([datetime(2026, 1, 1, 0, n) for n in range(rows)], pa.timestamp("us")),
            "tags": pa.array([[f"t{n}"] * (n % 3) for n in range(rows)], pa.list_(pa.string())),
        }
    )
    hows: list[dict[str, Any]] = [
        {},
        {"compression": "none", "use_dictionary": False},
        {"compression": "zstd", "data_page_version": "2.0", "row_group_size": 9},
        {"compression": "gzip", "write_page_checksum": True, "write_statistics": False},
        {"store_schema": False, "compression": "none", "column_encoding": {"id": "DELTA_BINARY_PACKED"},
         "use_dictionary": False},
    ]  # fmt: skip
    return [body for how in hows if (body := parquet(whole, **how)) is not None]


SAMPLES = _samples()


@st.composite
def parquet_bytes(draw: Any) -> bytes:
    """A real file with damage in its pages, footer, length or magic; or no Parquet file at all."""
    body = bytearray(draw(st.sampled_from(SAMPLES)))
    footer = struct.unpack("<I", body[-8:-4])[0]
    how = draw(
        st.sampled_from(("junk", "cut", "footer", "footer", "footer", "pages", "pages", "length", "magic", "text"))
    )
    if how == "junk":
        return draw(st.sampled_from((b"", b"PAR1", b"PAR1PAR1", b"PARE" * 3))) + draw(st.binary(max_size=60))
    if how == "cut":
        start, end = sorted(draw(st.tuples(st.integers(0, len(body)), st.integers(0, len(body)))))
        return bytes(body[:start] if draw(st.booleans()) else body[:start] + body[end:])
    if how == "magic":
        body[-4:] = draw(st.sampled_from((b"PARE", b"ORC\0", b"PAR2", b"par1")))
        return bytes(body)
    if how == "length":
        body[-8:-4] = draw(
            st.sampled_from((0, 1, footer - 1, footer + 1, len(body), 2**31 - 1, 2**31, 2**32 - 1))
        ).to_bytes(4, "little")
        return bytes(body)
    if how == "text":  # not UTF-8 where text is expected: column names, and values
        old = draw(st.sampled_from((b"Op", b"id", b"ts", b"tags", b"value", b"amount", b"I", b"UTF8")))
        new = draw(st.sampled_from((b"\xff", b"\xc3\x28", b"\0", b'"', b"\\", b"\xed\xa0\x80", b"Op", b"id")))
        return bytes(body.replace(old, (new * len(old))[: len(old)]))
    low, high = (len(body) - 8 - footer, len(body) - 9) if how == "footer" else (4, len(body) - 9 - footer)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(low, high))
        body[place] = draw(st.sampled_from((body[place] ^ 1 << draw(st.integers(0, 7)), 0, 255, 127, 128)))
    return bytes(body)


firebolt_types = st.sampled_from(
    ("INTEGER", "BIGINT", "TEXT", "DOUBLE PRECISION", "REAL", "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMPTZ", "BYTEA",
     "NUMERIC(10, 2)", "NUMERIC(38, 38)", "ARRAY(TEXT)", "ARRAY(BIGINT)", "ARRAY(ARRAY(TEXT))", "GEOGRAPHY",
     "STRUCT(a INT)",
     "", "numeric(5)")
)  # fmt: skip
target_columns = st.just([]) | st.lists(
    st.tuples(st.sampled_from(("id", "v", "w", "amount", "ts", "tags", "_cdc_seq", "Op")) | text, firebolt_types),
    max_size=5,
    unique_by=lambda pair: pair[0],
)

# ---------------------------------------------------------------- configuration

names = text | st.sampled_from(
    (
        "merge",
        "log",
        "Merge",
        "select",
        "information_schema",
        "a.b",
        "public.x",
        "T" * 500,
        "a b",
        "tab\\",
        '\\"',
        'a\\"b',
    )
)
EDITED = {
    "status": ("pending", "processing", "failed", "completed", "skipped", "PENDING", "", "junk"),
    "recorded_status": ("pending", "processing", "failed", "completed", "skipped", "", "junk"),
    "error_class": ("conflict", "transient", "permanent", "gone", "held", "junk", "", None),
    "error_message": (None, "", "boo"),
    "claim_id": (None, "", "junk", "theirs"),
    "alone_count": (0, 1, 3, -5, 99, 2**31 - 1, -(2**31)),
    "attempt_count": (None, 0, -1, 2**31 - 1),
    "processed_at": (None, "1970-01-01 00:00:00+00", "0001-01-01 00:00:00+00", "9999-12-31 23:59:59+00"),
    "enqueued_at": (None, "1970-01-01 00:00:00+00", "9999-12-31 23:59:59+00"),
    "first_seen_at": (None,),
    "bucket": ("other", "", "a b"),
    "object_key": ("", "junk", "a\x01b"),
    "file_key": ("", "junk"),
    "etag": ("", "junk"),
    "turn": ("junk", "theirs", "log", "merge"),
    "target_table": (None, "junk", "canary", "theirs", "log"),
    "source_table": (None, "junk"),
    "kind": (None, "junk", "full"),
    "load_id": (None, "junk"),
    "request_id": (None, "junk"),
    "lambda_arn": (None,),
    "file_id": ("junk",),
    "pipeline": ("junk",),
    "rows_read": (None, -1, 2**63 - 1),
}
"""Columns of cdc_processed_files and what a person may type into them; every text column also takes any text."""
