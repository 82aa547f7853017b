"""Order and collapse: the last change of each key survives, by sequence, whatever the order of files and rows."""

from __future__ import annotations

import io
import itertools
import random
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firebolt_cdc.config import Table
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import FileVersion, Kind, SourceFile
from firebolt_cdc.parquet import TooLargeError, room_bytes
from firebolt_cdc.schema import Column
from firebolt_cdc.stage import SPARE_SECONDS, Counts, Prepared, explain, prepare, stage
from firebolt_cdc.storage import PREFETCH_BYTES, ObjectInfo, ObjectReader

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


@pytest.mark.parametrize(
    ("by", "values"),
    [("number", ["9", "10"]), ("change_seq", ["9", "10"]), ("timestamp", ["2024-01-01", "2024-01-02"])],
)
def test_order_columns_may_be_dictionaries(by: str, values: list[str]) -> None:
    ordered = table(order={"by": by, "column": "n"})
    texts = pa.array([values[1], values[0]]).dictionary_encode()
    assert [r["v"] for r in staged([read(body(id=[1, 1], v=[2, 1], n=texts), ordered)], ordered)] == [2]


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


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        (b"name", b"n\xffme", r"not a readable Parquet file \(.* bytes\)"),
        (b"text", b"t\xffxt", "row 2 has text in the column 'name' that is not UTF-8"),
    ],
)
def test_text_that_is_not_utf8_is_permanent(good: bytes, bad: bytes, told: str) -> None:
    whole = body(id=[1, 2], name=["x", "text"])
    assert good in whole
    with pytest.raises(PermanentError, match=told):
        read(whole.replace(good, bad), table())


def explained(body_: bytes, target: Sequence[Column] = (), seconds: float = 60.0) -> str:
    prepared = read(body_, table(), kind=Kind.FULL, target=target)
    assert prepared.rows is None
    reader = ObjectReader(OneObject(body_), prepared.info)
    return str(explain(reader, prepared, Deadline(seconds)) or "")


UNLOOKED: dict[str, tuple[pa.Array, str]] = {
    "character zero": (pa.array(["a"] * 40_000 + ["\0"] + ["a"] * 100), "row 40001 holds a character zero"),
    "repeated": (pa.array(["a"] * 40_000 + ["\0"]).dictionary_encode(), "row 40001 holds a character zero"),
    "in an item": (pa.array([["a", "b"]] * 40_000 + [["a"], [], ["b", "\0"]]), "row 40003 holds a character zero"),
    "in an item's item": (pa.array([[["a"], ["b", "c"]]] * 20_000 + [[["\0"]]]), "row 20001 holds a character zero"),
    "not UTF-8": (pa.array([b"a"] * 40_000 + [b"\xe4"]).view(pa.string()), "row 40001 has text in the column 'v'"),
    "nothing": (pa.array(["a", None] * 20_000), ""),
}


@pytest.mark.parametrize("what", UNLOOKED)
def test_a_refused_full_load_is_explained_by_row(what: str) -> None:
    values, told = UNLOOKED[what]
    said = explained(body(id=range(len(values)), v=values))
    assert (told in said) if told else said == ""
    assert said == "" or "s3://b/p/s/t/" in said


def test_a_refused_full_load_is_not_looked_through_when_time_is_short() -> None:
    whole = body(id=[1], v=["\0"])
    assert explained(whole, seconds=SPARE_SECONDS - 1) == ""
    assert "character zero" in explained(whole, seconds=SPARE_SECONDS + 30)


class Held:
    """The most that pyarrow holds within a `with` block."""

    def __enter__(self) -> Held:
        self._before, self._pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(self._pool)
        return self

    def __exit__(self, *_: object) -> None:
        pa.set_memory_pool(self._before)
        self.peak_bytes = self._pool.max_memory() or 0


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("kind", Kind)
def test_a_small_file_of_long_repeated_text_takes_no_more_than_its_room(kind: Kind, dictionary: bool) -> None:
    """A gigabyte, once its rows are read; by its footer, 60 kB."""
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 16_384), ["x" * 60_000])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": range(16_384), "v": long}), buffer, store_schema=dictionary)
    whole = buffer.getvalue()
    assert len(whole) < 200_000
    target = [Column("id", "BIGINT"), Column("v", "TEXT", nullable=False)]  # so that a full load's is looked through
    with Held() as held:
        if kind is Kind.CHANGE:
            with pytest.raises(TooLargeError):
                read(whole, table(), kind=kind, target=target)
        else:
            assert read(whole, table(), kind=kind, target=target).rows is None
    assert held.peak_bytes < 100_000_000


