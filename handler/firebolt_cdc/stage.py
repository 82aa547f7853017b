"""From files to rows in order: read, check, cast, give every row its sequence, keep the last change of each key.

A file of changes is read here, because what its rows do depends on their order. A full-load file can be a gigabyte
of rows without order: only its schema, its keys, and columns whose type differs from the target's are read here; the
engine reads the rest itself. One with types that the engine does not read is rewritten here like a file of changes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from firebolt_cdc import schema
from firebolt_cdc.config import Deletes, Mode, OrderBy, Table
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import Kind, SourceFile, file_rank
from firebolt_cdc.schema import FILE, OP, SEQ, Column, ColumnPlan
from firebolt_cdc.storage import PREFETCH_BYTES, ObjectInfo, ObjectReader

# Files are read without pyarrow's threads: with them, reading through a Python file object can abort the process at
# its end (apache/arrow issue 50482).
POSITION_DIGITS = 12
CHANGE_SEQ_DIGITS = 38
"""AR_H_CHANGE_SEQ has 35 digits (AWS DMS guide, "Using transformation rule expressions"); padded on the left."""
_OPS = pa.array(["I", "U", "D"])


@dataclass(frozen=True)
class Prepared:
    """One file, read and checked against its target."""

    file: SourceFile
    info: ObjectInfo
    plan: ColumnPlan
    rows_read: int
    rows: pa.Table | None
    """Changes: the target's columns, OP, SEQ and FILE (the file id). Full load: None, the engine reads them."""
    source_types: dict[str, str]
    """Full load: the Firebolt type of each of the file's columns, as the engine will read it."""


@dataclass(frozen=True)
class Counts:
    """What one file does to its target."""

    rows_read: int
    rows_upserted: int
    rows_deleted: int


def prepare(reader: ObjectReader, file: SourceFile, info: ObjectInfo, target: Sequence[Column]) -> Prepared:
    """Read one file and check it against its target's columns (empty where the target is to be created).

    Raises:
        PermanentError: the file is not Parquet, or does not fit its target. Names the file and what is wrong.
        GoneError: the object was deleted or overwritten.
    """
    name = str(file.version)
    try:
        parquet = pq.ParquetFile(pa.PythonFile(reader, mode="r"))
    except (pa.ArrowException, OSError) as error:
        raise PermanentError(f"{name}: not a readable Parquet file ({info.size_bytes} bytes): {error}") from error
    table = file.table
    found = parquet.schema_arrow
    doubled = sorted({field.name for field in found if len(found.get_all_field_indices(field.name)) > 1})
    if doubled:
        raise PermanentError(f"{name}: the columns {doubled} are there more than once")
    op = _find(found, table.op_column)
    near = [field.name for field in found if field.name.lower() == table.op_column.lower()]
    if op is None and near:
        raise PermanentError(f"{name}: the columns {near} could each be the operation; name the right one in op_column")
    plan = schema.plan_columns(name, found, target, table.schema_drift, [op] if op else [])
    keys = {column: source for source, column in ((s, c.name) for s, c in plan.mapped.items())}
    missing = [key for key in table.primary_key if key not in keys]
    if missing:
        raise PermanentError(
            f"{name}: the primary key column(s) {missing} are not in the file, which has "
            f"{[field.name for field in found]}; correct primary_key (names as in the target)"
        )
    if not plan.mapped:
        raise PermanentError(f"{name}: the file has no data columns")
    try:
        if file.kind is Kind.FULL and op is not None:
            _require_inserts(name, parquet, op)
        if file.kind is Kind.FULL and not _needs_conversion(name, found, plan, info):
            _check_full_load(name, parquet, plan, table, keys)
            types = {s: schema.firebolt_type(found.field(s).type) or "" for s in plan.mapped}
            return Prepared(file, info, plan, parquet.metadata.num_rows, None, types)
        rows = parquet.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise PermanentError(f"{name}: damaged Parquet file ({info.size_bytes} bytes): {error}") from error
    return Prepared(file, info, plan, rows.num_rows, _changes(name, rows, file, info, plan, op), {})


def stage(files: Sequence[Prepared], table: Table) -> tuple[bytes, dict[str, Counts]]:
    """Bring the changes of several files of one table together into one Parquet file for the engine.

    On a merge table only the last change of each key is left, by sequence, whatever the order of `files`.

    Returns:
        The file's bytes, and for each file id what it does.
    """
    rows = pa.concat_tables([f.rows for f in files if f.rows is not None], promote_options="default")
    if table.mode is Mode.MERGE:
        rows = _last_per_key(rows, table.primary_key)
    deleted = pc.equal(rows[OP], "D")
    counts = {}
    for f in files:
        mine = pc.equal(rows[FILE], f.file.version.file_id)
        deletes = pc.sum(pc.and_(mine, deleted)).as_py() or 0
        counts[f.file.version.file_id] = Counts(f.rows_read, (pc.sum(mine).as_py() or 0) - deletes, deletes)
    if table.mode is Mode.MERGE:
        rows = rows.drop_columns([FILE])
    else:
        names = {f.file.version.file_id: f.file.file_key for f in files}
        rows = rows.set_column(
            rows.schema.get_field_index(FILE),
            FILE,
            pa.array([names[i] for i in rows[FILE].to_pylist()], pa.string()),
        )
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd", store_schema=False)
    return buffer.getvalue(), counts


