"""Order and collapse: the last change of each key survives, by sequence, whatever the order of files and rows."""

from __future__ import annotations

import io
import random
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firebolt_cdc.config import Table
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import FileVersion, Kind, SourceFile
from firebolt_cdc.stage import Prepared, prepare, stage
from firebolt_cdc.storage import ObjectInfo, ObjectReader

ROOM = 2**24
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class OneObject:
    """S3 with one object; counts the bytes that are read."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def get_object(self, *, Range: str, **_: Any) -> dict[str, Any]:
        start, end = (int(part) for part in Range.removeprefix("bytes=").split("-"))
        return {"Body": io.BytesIO(self.body[start : end + 1])}


def table(**changes: Any) -> Table:
    return Table.model_validate({"target": "t", "mode": "merge", "primary_key": ["id"]} | changes)


def read(body: bytes, table: Table, stamp: int = 1, kind: Kind = Kind.CHANGE) -> Prepared:
    name = f"20240101-{stamp:020}"
    version = FileVersion("b", f"p/s/t/{name}.parquet", f"e{stamp}")
    file = SourceFile(version, f"s/t/{name}.parquet", "s/t", kind, name if kind is Kind.CHANGE else "", table, "t")
    info = ObjectInfo(version, len(body), NOW)
    return prepare(ObjectReader(OneObject(body), info), file, info, (), ROOM)


def body(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def staged(files: list[Prepared], table: Table) -> list[dict[str, Any]]:
    return pq.ParquetFile(io.BytesIO(stage(files, table)[0])).read(use_threads=False).to_pylist()


changes = st.lists(st.tuples(st.sampled_from("IUD"), st.integers(0, 3), st.integers(0, 99)), max_size=8)


@given(st.lists(changes.filter(bool), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_last_change_of_each_key_survives(files: list[list[tuple[str, int, int]]], rng: random.Random) -> None:
    expected: dict[int, tuple[str, int]] = {}
    prepared = []
    for stamp, rows in enumerate(files, 1):
        ops, ids, values = zip(*rows, strict=True)
        prepared.append(read(body(Op=list(ops), id=list(ids), v=list(values)), table(), stamp))
        expected |= {key: (op, value) for op, key, value in rows}
    rng.shuffle(prepared)
    found = {row["id"]: (row["_cdc_op"], row["v"]) for row in staged(prepared, table())}
    assert found == expected


def test_counts_add_up() -> None:
    first = read(body(Op=["I", "U", "I"], id=[1, 1, 2], v=[1, 2, 3]), table(), 1)
    second = read(body(Op=["D", "I"], id=[2, 3], v=[0, 0]), table(), 2)
    _, counts = stage([first, second], table())
    by_stamp = [counts[f.file.version.file_id] for f in (first, second)]
    assert [(c.rows_read, c.rows_upserted, c.rows_deleted) for c in by_stamp] == [(3, 1, 0), (2, 1, 1)]


@pytest.mark.parametrize("key", ["#", "#_last", "0", "_last"])
def test_a_key_may_have_any_name(key: str) -> None:
    keyed = table(primary_key=[key, "#2"])
    changes = body(**{"Op": ["I", "U", "I"], key: [1, 1, 2], "#2": [5, 5, 5], "v": [1, 2, 3]})
    rows = staged([read(changes, keyed)], keyed)
    assert [(r[key], r["v"]) for r in rows] == [(1, 2), (2, 3)]


def test_an_append_table_keeps_all_rows_in_order() -> None:
    log = table(mode="append", primary_key=[])
    rows = staged([read(body(Op=["I", "D"], id=[1, 1]), log, 2), read(body(Op=["I"], id=[9]), log, 1)], log)
    assert [(r["id"], r["_cdc_op"]) for r in sorted(rows, key=lambda r: r["_cdc_seq"])] == [
        (9, "I"),
        (1, "I"),
        (1, "D"),
    ]
    assert {r["_cdc_file"] for r in rows} == {
        "s/t/20240101-00000000000000000001.parquet",
        "s/t/20240101-00000000000000000002.parquet",
    }


def test_ignored_deletes_are_dropped_before_the_collapse() -> None:
    keeps = table(deletes="ignore")
    assert [(r["id"], r["v"]) for r in staged([read(body(Op=["I", "D"], id=[1, 1], v=[5, 0]), keeps)], keeps)] == [
        (1, 5)
    ]


def test_change_seq_orders_across_files_and_rows() -> None:
    by_seq = table(order={"by": "change_seq", "column": "seq"})
    late = read(body(Op=["U", "U"], id=[1, 1], v=[9, 8], seq=["20240101000000000000000000000000100", "20"]), by_seq, 1)
    early = read(body(Op=["U"], id=[1], v=[1], seq=["3"]), by_seq, 2)
    assert [r["v"] for r in staged([late, early], by_seq)] == [9]


def test_timestamps_are_read_as_times_not_as_text() -> None:
    by_time = table(order={"by": "timestamp", "column": "ts"})
    first = read(body(Op=["U"], id=[1], v=[1], ts=["2024-01-01 10:00:00.5"]), by_time, 2)
    second = read(body(Op=["U"], id=[1], v=[2], ts=["2024-01-01 10:00:00.123456"]), by_time, 1)
    assert [r["v"] for r in staged([first, second], by_time)] == [1]


def test_columns_that_only_some_files_have_are_null_in_the_others() -> None:
    rows = staged([read(body(id=[1], a=["x"]), table(), 1), read(body(id=[2], b=["y"]), table(), 2)], table())
    assert [(r["id"], r["a"], r["b"]) for r in rows] == [(1, "x", None), (2, None, "y")]


def test_without_an_operation_column_rows_are_inserts() -> None:
    assert [r["_cdc_op"] for r in staged([read(body(id=[1, 2]), table())], table())] == ["I", "I"]


@pytest.mark.parametrize(
    ("columns", "settings", "complaint"),
    [
        ({"Op": ["I", "X"], "id": [1, 2]}, {}, "row 2 has the operation 'X'"),
        ({"Op": [1], "id": [1]}, {}, "row 1 has the operation .1., expected one of I, U, D"),
        ({"Op": [[1]], "id": [1]}, {}, "expected text, a boolean or a number"),
        ({"Op": ["I", "I"], "id": [1, None]}, {}, "row 2 has no value in the primary key column 'id'"),
        ({"Op": ["I"], "v": [1]}, {}, r"primary key column\(s\) \['id'\] are not in the file"),
        ({"id": [1]}, {"order": {"by": "change_seq", "column": "seq"}}, "order column 'seq' is not in the file"),
        ({"id": [1], "seq": ["x"]}, {"order": {"by": "change_seq", "column": "seq"}}, "expected up to 38 digits"),
        ({"id": [1], "seq": [None]}, {"order": {"by": "change_seq", "column": "seq"}}, "row 1 has no value"),
        ({"id": [1], "ts": ["noon"]}, {"order": {"by": "timestamp", "column": "ts"}}, "holds no timestamps"),
        ({"Op": ["I"]}, {"mode": "append", "primary_key": []}, "no data columns"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_applied_name_row_and_reason(
    columns: dict[str, Any], settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(PermanentError, match=complaint) as caught:
        read(body(**columns), table(**settings))
    assert "s3://b/p/s/t/20240101-00000000000000000001.parquet" in str(caught.value)


@pytest.mark.parametrize("cut", [0, 1, 4, 20, 100, -1, -8])
def test_truncated_files_are_permanent(cut: int) -> None:
    with pytest.raises(PermanentError, match="Parquet"):
        read(body(Op=["I"] * 50, id=list(range(50)))[:cut], table())


@pytest.mark.parametrize(("good", "bad"), [(b"name", b"n\xffme"), (b"text", b"t\xffxt")])
def test_text_that_is_not_utf8_is_permanent(good: bytes, bad: bytes) -> None:
    whole = body(id=[1], name=["text"])
    assert good in whole
    with pytest.raises(PermanentError, match=r"Parquet file \(.* bytes\)"):
        read(whole.replace(good, bad), table())


def test_a_full_load_checks_its_keys_and_stages_nothing() -> None:
    assert read(body(id=[1, 2]), table(), kind=Kind.FULL).rows is None
    with pytest.raises(PermanentError, match="row 1 has no value"):
        read(body(id=[None, 1]), table(), kind=Kind.FULL)


def test_a_full_load_with_types_that_the_engine_does_not_read_is_rewritten() -> None:
    full = read(
        body(id=pa.array([1], pa.uint64()), at=pa.array([3_600_000_000], pa.time64("us"))), table(), kind=Kind.FULL
    )
    [row] = staged([full], table())
    assert (int(row["id"]), row["at"], row["_cdc_op"], row["_cdc_seq"][:2]) == (1, "01:00:00.000000", "I", "0|")
