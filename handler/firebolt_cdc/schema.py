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
from firebolt_cdc.errors import DriftError, PermanentError
from firebolt_cdc.sql import ident, idents

SEQ, DELETED, OP, FILE = "_cdc_seq", "_cdc_deleted", "_cdc_op", "_cdc_file"
RESERVED = frozenset({SEQ, DELETED, OP, FILE})
"""Columns of our own; a source column of such a name fails the file."""
CHANGE_LENGTH = 10_000
"""Characters of a `schema_change` in the ledger; a new table of some 300 columns fits."""

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
_PLAIN_SCALE = 6
"""Digits after the point up to which pyarrow prints a decimal without exponent."""
_DECIMALS = {32: pa.decimal32, 64: pa.decimal64, 128: pa.decimal128, 256: pa.decimal256}
TIMES = frozenset({"DATE", "TIMESTAMP", "TIMESTAMPTZ"})
"""Types of which a file of the same type can have values that Firebolt cannot hold (TEXT is the other one)."""
_CORRECT = "correct the value in the source, or leave the column out"
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
    default: str | None = None
    """The expression, as the engine spells it."""

    @property
    def must_be_given(self) -> bool:
        """Whether no row can be inserted without a value for it."""
        return not self.nullable and self.default is None


@dataclass(frozen=True)
class ColumnPlan:
    """How the columns of a file meet those of its target."""

    mapped: dict[str, Column]
    """Target column by the file's column name."""
    added: tuple[Column, ...]
    """Columns that the load's transaction adds to the target."""
    ignored: dict[str, str | None]
    """Firebolt type (None: there is none) of the columns of the file that are left out because the policy says so."""
    types: dict[str, str]
    """The file's own type of each of its columns, in Firebolt's spelling where it has one."""


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


def add_column(table: str, column: Column) -> str:
    """The DDL that gives a table a column."""
    return f"ALTER TABLE {ident(table)} ADD COLUMN IF NOT EXISTS {ident(column.name)} {column.type} NULL"


def said_added(column: Column, ddl: str) -> str:
    """A column that the target was given, in words for the ledger."""
    return f"added {ident(column.name)} {column.type} ({ddl})"


def differences(
    plan: ColumnPlan, table: str, columns: Sequence[Column], *, created: bool, inserts_only: bool = False
) -> list[str]:
    """What differs between a file and its target, and what the load does about it, in words for the ledger.

    Args:
        plan: the file's columns.
        table: the target.
        columns: the target's columns after the load's DDL.
        created: the load creates the target, so none of them is new to it.
        inserts_only: the load does not touch rows of other files (a full load), nor what they have in absent columns.
    """
    said = [] if created else [said_added(c, add_column(table, c)) for c in plan.added]
    for name, type_ in plan.ignored.items():
        if type_ is None:
            said.append(f"left out {ident(name)} {plan.types[name]} (schema_drift = ignore; Firebolt cannot hold it)")
        else:
            ddl = add_column(table, Column(name, type_))
            said.append(f"left out {ident(name)} {type_} (schema_drift = ignore; to keep it: {ddl})")
    present = {column.name for column in plan.mapped.values()} | RESERVED
    absent = [column for column in columns if column.name not in present]
    rows = "the rows that it inserts" if inserts_only else "the rows that it writes"
    for names, what in (
        ([c.name for c in absent if c.nullable], f"NULL in {rows}"),
        ([c.name for c in absent if not c.nullable], "NOT NULL: kept, the default in the rows that it inserts"),
    ):
        if names:
            said.append(f"absent from the file: {idents(names)} ({what})")
    for name, column in plan.mapped.items():
        if name != column.name:
            said.append(f"{ident(name)} means {ident(column.name)}")
        if plan.types[name] != column.type:
            said.append(f"{ident(name)} {plan.types[name]} cast to {column.type}")
    return said


