"""Parquet columns and Firebolt columns: how types map, what fits, and what a difference between the two means.

Types follow Firebolt's "Data types" page and what DMS writes (AWS DMS guide, "Using Amazon S3 as a target").

| Arrow (Parquet)                         | Firebolt           | note                                        |
| --------------------------------------- | ------------------ | ------------------------------------------- |
| int8, int16, int32, uint8, uint16       | INTEGER            |                                             |
| int64, uint32                           | BIGINT             |                                             |
| uint64                                  | NUMERIC(20, 0)     | exceeds BIGINT                              |
| half_float, float                       | REAL               |                                             |
| double                                  | DOUBLE PRECISION   |                                             |
| decimal(p, s), p <= 38                  | NUMERIC(p, s)      | more digits fail the file                   |
| bool                                    | BOOLEAN            |                                             |
| date32, date64                          | DATE               |                                             |
| timestamp without zone                  | TIMESTAMP          | microseconds; finer digits fail the file    |
| timestamp with zone                     | TIMESTAMPTZ        |                                             |
| time32, time64                          | TEXT               | HH:MM:SS.ffffff; Firebolt has no TIME       |
| string                                  | TEXT               |                                             |
| binary                                  | BYTEA              |                                             |
| list of one of the above                | ARRAY(…)           |                                             |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from firebolt_cdc.config import Drift
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.sql import ident

SEQ, DELETED, OP, FILE = "_cdc_seq", "_cdc_deleted", "_cdc_op", "_cdc_file"
RESERVED = frozenset({SEQ, DELETED, OP, FILE})
"""Columns of our own; a source column of such a name fails the file."""

_SIMPLE: dict[str, pa.DataType] = {
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "REAL": pa.float32(),
    "DOUBLE PRECISION": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
    "TEXT": pa.string(),
    "BYTEA": pa.binary(),
}
_DAYS = (-719_162, 2_932_896)
"""0001-01-01 and 9999-12-31, from 1970."""
_MICROSECONDS = (_DAYS[0] * 86_400_000_000, (_DAYS[1] + 1) * 86_400_000_000 - 1)
_SPELLINGS = {
    "INT": "INTEGER", "INT4": "INTEGER", "LONG": "BIGINT", "INT8": "BIGINT", "FLOAT": "REAL", "FLOAT4": "REAL",
    "DOUBLE": "DOUBLE PRECISION", "FLOAT8": "DOUBLE PRECISION", "BOOL": "BOOLEAN", "STRING": "TEXT", "VARCHAR": "TEXT",
    "PGDATE": "DATE", "TIMESTAMPNTZ": "TIMESTAMP", "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ",
}  # fmt: skip
_NUMERIC = re.compile(r"(?:NUMERIC|DECIMAL)\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)$")
_ARRAY = re.compile(r"ARRAY\s*\((.*)\)$")


@dataclass(frozen=True)
class Column:
    """A column of a Firebolt table; `type` in the spelling of the table above."""

    name: str
    type: str
    nullable: bool = True


@dataclass(frozen=True)
class ColumnPlan:
    """How the columns of a file meet those of its target."""

    mapped: dict[str, Column]
    """Target column by the file's column name."""
    added: tuple[Column, ...]
    """Columns that the load's transaction adds to the target."""
    ignored: tuple[str, ...]
    """Columns of the file that are left out because the policy says so; announced, never silent."""


def canonical(data_type: str) -> str:
    """Firebolt's spellings of one type, brought to one (`numeric(10,2) null` -> `NUMERIC(10, 2)`)."""
    text = re.sub(r"\s+NULL$", "", " ".join(data_type.upper().split()))
    if match := _NUMERIC.match(text):
        return f"NUMERIC({int(match[1])}, {int(match[2] or 0)})"
    if match := _ARRAY.match(text):
        return f"ARRAY({canonical(match[1])})"
    return _SPELLINGS.get(text, text)


