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
from firebolt_cdc.config import BeforeImage, Deletes, Mode, OrderBy, Table
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import Kind, SourceFile, file_rank
from firebolt_cdc.schema import FILE, OP, SEQ, Column, ColumnPlan
from firebolt_cdc.storage import PREFETCH_BYTES, ObjectInfo, ObjectReader

# Files are read without pyarrow's threads: with them, reading through a Python file object can abort the process at
# its end (apache/arrow issue 50482).
POSITION_DIGITS = 12
CHANGE_SEQ_DIGITS = 38
"""AR_H_CHANGE_SEQ has 35 digits (AWS DMS guide, "Using transformation rule expressions"); padded on the left."""
_BINLOG = r"^(?:[A-Za-z].*\.)?([0-9]+)$"
"""A number, or the name of a MySQL binlog file, which ends in one."""


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
    rows_moved: int = 0
    """Rows that changed their key: `rows` has one more for each, the delete of the old key."""


@dataclass(frozen=True)
class Counts:
    """What one file does to its target.

    `rows_read` are the rows of the file. Each key change among them adds one, the delete of the old key
    (`rows_moved`). Of these, rows_upserted + rows_deleted are staged, deletes of old keys included; the others were
    collapsed into a later change of their key, or are deletes that the table ignores. So rows_read + rows_moved =
    rows_upserted + rows_deleted + collapsed + ignored.
    """

    rows_read: int
    rows_upserted: int
    rows_deleted: int
    rows_moved: int = 0


@dataclass(frozen=True)
class _Control:
    """The columns of a file, by the names that they have there, that say something about rows."""

    op: str | None
    marker: str | None
    before: frozenset[str]
    """Before-image columns."""
    columns: tuple[str, ...]
    """Those that are no data."""


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
    control = _control(name, found, file)
    plan = schema.plan_columns(name, found, target, table.schema_drift, control.columns)
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
        if file.kind is Kind.FULL and not (
            _needs_conversion(name, found, info) or _holds_deletes(name, parquet, table, control, info)
        ):
            _check_full_load(name, parquet, plan, table, keys)
            types = {s: schema.firebolt_type(found.field(s).type) or "" for s in plan.mapped}
            return Prepared(file, info, plan, parquet.metadata.num_rows, None, types)
        rows = parquet.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise PermanentError(f"{name}: damaged Parquet file ({info.size_bytes} bytes): {error}") from error
    changes, moved = _changes(name, rows, file, info, plan, control)
    return Prepared(file, info, plan, rows.num_rows, changes, {}, moved)


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
        counts[f.file.version.file_id] = Counts(
            f.rows_read, (pc.sum(mine).as_py() or 0) - deletes, deletes, f.rows_moved
        )
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


def _control(name: str, found: pa.Schema, file: SourceFile) -> _Control:
    """Find the columns that say something about rows.

    A full load may lack them, and so may a file of changes lack DMS's `Op` (AWS DMS guide: CdcInsertsOnly,
    IncludeOpForFullLoad): then every row is an insert. A column that was named for this table must be there, or its
    deletes would be lost in silence.
    """
    table, marker = file.table, file.table.delete_marker
    op = _find(found, table.op.column)
    marked = _find(found, marker.column) if marker is not None else None
    if file.kind is Kind.CHANGE:
        if op is None and not table.op.written_by_dms:
            raise PermanentError(f"{name}: the operation column {table.op.column!r} is not in the file")
        if marker is not None and marked is None:
            raise PermanentError(f"{name}: the delete marker {marker.column!r} is not in the file")
    image = table.before_image
    before = [field.name for field in found if image is not None and image.is_named(field.name)]
    dropped = None if marker is not None and marker.keep else marked
    return _Control(op, marked, frozenset(before), tuple(c for c in (op, dropped, *before) if c is not None))