def wider(one: str, other: str) -> str | None:
    """The type that holds every value of two; None where Firebolt has none."""
    if one == other:
        return one
    digits = {"INTEGER": (10, 0), "BIGINT": (19, 0)}
    for name in (one, other):
        if match := _NUMERIC.match(name):
            digits[name] = int(match[1]) - int(match[2] or 0), int(match[2] or 0)
    if one in digits and other in digits:
        whole, scale = (max(pair) for pair in zip(digits[one], digits[other], strict=True))
        if scale == 0 and whole <= 19:
            return "BIGINT"
        return f"NUMERIC({whole + scale}, {scale})" if whole + scale <= 38 else None
    pair = {one, other}
    if pair <= {"INTEGER", "REAL", "DOUBLE PRECISION"}:
        return "DOUBLE PRECISION"
    if pair <= {"DATE", "TIMESTAMP", "TIMESTAMPTZ"}:
        return "TIMESTAMPTZ" if "TIMESTAMPTZ" in pair else "TIMESTAMP"
    as_text = pair <= (_SIMPLE.keys() | digits.keys()) - {"BYTEA"}
    return "TEXT" if "TEXT" in pair and as_text else None


def _retype(table: str, column: Column, type_: str) -> str:
    """The DDL that gives a column another type; Firebolt has no ALTER COLUMN … TYPE."""
    old, new = ident(column.name), ident(f"{column.name}_new")
    return (
        f"ALTER TABLE {ident(table)} ADD COLUMN {new} {type_} NULL; "
        f"UPDATE {ident(table)} SET {new} = CAST({old} AS {type_}); "
        f"ALTER TABLE {ident(table)} DROP COLUMN {old}; "
        f"ALTER TABLE {ident(table)} RENAME COLUMN {new} TO {old}"
    )


def _misfit(
    file: str, table: str, name: str, have: str, column: Column, reason: str, way: str | None = None
) -> DriftError:
    """A column whose values do not fit, with the way out: `way`, where no other column would help."""
    what = f"the column {name!r} of type {have} does not fit the target's {column.name!r} {column.type}"
    type_ = wider(have, column.type)
    ddl = None if type_ in (None, column.type) or not column.nullable else _retype(table, column, str(type_))
    way = way or (
        f"run, in one transaction: {ddl}" if ddl else "load the table into a target that fits, or leave the column out"
    )
    return DriftError(file, table, column.name, f"{what}{reason and ': '}{reason}; {way}", ddl)


def plan_columns(
    file: str, source: pa.Schema, target: Sequence[Column], policy: Drift, control: Sequence[str], table: str
) -> ColumnPlan:
    """Hold a file's columns against the target's.

    Names match exactly, or else without regard to case where that is unambiguous.

    Args:
        file: names the file in errors.
        source: the file's schema.
        target: the target's columns; empty where it does not exist yet.
        policy: what to do with a column that the target lacks.
        control: the file's columns that are no data (`Op`).
        table: the target's name.

    Raises:
        PermanentError: a column has no Firebolt type, or a reserved or doubled name.
        DriftError: the target lacks columns and the policy is `fail`.
    """
    exact = {column.name: column for column in target}
    folded: dict[str, list[Column]] = {}
    for column in target:
        folded.setdefault(column.name.lower(), []).append(column)
    mapped: dict[str, Column] = {}
    added: list[Column] = []
    ignored: dict[str, str | None] = {}
    types: dict[str, str] = {}
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
        type_ = firebolt_type(field.type)
        types[field.name] = type_ or str(field.type)
        if known is not None and pa.types.is_null(field.type):
            types[field.name] = known.type
        if known is None:
            if policy is Drift.IGNORE and (target or type_ is None):
                ignored[field.name] = type_
                continue
            if type_ is None:
                raise PermanentError(
                    f"{file}: the column {field.name!r} has the type {field.type}, which Firebolt "
                    'cannot hold; leave it out in the DMS task, or set schema_drift = "ignore"'
                )
            known = Column(field.name, type_)
            added.append(known)
        if any(other.name == known.name for other in mapped.values()):
            raise PermanentError(f"{file}: two columns of the file mean the target's {known.name!r}")
        mapped[field.name] = known
    if target and added and policy is Drift.FAIL:
        names = ", ".join(f"{ident(c.name)} {c.type}" for c in added)
        ddl = "; ".join(add_column(table, c) for c in added)
        change = f"the target {table} has no {names}, and schema_drift is fail; run: {ddl}"
        raise DriftError(file, table, added[0].name, change, ddl)
    return ColumnPlan(mapped, tuple(added), ignored, types)