def _find(source: pa.Schema, name: str) -> str | None:
    if source.get_field_index(name) >= 0:
        return name
    near = [field.name for field in source if field.name.lower() == name.lower()]
    return near[0] if len(near) == 1 else None


def _changes(
    name: str, rows: pa.Table, file: SourceFile, info: ObjectInfo, plan: ColumnPlan, op: str | None
) -> pa.Table:
    """The rows of a change file in the target's types, with OP, SEQ and FILE."""
    table = file.table
    columns = {c.name: schema.cast(name, source, rows[source], c) for source, c in plan.mapped.items()}
    for key in table.primary_key:
        if columns[key].null_count:
            row = pc.index(pc.is_null(columns[key]), True).as_py()
            raise PermanentError(f"{name}: row {row + 1} has no value in the primary key column {key!r}")
    columns[OP] = _operations(name, rows, op)
    spared = pc.equal(columns[OP], "D") if table.mode is Mode.MERGE and table.deletes is Deletes.HARD else False
    for column in plan.mapped.values():
        if not column.nullable:
            _require_values(name, column, pc.or_(spared, pc.is_valid(columns[column.name])))
    columns[SEQ] = _sequence(name, rows, file, info)
    columns[FILE] = pa.chunked_array([pa.repeat(pa.scalar(file.version.file_id), rows.num_rows)])
    result = pa.table(columns)
    if table.deletes is Deletes.IGNORE and table.mode is Mode.MERGE:
        result = result.filter(pc.not_equal(result[OP], "D"))
    return result


def _require_values(name: str, column: Column, given: pa.ChunkedArray, start: int = 0) -> None:
    if not pc.all(given).as_py():
        row = start + pc.index(given, False).as_py()
        raise PermanentError(f"{name}: row {row + 1} has no value for the target's {column.name!r}, which is NOT NULL")


def _operations(name: str, rows: pa.Table, op: str | None) -> pa.ChunkedArray:
    """I, U or D for each row. Absent means insert (AWS DMS guide: CdcInsertsOnly, IncludeOpForFullLoad)."""
    if op is None:
        return pa.chunked_array([pa.repeat(pa.scalar("I"), rows.num_rows)])
    values = rows[op]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_null(values.type)):
        raise PermanentError(f"{name}: the operation column {op!r} has the type {values.type}, expected text")
    values = pc.fill_null(values.cast(pa.string()), "I")
    known = pc.is_in(values, _OPS)
    if not pc.all(known).as_py() and rows.num_rows:
        row = pc.index(known, False).as_py()
        raise PermanentError(
            f"{name}: row {row + 1} has the operation {values[row].as_py()!r}, expected I, U or D in {op!r}"
        )
    return values


def _require_inserts(name: str, parquet: pq.ParquetFile, op: str) -> None:
    """A full load has inserts only: another operation means that the column is none, or the file no full load."""
    for group in range(parquet.num_row_groups):
        values = _operations(name, parquet.read_row_group(group, columns=[op], use_threads=False), op)
        strange = pc.not_equal(values, "I")
        if pc.any(strange).as_py():
            value = values[pc.index(strange, True).as_py()].as_py()
            raise PermanentError(
                f"{name}: a row of this full-load file has the operation {value!r} in {op!r}, expected I. If {op!r} is "
                "a column of the source, let DMS write the operation too (IncludeOpForFullLoad)"
            )


def _sequence(name: str, rows: pa.Table, file: SourceFile, info: ObjectInfo) -> pa.ChunkedArray:
    """`_cdc_seq` for each row: the configured order value first, then the file's rank, then the row's position.

    The rank's leading `1|` stays in front of all, so that changes sort above full-load rows in any format.
    """
    position = pc.utf8_lpad(pa.array(range(rows.num_rows), pa.int64()).cast(pa.string()), POSITION_DIGITS, "0")
    rank = file_rank(file, info.last_modified)
    order = file.table.order
    if order.column is None or file.kind is Kind.FULL:
        return pa.chunked_array([pc.binary_join_element_wise(rank, position, "|")])
    column = _find(rows.schema, order.column)
    if column is None:
        raise PermanentError(
            f"{name}: the order column {order.column!r} is not in the file; add it to the DMS task, or "
            'set order.by = "file" (which begins a new generation)'
        )
    values = rows[column].combine_chunks()
    if values.null_count:
        row = pc.index(pc.is_null(values), True).as_py()
        raise PermanentError(f"{name}: row {row + 1} has no value in the order column {column!r}")
    encoded = _digits(name, column, values) if order.by is OrderBy.CHANGE_SEQ else _timestamps(name, column, values)
    head, tail = rank.split("|", 1)
    return pa.chunked_array([pc.binary_join_element_wise(head, encoded, tail, position, "|")])