def _changes(
    name: str, rows: pa.Table, file: SourceFile, info: ObjectInfo, plan: ColumnPlan, control: _Control
) -> tuple[pa.Table, int]:
    """The rows of a change file in the target's types, with OP, SEQ and FILE, and how many changed their key.

    A row that changed its key is a delete of the old key, just before the upsert of the new one. It is so with
    `deletes = "ignore"` too: the source has one row, and the target would show it under both keys.
    """
    table = file.table
    columns = {c.name: schema.cast(name, source, rows[source], c) for source, c in plan.mapped.items()}
    for key in table.primary_key:
        if columns[key].null_count:
            row = pc.index(pc.is_null(columns[key]), True).as_py()
            raise PermanentError(f"{name}: row {row + 1} has no value in the primary key column {key!r}")
    operations = _operations(name, rows, table, control.op)
    ranks = _ranks(name, rows, file, info)
    positions = pa.array(range(rows.num_rows), pa.int64())
    columns[OP] = _marked(name, rows, table, control.marker, operations)
    columns[SEQ] = _sequence(ranks, positions)
    columns[FILE] = pa.chunked_array([pa.repeat(pa.scalar(file.version.file_id), rows.num_rows)])
    result = pa.table(columns)
    if table.deletes is Deletes.IGNORE and table.mode is Mode.MERGE:
        result = result.filter(pc.not_equal(result[OP], "D"))
    if table.before_image is None or file.kind is Kind.FULL:
        return result, 0
    ignored = pc.equal(columns[OP], "D") if table.deletes is Deletes.IGNORE else pa.scalar(False)
    updates = pc.indices_nonzero(pc.and_not(pc.equal(operations, "U"), ignored))
    moved = _moved(name, rows, table, plan, control, updates, columns) if len(updates) else updates
    if not len(moved):
        return result, 0
    columns[SEQ] = _just_before(ranks, positions)
    former = _former(name, rows.take(moved), table.before_image, plan, control, pa.table(columns).take(moved))
    return pa.concat_tables([result, former]), former.num_rows


def _moved(
    name: str,
    rows: pa.Table,
    table: Table,
    plan: ColumnPlan,
    control: _Control,
    updates: pa.Array,
    columns: dict[str, pa.ChunkedArray],
) -> pa.Array:
    """The positions of those updates whose before-image has another key than `columns`.

    A before-image without any column of the key says that the key did not change (sources that log it only then).

    Raises:
        PermanentError: a before-image column of the key is missing, or only a part of a row's former key is there.
    """
    assert table.before_image is not None, "only tables with before-images have moved rows"
    differs = pa.chunked_array([pa.repeat(pa.scalar(False), len(updates))])
    absent = []
    for source, column in plan.mapped.items():
        if column.name not in table.primary_key:
            continue
        former = table.before_image.name(source)
        if former not in control.before:
            raise PermanentError(
                f"{name}: the before-image column {former!r} is not in the file; add it with DMS's rule "
                "add-before-image-columns, or take before_image out of the table map"
            )
        values = schema.cast(name, former, rows[former].take(updates), column)
        absent.append(pc.is_null(values))
        differs = pc.or_(differs, pc.fill_null(pc.not_equal(values, columns[column.name].take(updates)), False))
    for other in absent[1:]:
        same = pc.equal(other, absent[0])
        if not pc.all(same).as_py():
            row = updates[pc.index(same, False).as_py()].as_py()
            raise PermanentError(f"{name}: row {row + 1} has only a part of its former primary key")
    return updates.take(pc.indices_nonzero(differs))


def _former(
    name: str, rows: pa.Table, image: BeforeImage, plan: ColumnPlan, control: _Control, after: pa.Table
) -> pa.Table:
    """The deletes of old keys: rows as they were, as far as their before-image tells it."""
    for source, column in plan.mapped.items():
        if (former := image.name(source)) in control.before:
            index = after.schema.get_field_index(column.name)
            after = after.set_column(index, column.name, schema.cast(name, former, rows[former], column))
    index = after.schema.get_field_index(OP)
    return after.set_column(index, OP, pa.repeat(pa.scalar("D"), after.num_rows))


