"""Types: every mapping of the table in `schema`, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from firebolt_cdc.config import Drift
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.schema import Column, arrow_type, canonical, cast, firebolt_type, plan_columns, wider
from firebolt_cdc.sql import ident

MAPPING: list[tuple[pa.DataType, str]] = [
    (pa.int8(), "INTEGER"), (pa.int16(), "INTEGER"), (pa.int32(), "INTEGER"), (pa.int64(), "BIGINT"),
    (pa.uint8(), "INTEGER"), (pa.uint16(), "INTEGER"), (pa.uint32(), "BIGINT"), (pa.uint64(), "NUMERIC(20, 0)"),
    (pa.float32(), "REAL"), (pa.float64(), "DOUBLE PRECISION"), (pa.decimal128(38, 10), "NUMERIC(38, 10)"),
    (pa.decimal128(10, 2), "NUMERIC(10, 2)"), (pa.bool_(), "BOOLEAN"), (pa.date32(), "DATE"), (pa.date64(), "DATE"),
    (pa.timestamp("us"), "TIMESTAMP"), (pa.timestamp("ms"), "TIMESTAMP"), (pa.timestamp("us", "UTC"), "TIMESTAMPTZ"),
    (pa.time32("ms"), "TEXT"), (pa.time64("us"), "TEXT"), (pa.string(), "TEXT"), (pa.large_string(), "TEXT"),
    (pa.binary(), "BYTEA"), (pa.list_(pa.int64()), "ARRAY(BIGINT)"), (pa.dictionary(pa.int8(), pa.string()), "TEXT"),
]  # fmt: skip


@pytest.mark.parametrize(("arrow", "firebolt"), MAPPING, ids=str)
def test_each_arrow_type_has_its_firebolt_type(arrow: pa.DataType, firebolt: str) -> None:
    assert firebolt_type(arrow) == firebolt
    assert canonical(firebolt) == firebolt
    assert arrow_type(firebolt) is not None


@pytest.mark.parametrize(
    "arrow", [pa.decimal256(39, 0), pa.struct([("a", pa.int8())]), pa.map_(pa.string(), pa.int8())], ids=str
)
def test_types_that_firebolt_cannot_hold(arrow: pa.DataType) -> None:
    assert firebolt_type(arrow) is None


@pytest.mark.parametrize(
    ("spelling", "one"),
    [("numeric(10,2)", "NUMERIC(10, 2)"), ("Decimal(38, 9) null", "NUMERIC(38, 9)"), ("long", "BIGINT"),
     ("int", "INTEGER"), ("double", "DOUBLE PRECISION"), ("timestampntz", "TIMESTAMP"), ("array(text)", "ARRAY(TEXT)"),
     ("pgdate", "DATE")],
)  # fmt: skip
def test_spellings(spelling: str, one: str) -> None:
    assert canonical(spelling) == one


def values(arrow: pa.DataType, *items: Any) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(items, arrow)])


@pytest.mark.parametrize(
    ("have", "item", "want", "result"),
    [
        (pa.int8(), -128, "BIGINT", -128),
        (pa.uint64(), 2**64 - 1, "NUMERIC(20, 0)", Decimal(2**64 - 1)),
        (pa.int64(), 7, "INTEGER", 7),
        (pa.int32(), 7, "NUMERIC(10, 2)", Decimal("7.00")),
        (pa.decimal128(38, 10), Decimal("1.5"), "NUMERIC(10, 2)", Decimal("1.50")),
        (pa.decimal128(10, 0), Decimal(7), "BIGINT", 7),
        (pa.float32(), 1.5, "DOUBLE PRECISION", 1.5),
        (pa.float64(), 1.5, "REAL", 1.5),
        (pa.date32(), date(2024, 1, 2), "TIMESTAMP", datetime(2024, 1, 2)),
        (pa.timestamp("ms"), datetime(2024, 1, 2, 3), "TIMESTAMP", datetime(2024, 1, 2, 3)),
        (pa.timestamp("us", "UTC"), datetime(2024, 1, 2, 3, tzinfo=UTC), "TIMESTAMP", datetime(2024, 1, 2, 3)),
        (pa.timestamp("us"), datetime(2024, 1, 2, 3), "TIMESTAMPTZ", datetime(2024, 1, 2, 3, tzinfo=UTC)),
        (pa.time32("ms"), time(1, 2, 3), "TEXT", "01:02:03.000000"),
        (pa.int64(), 12, "TEXT", "12"),
        (pa.null(), None, "BIGINT", None),
    ],
)  # fmt: skip
def test_values_that_fit_keep_every_digit(have: pa.DataType, item: Any, want: str, result: Any) -> None:
    assert cast("f", "c", values(have, item, None), Column("c", want), "t").to_pylist() == [result, None]


@pytest.mark.parametrize("make", [pa.decimal32, pa.decimal64, pa.decimal128, pa.decimal256])
@pytest.mark.parametrize("scale", [0, 2, 6, 7, 8, 9])
def test_decimals_become_text_with_all_their_digits(make: Callable[[int, int], pa.DataType], scale: int) -> None:
    numbers = [Decimal(n).scaleb(-scale) for n in (0, 1, -1, 12, -100, 999_999_999, -999_999_999)]
    texts = [f"{number:.{scale}f}" for number in numbers]
    found = cast("f", "c", values(make(9, scale), *numbers, None)[1:], Column("c", "TEXT"), "t")
    assert found.to_pylist() == [*texts[1:], None]
    listed = values(pa.list_(pa.list_(make(9, scale))), [numbers[:1]], None, [numbers[1:3], None, []], [], [numbers])
    assert cast("f", "c", listed[1:], Column("c", "ARRAY(ARRAY(TEXT))"), "t").to_pylist() == [
        None,
        [texts[1:3], None, []],
        [],
        [texts],
    ]
    assert cast("f", "c", values(make(9, scale))[:0], Column("c", "TEXT"), "t").to_pylist() == []


@pytest.mark.parametrize(
    ("have", "item", "want"),
    [
        (pa.int64(), 2**31, "INTEGER"),
        (pa.decimal128(10, 3), Decimal("1.005"), "NUMERIC(10, 2)"),
        (pa.decimal128(38, 0), Decimal(10**12), "NUMERIC(10, 0)"),
        (pa.int64(), 10**8, "NUMERIC(10, 2)"),
        (pa.float64(), 0.1, "REAL"),
        (pa.list_(pa.float64()), [0.1], "ARRAY(REAL)"),
        (pa.float64(), 1.0, "BIGINT"),
        (pa.string(), "7", "BIGINT"),
        (pa.string(), "2024-01-01", "DATE"),
        (pa.bool_(), True, "INTEGER"),
        (pa.binary(), b"x", "TEXT"),
        (pa.binary(1), b"x", "TEXT"),
        (pa.timestamp("ns"), 1, "TIMESTAMP"),
        (pa.int64(), 1, "GEOGRAPHY"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_fail_with_column_and_types(have: pa.DataType, item: Any, want: str) -> None:
    with pytest.raises(PermanentError) as caught:
        cast("s3://b/k", "amount", values(have, item), Column("Amount", want), "t")
    for part in ("s3://b/k", "'Amount'", want):
        assert part in str(caught.value)


SOURCE = pa.schema([("Op", pa.string()), ("ID", pa.int64()), ("new", pa.string())])
TARGET = (Column("id", "BIGINT"), Column("gone", "TEXT"))


def test_names_match_without_case_and_new_columns_are_added() -> None:
    plan = plan_columns("f", SOURCE, TARGET, Drift.ADD, ["Op"], "t")
    assert plan.mapped == {"ID": Column("id", "BIGINT"), "new": Column("new", "TEXT")}
    assert plan.added == (Column("new", "TEXT"),)


def test_drift_policies() -> None:
    with pytest.raises(PermanentError, match='run: ALTER TABLE "t" ADD COLUMN IF NOT EXISTS "new" TEXT NULL;'):
        plan_columns("f", SOURCE, TARGET, Drift.FAIL, ["Op"], "t")
    plan = plan_columns("f", SOURCE, TARGET, Drift.IGNORE, ["Op"], "t")
    assert (set(plan.mapped), plan.ignored) == ({"ID"}, {"new": "TEXT"})


@pytest.mark.parametrize("name", ["_cdc_seq", "_cdc_op", "_cdc_file", "_cdc_deleted"])
def test_our_own_column_names_are_refused(name: str) -> None:
    with pytest.raises(PermanentError, match="reserved"):
        plan_columns("f", pa.schema([(name, pa.string())]), TARGET, Drift.ADD, [], "t")


def test_two_columns_for_one_target_are_refused() -> None:
    with pytest.raises(PermanentError, match="two columns"):
        plan_columns("f", pa.schema([("ID", pa.int64()), ("Id", pa.int64())]), TARGET, Drift.ADD, [], "t")


def test_a_column_of_no_firebolt_type_is_refused_not_dropped() -> None:
    with pytest.raises(PermanentError, match="cannot hold"):
        plan_columns("f", pa.schema([("s", pa.struct([("a", pa.int8())]))]), TARGET, Drift.ADD, [], "t")


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "a\\", '\\"; DROP TABLE t; --'])
def test_names_that_cannot_be_quoted_are_refused(name: str) -> None:
    with pytest.raises(PermanentError, match="cannot be the name"):
        ident(name)


def test_other_names_stay_within_their_quotes() -> None:
    assert ident('a"; DROP TABLE t; --') == '"a""; DROP TABLE t; --"'
    assert ident("a\\b") == '"a\\b"'


WIDER = [
    ("INTEGER", "BIGINT", "BIGINT"), ("BIGINT", "NUMERIC(10, 2)", "NUMERIC(21, 2)"),
    ("NUMERIC(12, 3)", "NUMERIC(10, 2)", "NUMERIC(12, 3)"), ("NUMERIC(38, 0)", "NUMERIC(38, 10)", None),
    ("INTEGER", "NUMERIC(12, 0)", "BIGINT"), ("NUMERIC(20, 0)", "BIGINT", "NUMERIC(20, 0)"),
    ("REAL", "DOUBLE PRECISION", "DOUBLE PRECISION"), ("BIGINT", "DOUBLE PRECISION", None),
    ("DATE", "TIMESTAMP", "TIMESTAMP"), ("DATE", "TIMESTAMPTZ", "TIMESTAMPTZ"), ("TEXT", "DATE", "TEXT"),
    ("TEXT", "BYTEA", None), ("BOOLEAN", "INTEGER", None), ("ARRAY(TEXT)", "TEXT", None),
    ("NUMERIC(10, 2)", "TEXT", "TEXT"), ("TIMESTAMP", "TIMESTAMP", "TIMESTAMP"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "both"), WIDER)
def test_the_type_that_holds_the_values_of_two(one: str, other: str, both: str | None) -> None:
    assert wider(one, other) == wider(other, one) == both


def test_what_firebolt_cannot_hold_is_left_out_by_policy_even_when_the_target_is_to_be_created() -> None:
    source = pa.schema([("id", pa.int64()), ("s", pa.struct([("a", pa.int8())]))])
    plan = plan_columns("f", source, (), Drift.IGNORE, [], "t")
    assert (set(plan.mapped), set(plan.ignored)) == ({"id"}, {"s"})