def cast(file: str, name: str, values: pa.ChunkedArray, column: Column, table: str, start: int = 0) -> pa.ChunkedArray:
    """Cast a file's column to the type that it has in the target `table`, without losing a digit.

    `start`: the rows of the file before these.

    Raises:
        DriftError: a value does not fit. The message names column, types, what pyarrow says, and the way out.
    """
    wanted = arrow_type(column.type)
    if wanted is None:
        raise PermanentError(
            f"{file}: the target's column {column.name!r} has the type {column.type}, which files cannot be loaded into"
        )
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    have = firebolt_type(values.type) or str(values.type)
    if values.type == wanted:
        if problem := _unholdable(values, start):
            raise _misfit(file, table, name, have, column, problem, _CORRECT)
        return values
    if not _compatible(values.type, wanted):
        raise _misfit(file, table, name, have, column, "")
    try:
        if pa.types.is_string(wanted) and pa.types.is_time(values.type):
            values = values.cast(pa.time64("us"))
        if pa.types.is_decimal32(values.type) or pa.types.is_decimal64(values.type):
            wide = pa.decimal128(values.type.precision, values.type.scale)
            values = values.cast(wide)  # pyarrow (26) holds a whole number's limits against its own width
        if "TEXT" in column.type:
            values = pa.chunked_array([_printed(chunk) for chunk in values.chunks] or [values.combine_chunks()])
        if pa.types.is_decimal(wanted) and pa.types.is_integer(values.type):
            values = values.cast(pa.decimal128(20, 0))  # pyarrow refuses the direct cast by type, not by value
        result = values.cast(wanted, safe=True)
        items, kept = values, result
        while pa.types.is_list(kept.type):
            items, kept = pc.list_flatten(items), pc.list_flatten(kept)
        if pa.types.is_float32(kept.type) and pa.types.is_float64(items.type):
            same = pc.equal(kept.cast(pa.float64()), items)
            if not pc.all(pc.or_kleene(same, pc.is_nan(items)), skip_nulls=True).as_py():
                raise _misfit(file, table, name, have, column, "a value needs more digits than REAL has")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _misfit(file, table, name, have, column, str(error)) from error
    if problem := _unholdable(result, start):
        raise _misfit(file, table, name, have, column, problem, _CORRECT)
    return result


def _printed(values: pa.Array) -> pa.Array:
    """Decimals, also those of an array, as text with all their digits, as the engine prints them.

    pyarrow prints them with an exponent where there are six zeros or more after the point (`1.000E-7`), so where that
    can be, the text is made from the number without its point.
    """
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        items = values.flatten()
        if (printed := _printed(items)) is items:
            return values
        lengths = pc.fill_null(pc.list_value_length(values), 0).cast(pa.int64())
        ends = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
        return pa.LargeListArray.from_arrays(ends, printed, mask=pc.is_null(values))
    if not pa.types.is_decimal(kind) or kind.scale <= _PLAIN_SCALE:
        return values
    whole = values.view(_DECIMALS[kind.bit_width](kind.precision, 0)).cast(pa.string())
    digits = pc.utf8_lpad(pc.utf8_ltrim(whole, "-"), kind.scale + 1, "0")
    before, after = pc.utf8_slice_codeunits(digits, 0, -kind.scale), pc.utf8_slice_codeunits(digits, -kind.scale)
    signed = pc.binary_join_element_wise(pc.if_else(pc.starts_with(whole, "-"), "-", ""), before, "")
    return pc.binary_join_element_wise(signed, after, ".")


def _unholdable(values: pa.ChunkedArray, start: int) -> str:
    """What of these Firebolt cannot hold (its "Data types"): a character zero, times outside the years 1 to 9999."""
    rows: Any = None
    while pa.types.is_list(values.type):
        parents = pc.list_parent_indices(values)
        rows, values = parents if rows is None else rows.take(parents), pc.list_flatten(values)
    if pa.types.is_string(values.type):
        bad, what = pc.match_substring(values, "\0"), "a character zero, which TEXT cannot hold"
    elif pa.types.is_date(values.type) or pa.types.is_timestamp(values.type):
        first, last = _DAYS if pa.types.is_date(values.type) else _MICROSECONDS
        early, late = pc.less(values, pa.scalar(first, values.type)), pc.greater(values, pa.scalar(last, values.type))
        bad, what = pc.or_(early, late), "a time outside the years 1 to 9999"
    else:
        return ""
    if not pc.any(bad).as_py():
        return ""
    at = pc.index(bad, True).as_py()
    return f"row {start + (at if rows is None else rows[at].as_py()) + 1} holds {what}"


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