def _text(name: str, what: str, column: str, values: pa.ChunkedArray) -> pa.Array:
    """A control column's values as text: `true`, `1`, `1.50`, or the text itself."""
    is_ = pa.types
    if is_.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if not (
        is_.is_string(kind) or is_.is_large_string(kind) or is_.is_boolean(kind) or is_.is_integer(kind)
        or is_.is_floating(kind) or is_.is_decimal(kind) or is_.is_null(kind)
    ):  # fmt: skip
        raise PermanentError(f"{name}: the {what} {column!r} has the type {kind}, expected text, a boolean or a number")
    return values.cast(pa.string()).combine_chunks()


def _operations(name: str, rows: pa.Table, table: Table, column: str | None) -> pa.Array:
    """I, U or D for each row. Without the column, and without a value in DMS's own, a row is an insert."""
    if column is None:
        return pa.repeat(pa.scalar("I"), rows.num_rows)
    values = _text(name, "operation column", column, rows[column])
    if table.op.written_by_dms:
        values = pc.fill_null(values, "I")
    result: pa.Array = pa.nulls(rows.num_rows, pa.string())
    for letter, meant in (("I", table.op.insert), ("U", table.op.update), ("D", table.op.delete)):
        result = pc.if_else(pc.is_in(values, pa.array(meant, pa.string())), letter, result)
    if result.null_count:
        row = pc.index(pc.is_null(result), True).as_py()
        raise PermanentError(
            f"{name}: row {row + 1} has the operation {values[row].as_py()!r}, expected one of "
            f"{', '.join(table.op.values)}"
        )
    return result


def _marked(name: str, rows: pa.Table, table: Table, column: str | None, operations: pa.Array) -> pa.Array:
    """The operations, with D for each row that the delete marker says is deleted."""
    if column is None or table.delete_marker is None:
        return operations
    values = _text(name, "delete marker", column, rows[column])
    return pc.if_else(pc.is_in(values, pa.array(table.delete_marker.values, pa.string())), "D", operations)


def _ranks(name: str, rows: pa.Table, file: SourceFile, info: ObjectInfo) -> pa.Array:
    """What each row's sequence has before its position: the values of the order columns, then the file's rank.

    The rank's leading `1|` stays in front of all, so that changes sort above full-load rows in any format.
    """
    rank = file_rank(file, info.last_modified)
    order = file.table.order
    if not order.names or file.kind is Kind.FULL:
        return pa.repeat(pa.scalar(rank), rows.num_rows)
    encoded = []
    for wanted in order.names:
        column = _find(rows.schema, wanted)
        if column is None:
            raise PermanentError(
                f"{name}: the order column {wanted!r} is not in the file; let the source write it, or "
                'set order.by = "file" (which begins a new generation)'
            )
        values = rows[column].combine_chunks()
        if values.null_count:
            row = pc.index(pc.is_null(values), True).as_py()
            raise PermanentError(f"{name}: row {row + 1} has no value in the order column {column!r}")
        if order.by is OrderBy.TIMESTAMP:
            encoded.append(_timestamps(name, column, values))
        else:
            encoded.append(_digits(name, column, values, binlogs=order.by is OrderBy.NUMBER))
    head, tail = rank.split("|", 1)
    return pc.binary_join_element_wise(head, *encoded, tail, "|")


def _sequence(ranks: pa.Array, positions: pa.Array) -> pa.ChunkedArray:
    """`_cdc_seq` for each row: its rank, then its position in the file."""
    padded = pc.utf8_lpad(positions.cast(pa.string()), POSITION_DIGITS, "0")
    return pa.chunked_array([pc.binary_join_element_wise(ranks, padded, "|")])


def _just_before(ranks: pa.Array, positions: pa.Array) -> pa.ChunkedArray:
    """Sequences below those of the rows at `positions` and above all that are lower: the position before, and `~`.

    (Before position 0 stands `0000000000-1~`, which is less than `000000000000`, as `-` is less than `0`.)
    """
    before = _sequence(ranks, pc.subtract(positions, 1))
    return pc.binary_join_element_wise(before, "~", "")