def _digits(name: str, column: str, values: pa.Array) -> pa.Array:
    is_ = pa.types
    if not (
        is_.is_string(values.type)
        or is_.is_large_string(values.type)
        or is_.is_integer(values.type)
        or (is_.is_decimal(values.type) and values.type.scale == 0)
    ):
        raise PermanentError(
            f"{name}: the order column {column!r} has the type {values.type}, expected text of digits or a whole number"
        )
    text = pc.utf8_trim_whitespace(values.cast(pa.string()))
    good = pc.and_(pc.match_substring_regex(text, r"^[0-9]+$"), pc.less_equal(pc.utf8_length(text), CHANGE_SEQ_DIGITS))
    if not pc.all(good).as_py() and len(text):
        row = pc.index(good, False).as_py()
        raise PermanentError(
            f"{name}: row {row + 1} has {text[row].as_py()!r} in the order column {column!r}, expected "
            f"up to {CHANGE_SEQ_DIGITS} digits"
        )
    return pc.utf8_lpad(text, CHANGE_SEQ_DIGITS, "0")


def _timestamps(name: str, column: str, values: pa.Array) -> pa.Array:
    try:
        moments = values.cast(pa.timestamp("us", tz="UTC") if getattr(values.type, "tz", None) else pa.timestamp("us"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise PermanentError(
            f"{name}: the order column {column!r} of type {values.type} holds no timestamps: {error}"
        ) from error
    micros = moments.cast(pa.int64())
    if len(micros) and pc.min(micros).as_py() < 0:
        raise PermanentError(f"{name}: the order column {column!r} holds a time before 1970")
    return pc.utf8_lpad(micros.cast(pa.string()), 20, "0")


def _last_per_key(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """The row with the greatest sequence for each key."""
    number = FILE  # one of our own names, which no column of the source has
    numbered = rows.select([*key, SEQ]).append_column(number, pa.array(range(rows.num_rows), pa.int64()))
    last = numbered.sort_by(SEQ).group_by(list(key), use_threads=False).aggregate([(number, "last")])
    return rows.take(last[f"{number}_last"].combine_chunks().sort())


def _needs_conversion(name: str, found: pa.Schema, plan: ColumnPlan, info: ObjectInfo) -> bool:
    """Whether a full-load file has columns that the engine would not read as a change file's are read here.

    Raises:
        PermanentError: it has, and is too large to be rewritten here.
    """
    strange = [f.name for f in found if _is_strange(f.type, plan.mapped.get(f.name))]
    if strange and info.size_bytes > PREFETCH_BYTES:
        raise PermanentError(
            f"{name}: the columns {strange} have types that Firebolt does not read from Parquet, and the file is too "
            f"large ({info.size_bytes} bytes) to be rewritten: lower MaxFileSize in the DMS endpoint, or leave them out"
        )
    return bool(strange)


def _is_strange(kind: pa.DataType, column: Column | None) -> bool:
    """Types that Firebolt lacks, reads with fewer digits (nanoseconds), or prints as TEXT in another form."""
    is_ = pa.types
    while is_.is_list(kind) or is_.is_large_list(kind):
        kind = kind.value_type
    if is_.is_time(kind) or is_.is_uint64(kind) or is_.is_null(kind) or schema.firebolt_type(kind) is None:
        return True
    printed = column is not None and "TEXT" in column.type
    return bool(is_.is_timestamp(kind) and (printed or kind.unit == "ns")) or (printed and is_.is_floating(kind))


def _check_full_load(name: str, parquet: pq.ParquetFile, plan: ColumnPlan, table: Table, keys: dict[str, str]) -> None:
    """Check keys, and the values of columns whose type differs from the target's, one column set at a time."""
    found = parquet.schema_arrow
    for source, column in plan.mapped.items():
        same = schema.firebolt_type(found.field(source).type) == schema.canonical(column.type)
        nullable = column.nullable or column.name in table.primary_key
        start = 0
        for group in range(0 if same and nullable else parquet.num_row_groups):
            values = parquet.read_row_group(group, columns=[source], use_threads=False)[source]
            schema.cast(name, source, values, column)
            if not nullable:
                _require_values(name, column, pc.is_valid(values), start)
            start += len(values)
    if not table.primary_key:
        return
    key_columns = [keys[key] for key in table.primary_key]
    rows = parquet.read(columns=key_columns, use_threads=False).unify_dictionaries()
    for key in key_columns:
        if rows[key].null_count:
            row = pc.index(pc.is_null(rows[key]), True).as_py()
            raise PermanentError(f"{name}: row {row + 1} has no value in the primary key column {key!r}")
    distinct = rows.group_by(key_columns).aggregate([]).num_rows
    if distinct != rows.num_rows:
        raise PermanentError(
            f"{name}: {rows.num_rows - distinct} rows repeat a primary key {list(table.primary_key)}; "
            "correct primary_key, or use mode append"
        )