def test_want_of_memory_is_not_laid_on_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    for where in ("iter_batches", "__init__"):
        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetFile, where, fail)
            with pytest.raises(MemoryError):
                read(body(id=[1]), table())
            with pytest.raises(MemoryError):
                read(body(id=[1]), table(), kind=Kind.FULL)


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_what_looking_through_a_refused_full_load_needs_is_bounded(use_dictionary: bool) -> None:
    """Of 200 MB of text in one row group, 100 kB in each row, a few batches and a page are held at once."""
    texts = [str(number) * (100_000 // len(str(number))) for number in range(8)]
    long = pa.DictionaryArray.from_arrays(pa.array([number % 8 for number in range(2000)]), texts)
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"id": range(2000), "v": long.cast(pa.string())}),
        buffer,
        use_dictionary=use_dictionary,
        write_batch_size=16,
    )
    whole = buffer.getvalue()
    with Held() as held:
        assert explained(whole) == ""
    assert held.peak_bytes < 60_000_000


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


@pytest.mark.parametrize(
    ("column", "target", "told"),
    [
        (pa.array([0] * 20_000 + [3_000_000], pa.date32()), "DATE", "row 20001 holds a time outside"),
        (pa.array([0] * 20_000 + [-(2**62)], pa.timestamp("us")), "TIMESTAMP", "row 20001 holds a time outside"),
        (pa.array([0] * 20_000 + [2**62], pa.timestamp("us")), "TIMESTAMPTZ", "row 20001 holds a time outside"),
        (pa.array(["a"] * 20_000 + ["b\0"]).dictionary_encode(), "TEXT", "row 20001 holds a character zero"),
    ],
)
def test_what_firebolt_cannot_hold_is_named_by_its_row_in_the_file(column: pa.Array, target: str, told: str) -> None:
    """Also past the first batch, and of the first three in a column of the target's own type."""
    columns = [Column("id", "BIGINT"), Column("at", target)]
    kind = Kind.CHANGE if target == "TEXT" else Kind.FULL
    with pytest.raises(PermanentError, match=told):
        read(body(id=range(20_001), at=column), table(), kind=kind, target=columns)


def peak_of_a_full_load(rows: int) -> int:
    """The most that pyarrow holds while a full-load file of two columns is looked through, one of them cast."""
    file = grouped(rows, 2000, amount=pa.array(range(rows), pa.int32()))
    target = (Column("id", "BIGINT"), Column("amount", "NUMERIC(12, 0)"))
    with Held() as held:
        assert read(file, table(), kind=Kind.FULL, target=target).rows is None
    return held.peak_bytes


def test_what_a_full_load_needs_does_not_grow_with_it() -> None:
    assert peak_of_a_full_load(200_000) < 2 * peak_of_a_full_load(10_000)