def _digits(name: str, column: str, values: pa.Array, *, binlogs: bool) -> pa.Array:
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
    digits = pc.replace_substring_regex(text, _BINLOG, r"\1") if binlogs else text
    good = pc.and_(
        pc.match_substring_regex(digits, r"^[0-9]+$"), pc.less_equal(pc.utf8_length(digits), CHANGE_SEQ_DIGITS)
    )
    if not pc.all(good).as_py() and len(text):
        row = pc.index(good, False).as_py()
        raise PermanentError(
            f"{name}: row {row + 1} has {text[row].as_py()!r} in the order column {column!r}, expected "
            f"up to {CHANGE_SEQ_DIGITS} digits"
        )
    return pc.utf8_lpad(digits, CHANGE_SEQ_DIGITS, "0")


def _timestamps(name: str, column: str, values: pa.Array) -> pa.Array:
    try:
        moments = values.cast(pa.timestamp("us", tz="UTC") if getattr(values.type, "tz", None) else pa.timestamp("us"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise PermanentError(
            f"{name}: the order column {column!r} of type {values.type} holds no timestamps: {error}"
        ) from error
    micros = moments.cast(pa.int64())
    if len(micros) and pc.min(micros).as_py() < 0:
        row = pc.index(pc.less(micros, 0), True).as_py()
        raise PermanentError(f"{name}: row {row + 1} has a time before 1970 in the order column {column!r}")
    return pc.utf8_lpad(micros.cast(pa.string()), 20, "0")


def _last_per_key(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """The row with the greatest sequence for each key."""
    numbered = rows.append_column("#", pa.array(range(rows.num_rows), pa.int64()))
    ordered = numbered.select([*key, SEQ, "#"]).sort_by(SEQ)
    last = ordered.group_by(list(key), use_threads=False).aggregate([("#", "last")])
    return rows.take(last["#_last"].combine_chunks().sort())


def _needs_conversion(name: str, found: pa.Schema, info: ObjectInfo) -> bool:
    """Whether a full-load file has types that the engine does not read as the table in `schema` maps them.

    Raises:
        PermanentError: it has, and is too large to be rewritten here.
    """
    strange = [
        f.name for f in found if pa.types.is_time(f.type) or pa.types.is_uint64(f.type) or pa.types.is_null(f.type)
    ]
    if strange and info.size_bytes > PREFETCH_BYTES:
        raise PermanentError(
            f"{name}: the columns {strange} have types that Firebolt does not read from Parquet, and the file is too "
            f"large ({info.size_bytes} bytes) to be rewritten: lower MaxFileSize in the DMS endpoint, or leave them out"
        )
    return bool(strange)


def _holds_deletes(name: str, parquet: pq.ParquetFile, table: Table, control: _Control, info: ObjectInfo) -> bool:
    """Whether a full-load file has rows that are deleted: the engine, which reads it whole, would insert them.

    Raises:
        PermanentError: it has, and is too large to be rewritten here; or it holds an unknown operation.
    """
    columns = [column for column in (control.op, control.marker) if column is not None]
    for group in range(parquet.num_row_groups if columns else 0):
        rows = parquet.read_row_group(group, columns=columns, use_threads=False)
        operations = _marked(name, rows, table, control.marker, _operations(name, rows, table, control.op))
        if pc.any(pc.equal(operations, "D")).as_py():
            if info.size_bytes > PREFETCH_BYTES:
                raise PermanentError(
                    f"{name}: a full load with deleted rows that is too large ({info.size_bytes} bytes) to be "
                    "rewritten: write it without them, or in smaller files"
                )
            return True
    return False


def _check_full_load(name: str, parquet: pq.ParquetFile, plan: ColumnPlan, table: Table, keys: dict[str, str]) -> None:
    """Check keys, and the values of columns whose type differs from the target's, one column set at a time."""
    found = parquet.schema_arrow
    for source, column in plan.mapped.items():
        if schema.firebolt_type(found.field(source).type) != schema.canonical(column.type):
            for group in range(parquet.num_row_groups):
                schema.cast(
                    name, source, parquet.read_row_group(group, columns=[source], use_threads=False)[source], column
                )
    if not table.primary_key:
        return
    key_columns = [keys[key] for key in table.primary_key]
    rows = parquet.read(columns=key_columns, use_threads=False)
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
