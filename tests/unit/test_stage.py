"""Order and collapse: the last change of each key survives, by sequence, whatever the order of files and rows."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
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
from firebolt_cdc.schema import Column
from firebolt_cdc.stage import Counts, Prepared, TooLargeError, prepare, room_bytes, stage
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


def read(
    body: bytes,
    table: Table,
    stamp: int = 1,
    kind: Kind = Kind.CHANGE,
    room: int = ROOM,
    target: Sequence[Column] = (),
) -> Prepared:
    name = f"20240101-{stamp:020}"
    version = FileVersion("b", f"p/s/t/{name}.parquet", f"e{stamp}")
    file = SourceFile(version, f"s/t/{name}.parquet", "s/t", kind, name if kind is Kind.CHANGE else "", table, "t")
    info = ObjectInfo(version, len(body), NOW)
    return prepare(ObjectReader(OneObject(body), info), file, info, target, room)


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
    assert by_stamp == [Counts(3, 1, 0, 2, 0), Counts(2, 1, 1, 0, 0)]


@given(
    st.lists(changes, min_size=1, max_size=5).filter(any), st.sampled_from(["hard", "soft", "ignore"]), st.booleans()
)
def test_every_row_becomes_one_thing(files: list[list[tuple[str, int, int]]], deletes: str, merge: bool) -> None:
    how = table(deletes=deletes) if merge else table(mode="append", primary_key=[], deletes=deletes)
    prepared = []
    for stamp, rows in enumerate(filter(None, files), 1):
        ops, ids, values = zip(*rows, strict=True)
        prepared.append(read(body(Op=list(ops), id=list(ids), v=list(values)), how, stamp))
    staged_bytes, counts = stage(prepared, how)
    assert sum(c.rows_staged for c in counts.values()) == pq.ParquetFile(io.BytesIO(staged_bytes)).metadata.num_rows
    for rows, c in zip(filter(None, files), counts.values(), strict=True):
        assert c.rows_read == len(rows) == c.rows_staged + c.rows_collapsed + c.rows_dropped
        assert c.rows_dropped == (sum(op == "D" for op, _, _ in rows) if merge and deletes == "ignore" else 0)
        assert merge or c.rows_collapsed == 0


def test_counts_that_do_not_add_up_name_the_file_and_each_number() -> None:
    Counts(5, 1, 1, 2, 1).require_balance("f")
    for wrong in (Counts(5, 1, 1, 1, 1), Counts(5, 2, 1, 2, 1), Counts(2, 4, 0, -2, 0)):
        with pytest.raises(PermanentError, match=rf"^f: its footer says {wrong.rows_read} rows"):
            wrong.require_balance("f")


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
        ({"Op": [1], "id": [1]}, {}, "expected text"),
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


@given(st.binary(max_size=200))
def test_any_bytes_are_permanent_or_rows(junk: bytes) -> None:
    whole = body(Op=["I"], id=[1])
    with pytest.raises(PermanentError):
        read(whole[:10] + junk + whole[10 + len(junk) : -4] + b"JUNK", table())


def test_a_full_load_checks_its_keys_and_stages_nothing() -> None:
    assert read(body(id=[1, 2]), table(), kind=Kind.FULL).rows is None
    with pytest.raises(PermanentError, match="row 1 has no value"):
        read(body(id=[None, 1]), table(), kind=Kind.FULL)


def grouped(rows: int, group: int, **columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": range(rows), **columns}), buffer, row_group_size=group)
    return buffer.getvalue()


def test_a_null_key_is_named_by_its_row_in_the_file_whatever_its_row_group() -> None:
    ids = pa.array([*range(30_000), None, *range(30_001, 40_000)])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": ids}), buffer, row_group_size=1000)
    with pytest.raises(PermanentError, match="row 30001 has no value in the primary key column 'id'"):
        read(buffer.getvalue(), table(), kind=Kind.FULL)


def peak_of_a_full_load(rows: int) -> int:
    """The most that pyarrow holds while a full-load file of two columns is looked through, one of them cast."""
    file = grouped(rows, 2000, amount=pa.array(range(rows), pa.int32()))
    target = (Column("id", "BIGINT"), Column("amount", "NUMERIC(12, 0)"))
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        assert read(file, table(), kind=Kind.FULL, target=target).rows is None
    finally:
        pa.set_memory_pool(before)
    peak = pool.max_memory()
    assert peak is not None
    return peak


def test_what_a_full_load_needs_does_not_grow_with_it() -> None:
    assert peak_of_a_full_load(200_000) < 2 * peak_of_a_full_load(10_000)


def test_rows_for_which_there_is_no_room_fail_the_file_with_the_way_out() -> None:
    plain = grouped(10_000, 1000)
    assert read(plain, table(), room=10_000 * 250).rows_read == 10_000
    repeated = grouped(2_000, 2_000, note=["x" * 5_000] * 2_000)
    assert len(repeated) < 100_000, "the footer counts a repeated text once"
    for file, room in ((plain, 10_000 * 200), (repeated, 9_000_000)):
        with pytest.raises(TooLargeError, match="run `firebolt-cdc load`"):
            read(file, table(), room=room)
    assert read(repeated, table(), room=11_000_000).rows_read == 2_000


def test_the_room_for_rows_follows_the_functions_memory() -> None:
    assert [room_bytes(mb * 2**20) // 2**20 for mb in (512, 1024, 2048, 10240)] == [48, 176, 432, 2480]


def test_a_full_load_that_is_rewritten_refuses_a_doubled_key_by_name() -> None:
    with pytest.raises(PermanentError, match="2 rows have the primary key id = 7; correct primary_key"):
        read(body(id=[7, 1, 7], at=pa.array([1, 2, 3], pa.time64("us"))), table(), kind=Kind.FULL)


def test_a_full_load_with_types_that_the_engine_does_not_read_is_rewritten() -> None:
    full = read(
        body(id=pa.array([1], pa.uint64()), at=pa.array([3_600_000_000], pa.time64("us"))), table(), kind=Kind.FULL
    )
    [row] = staged([full], table())
    assert (int(row["id"]), row["at"], row["_cdc_op"], row["_cdc_seq"][:2]) == (1, "01:00:00.000000", "I", "0|")