def firebolt_type(arrow: pa.DataType) -> str | None:
    """The Firebolt type that holds every value of an Arrow type; None where there is none."""
    is_ = pa.types
    if is_.is_uint64(arrow):
        return "NUMERIC(20, 0)"
    if is_.is_int64(arrow) or is_.is_uint32(arrow):
        return "BIGINT"
    if is_.is_integer(arrow):
        return "INTEGER"
    if is_.is_float64(arrow):
        return "DOUBLE PRECISION"
    if is_.is_floating(arrow):
        return "REAL"
    if is_.is_decimal(arrow):
        return f"NUMERIC({arrow.precision}, {arrow.scale})" if arrow.precision <= 38 and arrow.scale >= 0 else None
    if is_.is_boolean(arrow):
        return "BOOLEAN"
    if is_.is_date(arrow):
        return "DATE"
    if is_.is_timestamp(arrow):
        return "TIMESTAMPTZ" if arrow.tz else "TIMESTAMP"
    if is_.is_time(arrow) or is_.is_string(arrow) or is_.is_large_string(arrow):
        return "TEXT"
    if is_.is_binary(arrow) or is_.is_large_binary(arrow) or is_.is_fixed_size_binary(arrow):
        return "BYTEA"
    if is_.is_list(arrow) or is_.is_large_list(arrow):
        inner = firebolt_type(arrow.value_type)
        return f"ARRAY({inner})" if inner else None
    if is_.is_dictionary(arrow):
        return firebolt_type(arrow.value_type)
    return "TEXT" if is_.is_null(arrow) else None


def arrow_type(data_type: str) -> pa.DataType | None:
    """The Arrow type that Firebolt reads back as `data_type`; None for types that no file is cast to."""
    name = canonical(data_type)
    if match := _NUMERIC.match(name):
        return pa.decimal128(int(match[1]), int(match[2] or 0))
    if match := _ARRAY.match(name):
        inner = arrow_type(match[1])
        return pa.list_(inner) if inner is not None else None
    return _SIMPLE.get(name)


def plan_columns(
    file: str, source: pa.Schema, target: Sequence[Column], policy: Drift, control: Sequence[str]
) -> ColumnPlan:
    """Hold a file's columns against the target's.

    Names match exactly, or else without regard to case where that is unambiguous.

    Args:
        file: names the file in errors.
        source: the file's schema.
        target: the target's columns; empty where it does not exist yet.
        policy: what to do with a column that the target lacks.
        control: the file's columns that are no data (`Op`).

    Raises:
        PermanentError: a column has no Firebolt type, a reserved or doubled name, or the policy is `fail`.
    """
    exact = {column.name: column for column in target}
    folded: dict[str, list[Column]] = {}
    for column in target:
        folded.setdefault(column.name.lower(), []).append(column)
    mapped: dict[str, Column] = {}
    added: list[Column] = []
    ignored: list[str] = []
    for field in source:
        if field.name in control:
            continue
        if field.name in RESERVED:
            raise PermanentError(f"{file}: the column name {field.name!r} is reserved; rename it in the DMS task")
        try:
            ident(field.name)
        except PermanentError as error:
            raise PermanentError(f"{file}: {error}; rename the column in the DMS task") from error
        known = exact.get(field.name)
        near = folded.get(field.name.lower(), [])
        if known is None and len(near) == 1 and source.get_field_index(near[0].name) < 0:
            known = near[0]
        if known is None:
            type_ = firebolt_type(field.type)
            if policy is Drift.IGNORE and (target or type_ is None):
                ignored.append(field.name)
                continue
            if type_ is None:
                raise PermanentError(
                    f"{file}: the column {field.name!r} has the type {field.type}, which Firebolt "
                    'cannot hold; leave it out in the DMS task, or set schema_drift = "ignore"'
                )
            known = Column(field.name, type_)
            if target and policy is Drift.FAIL:
                raise PermanentError(
                    f"{file}: the target has no column {field.name!r} and schema_drift is fail; run: "
                    f'ALTER TABLE … ADD COLUMN "{field.name}" {type_}'
                )
            added.append(known)
        if any(other.name == known.name for other in mapped.values()):
            raise PermanentError(f"{file}: two columns of the file mean the target's {known.name!r}")
        mapped[field.name] = known
    return ColumnPlan(mapped, tuple(added), tuple(ignored))