def test_what_is_fetched_of_a_full_loads_column_is_not_kept() -> None:
    """pyarrow's own default is to fetch a column of all row groups before the first row is read."""
    size = PREFETCH_BYTES // 1000 + 1
    file = grouped(1000, 20, note=[random.Random(n).randbytes(size) for n in range(1000)])
    assert len(file) > PREFETCH_BYTES, "a smaller object is fetched whole"
    tracemalloc.start()
    try:
        read(file, table(), kind=Kind.FULL, target=(Column("id", "BIGINT"), Column("note", "BYTEA", nullable=False)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(file) / 4


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


wide = st.integers(0, 10**38 - 1)


@given(st.lists(st.tuples(wide, wide), min_size=1, max_size=6))
def test_several_numbers_order_one_after_another(values: list[tuple[int, int]]) -> None:
    """Text order of the sequences is the order of (first column, second column, position)."""
    log = table(mode="append", primary_key=[], **NUMBERS)
    firsts, seconds = ([str(v) for v in column] for column in zip(*values, strict=True))
    rows = staged([read(body(a=firsts, b=seconds), log)], log)
    found = [(int(r["a"]), int(r["b"])) for r in sorted(rows, key=lambda r: r["_cdc_seq"])]
    assert found == sorted(values)


@given(st.lists(st.integers(0, 2**63 // 1000), min_size=1, max_size=6))
def test_timestamps_order_as_times(micros: list[int]) -> None:
    log = table(mode="append", primary_key=[], **TIME)
    rows = staged([read(body(at=pa.array(micros, pa.timestamp("us"))), log)], log)
    ordered = [r["at"] for r in sorted(rows, key=lambda r: r["_cdc_seq"])]
    assert ordered == sorted(ordered)


def test_of_a_binlogs_name_the_number_counts() -> None:
    by_log = table(order={"by": "number", "columns": ["__source_file", "__source_pos"]})
    files = ["mysql-bin.000010", "mysql-bin.000009", "db1.bin.1000000"]
    rows = body(id=[1, 1, 2], v=[1, 2, 3], __source_file=files, __source_pos=[4, 900, 1])
    assert [r["v"] for r in staged([read(rows, by_log)], by_log)] == [1, 3]


DEBEZIUM: dict[str, Any] = {"op": {"column": "__op", "insert": ["c", "r"], "update": ["u"], "delete": ["d"]}}
GONE: dict[str, Any] = {"delete_marker": {"column": "gone", "values": ["1"]}}
NUMBER: dict[str, Any] = {"order": {"by": "number", "column": "n"}}
NUMBERS: dict[str, Any] = {"order": {"by": "number", "columns": ["a", "b"]}}
TIME: dict[str, Any] = {"order": {"by": "timestamp", "column": "at"}}


@pytest.mark.parametrize(
    ("columns", "settings", "complaint"),
    [
        ({"__op": ["c", "t"], "id": [1, 1]}, DEBEZIUM, "row 2 has the operation 't', expected one of c, r, u, d"),
        ({"__op": ["c", None], "id": [1, 1]}, DEBEZIUM, "row 2 has the operation None"),
        ({"__op": ["C"], "id": [1]}, DEBEZIUM, "row 1 has the operation 'C'"),
        ({"Op": ["I"], "id": [1]}, DEBEZIUM, "the operation column '__op' is not in the file"),
        ({"id": [1]}, GONE, "delete marker 'gone' is not in the file"),
        ({"id": [1], "gone": [b"1"]}, GONE, "expected text, a boolean"),
        ({"id": [1, 1], "n": [0, -1]}, NUMBER, "row 2 has '-1' in the order column"),
        ({"id": [1], "n": [1.0]}, NUMBER, "has the type double"),
        ({"id": [1], "n": ["a7"]}, NUMBER, "row 1 has 'a7'"),
        ({"id": [1], "n": ["x.7"]}, {"order": {"by": "change_seq", "column": "n"}}, "row 1 has 'x.7'"),
        ({"id": [1], "n": ["9" * 39]}, NUMBER, "up to 38 digits"),
        ({"id": [1, 1], "a": [1, 1], "b": [1, None]}, NUMBERS, "row 2 has no value in the order column 'b'"),
        ({"id": [1, 1], "at": ["2024-01-01", "1969-12-31"]}, TIME, "row 2 has a time before 1970"),
        ({"Op": ["I", "U"], "id": [1, 1]}, {"before_image": {}}, "before-image column 'BI_id' is not in the file"),
    ],
)  # fmt: skip
def test_sources_that_break_their_word_fail_with_row_and_reason(
    columns: dict[str, Any], settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(PermanentError, match=complaint):
        read(body(**columns), table(**settings))


def test_operations_of_another_vocabulary() -> None:
    by_number = table(
        mode="append", primary_key=[], op={"column": "op", "insert": ["2"], "update": ["4"], "delete": ["1"]}
    )
    rows = staged([read(body(op=[1, 2, 4], id=[1, 2, 3]), by_number)], by_number)
    assert [(r["id"], r["_cdc_op"]) for r in rows] == [(1, "D"), (2, "I"), (3, "U")]
    assert "op" not in rows[0], "what a row does is no data"


@pytest.mark.parametrize(
    ("marks", "values"),
    [
        (["true", "false", None], ["true"]),
        ([True, False, None], ["true"]),
        ([1, 0, None], ["1"]),
        ([2.5, 0.0, None], ["9", "2.5"]),
        (pa.array(["y", "n", None]).dictionary_encode(), ["y"]),
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_a_delete_marker_of_any_type(marks: Any, values: list[str], keep: bool) -> None:
    marked = table(delete_marker={"column": "gone", "values": values, "keep": keep})
    rows = staged([read(body(id=[1, 2, 3], gone=marks), marked)], marked)
    assert [(r["id"], r["_cdc_op"]) for r in rows] == [(1, "D"), (2, "I"), (3, "I")]
    assert ("gone" in rows[0]) is keep


def test_a_full_load_with_deleted_rows_is_rewritten_and_one_without_is_left_to_the_engine() -> None:
    marked = table(**GONE)
    [one, two] = staged([read(body(id=[1, 2], gone=[0, 1]), marked, kind=Kind.FULL)], marked)
    assert ((one["_cdc_op"], one["_cdc_seq"][:2]), (two["_cdc_op"], two["_cdc_seq"][:2])) == (("I", "0|"), ("D", "0|"))
    assert read(body(id=[1, 2], gone=[0, 0]), marked, kind=Kind.FULL).rows is None
    assert read(body(id=[1, 2]), marked, kind=Kind.FULL).rows is None, "a snapshot need not have the column"


Move = tuple[str, int, int | None, int]
"""Operation, key, former key, value."""


@st.composite
def histories(draw: st.DrawFn) -> list[Move]:
    """What a source does to keys 0 to 3, one change after another; never two rows under one key."""
    held: set[int] = set()
    rows: list[Move] = []
    for value in range(draw(st.integers(1, 14))):
        free = sorted(set(range(4)) - held)
        kinds = ["I"] * bool(free) + ["U", "D"] * bool(held) + ["move"] * 3 * bool(free and held)
        kind = draw(st.sampled_from(kinds))
        former = draw(st.sampled_from(sorted(held))) if kind != "I" else None
        key = draw(st.sampled_from(free)) if kind in ("I", "move") else former
        assert key is not None
        held = (held - {former}) | ({key} if kind != "D" else set())
        rows.append(("U" if kind == "move" else kind, key, former if kind in ("U", "move") else None, value))
    return rows


def applied(batches: Sequence[list[dict[str, Any]]]) -> dict[int, int]:
    """What the MERGE does with staged rows, batch after batch: value by key."""
    live: dict[int, tuple[str, int]] = {}
    buried: dict[int, str] = {}
    for rows in batches:
        for row in rows:
            key, seq = row["id"], row["_cdc_seq"]
            if seq > max(live.get(key, ("", 0))[0], buried.get(key, "")):
                if row["_cdc_op"] == "D":
                    live.pop(key, None)
                else:
                    live[key] = (seq, row["v"])
            if row["_cdc_op"] == "D":
                buried[key] = max(seq, buried.get(key, ""))
    return {key: value for key, (_, value) in live.items()}


@settings(max_examples=60)
@given(histories(), st.lists(st.integers(0, 14), min_size=3, max_size=3))
@pytest.mark.parametrize("ignores", [False, True], ids=["hard", "ignore"])
def test_moved_keys_end_as_in_the_source_whatever_the_order_of_files_and_batches(
    ignores: bool, history: list[Move], cuts: list[int]
) -> None:
    images = table(before_image={}, deletes="ignore" if ignores else "hard")
    expected: dict[int, int] = {}
    for op, key, former, value in history:
        if former is not None:
            expected.pop(former)
        if op != "D":
            expected[key] = value
        elif not ignores:
            expected.pop(key)
    ends = [0, *sorted(min(cut, len(history)) for cut in cuts), len(history)]
    files = []
    for stamp, (start, end) in enumerate(itertools.pairwise(ends), 1):
        ops, ids, formers, values = zip(*history[start:end], strict=True) if start < end else ((), (), (), ())
        whole = pa.int64()
        columns = {"Op": pa.array(ops, pa.string()), "id": pa.array(ids, whole), "v": pa.array(values, whole)}
        files.append(
            read(body(**columns, BI_id=pa.array(formers, whole), BI_v=pa.nulls(len(ops), whole)), images, stamp)
        )
    singly = [staged([file], images) for file in files]
    for order in itertools.permutations(range(4)):
        assert applied([singly[n] for n in (*order, order[0], order[1])]) == expected
    for size in (2, 3, 4):
        for batch in itertools.combinations(range(4), size):
            rest = [singly[n] for n in range(4) if n not in batch]
            together = staged([files[n] for n in reversed(batch)], images)
            assert applied([together, *rest]) == applied([*rest, together]) == expected


def test_counts_add_up_with_moved_keys() -> None:
    images = table(before_image={})
    moves = read(body(Op=["U", "U", "I", "D"], id=[2, 3, 1, 9], v=[1, 2, 3, 4], BI_id=[1, 2, None, None]), images)
    body_, counts = stage([moves], images)
    [count] = counts.values()
    assert pq.read_metadata(io.BytesIO(body_)).num_rows == 4
    assert (count.rows_read, count.rows_moved, count.rows_upserted, count.rows_deleted) == (4, 2, 2, 2)
    collapsed = 2  # row 1's delete under its insert, row 2's upsert under its delete
    assert count.rows_read + count.rows_moved == count.rows_upserted + count.rows_deleted + collapsed


def test_the_delete_of_an_old_key_sorts_just_before_its_row_and_after_all_that_came_earlier() -> None:
    images = table(before_image={})
    earlier = read(body(Op=["I"], id=[9], BI_id=pa.nulls(1, pa.int64())), images, 1)
    moving = read(body(Op=["U", "I", "U"], id=[2, 8, 4], BI_id=[1, None, 3]), images, 2)
    rows = sorted(staged([moving, earlier], images), key=lambda r: r["_cdc_seq"])
    assert [(r["id"], r["_cdc_op"]) for r in rows] == [(9, "I"), (1, "D"), (2, "U"), (8, "I"), (3, "D"), (4, "U")]
    assert len({r["_cdc_seq"] for r in rows}) == len(rows)


def test_before_images_of_a_composite_key() -> None:
    images = table(primary_key=["a", "b"], before_image={"prefix": "", "suffix": "_old"})
    rows = body(Op=["U", "U", "U"], a=[1, 1, 2], b=["x", "y", "z"], a_old=[1, None, 1], b_old=["w", None, "z"])
    found = sorted((r["a"], r["b"], r["_cdc_op"]) for r in staged([read(rows, images)], images))
    assert found == [(1, "w", "D"), (1, "x", "U"), (1, "y", "U"), (1, "z", "D"), (2, "z", "U")]
    half = body(Op=["U", "U"], a=[1, 1], b=["x", "y"], a_old=[1, 1], b_old=["w", None])
    with pytest.raises(PermanentError, match="row 2 has only a part of its former primary key"):
        read(half, images)


@pytest.mark.parametrize(("deletes", "expected"), [("hard", {1: "D", 2: "D"}), ("ignore", {})])
def test_a_row_that_is_marked_deleted_while_its_key_changes(deletes: str, expected: dict[int, str]) -> None:
    both = table(before_image={}, delete_marker={"column": "gone", "values": ["true"]}, deletes=deletes)
    rows = staged([read(body(Op=["U"], id=[2], v=[1], gone=[True], BI_id=[1]), both)], both)
    assert {r["id"]: r["_cdc_op"] for r in rows} == expected


def test_a_file_without_updates_needs_no_before_images() -> None:
    images = table(before_image={})
    rows = staged([read(body(Op=["I", "D"], id=[1, 2], v=[1, 2]), images)], images)
    assert [(r["id"], r["_cdc_op"]) for r in rows] == [(1, "I"), (2, "D")]