def cast(file: str, name: str, values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """Cast a file's column to its target's type without losing a digit.

    Raises:
        PermanentError: a value does not fit. The message names column, types, and what pyarrow says.
    """
    wanted = arrow_type(column.type)
    if wanted is None:
        raise PermanentError(
            f"{file}: the target's column {column.name!r} has the type {column.type}, which files cannot be loaded into"
        )
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    problem = (
        f"{file}: the column {name!r} of type {values.type} does not fit the target's {column.name!r} {column.type}"
    )
    if values.type == wanted:
        _require_holdable(problem, values)
        return values
    if not _compatible(values.type, wanted):
        raise PermanentError(
            f"{problem}: change the target's type (a new column or table) and run `firebolt-cdc retry`"
        )
    try:
        if pa.types.is_string(wanted) and pa.types.is_time(values.type):
            values = values.cast(pa.time64("us"))
        if pa.types.is_decimal(wanted) and pa.types.is_integer(values.type):
            values = values.cast(pa.decimal128(20, 0))  # pyarrow refuses the direct cast by type, not by value
        result = values.cast(wanted, safe=True)
        items, kept = values, result
        while pa.types.is_list(kept.type):
            items, kept = pc.list_flatten(items), pc.list_flatten(kept)
        if pa.types.is_float32(kept.type) and pa.types.is_float64(items.type):
            same = pc.equal(kept.cast(pa.float64()), items)
            if not pc.all(pc.or_kleene(same, pc.is_nan(items)), skip_nulls=True).as_py():
                raise PermanentError(f"{problem}: a value needs more digits than REAL has")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise PermanentError(f"{problem}: {error}") from error
    _require_holdable(problem, result)
    return result


def _require_holdable(problem: str, values: pa.ChunkedArray) -> None:
    """TEXT holds no character zero, dates and times lie in the years 1 to 9999 (Firebolt's "Data types")."""
    if pa.types.is_string(values.type):
        bad, what = pc.match_substring(values, "\0"), "a character zero, which TEXT cannot hold"
    elif pa.types.is_date(values.type) or pa.types.is_timestamp(values.type):
        first, last = _DAYS if pa.types.is_date(values.type) else _MICROSECONDS
        early, late = pc.less(values, pa.scalar(first, values.type)), pc.greater(values, pa.scalar(last, values.type))
        bad, what = pc.or_(early, late), "a time outside the years 1 to 9999"
    else:
        return
    if pc.any(bad).as_py():
        raise PermanentError(f"{problem}: row {pc.index(bad, True).as_py() + 1} holds {what}")


def _compatible(have: Any, want: Any) -> bool:
    """Whether every value that fits keeps its meaning; text is never read as a number or a date."""
    is_: Any = pa.types
    if have == want or is_.is_null(have):
        return True
    if is_.is_string(want):
        stored = getattr(have, "storage_type", have)
        bytes_ = is_.is_binary(stored) or is_.is_large_binary(stored) or is_.is_fixed_size_binary(stored)
        return bool(not (bytes_ or is_.is_nested(have)))
    if is_.is_integer(want) or is_.is_decimal(want):
        return bool(is_.is_integer(have) or is_.is_decimal(have))
    if is_.is_floating(want):
        return bool(is_.is_floating(have) or is_.is_integer(have))
    if is_.is_timestamp(want):
        return bool(is_.is_timestamp(have) or is_.is_date(have))
    if is_.is_date(want):
        return bool(is_.is_date(have))
    if is_.is_binary(want):
        return bool(is_.is_large_binary(have) or is_.is_fixed_size_binary(have))
    if is_.is_list(want):
        return bool((is_.is_list(have) or is_.is_large_list(have)) and _compatible(have.value_type, want.value_type))
    return False
