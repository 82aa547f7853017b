"""What each row of a file does, and where it stands in the order of changes.

Of a file's columns some are no data: they say whether a row is inserted, updated or deleted, in what order, and what it
was before. Here they become OP, SEQ and FILE, beside the data in the target's types. Pure: tables in, tables out.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from firebolt_cdc import schema
from firebolt_cdc.config import Deletes, Mode, OrderBy, Table
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import Kind, SourceFile, file_rank
from firebolt_cdc.schema import FILE, OP, SEQ, Column, ColumnPlan
from firebolt_cdc.storage import ObjectInfo

POSITION_DIGITS = 12
CHANGE_SEQ_DIGITS = 38
"""AR_H_CHANGE_SEQ has 35 digits (AWS DMS guide, "Using transformation rule expressions"); padded on the left."""
_BINLOG = r"^(?:[A-Za-z].*\.)?([0-9]+)$"
"""A number, or the name of a MySQL binlog file, which ends in one."""


@dataclass(frozen=True)
class Control:
    """The columns of a file, by the names that they have there, that say something about rows."""

    op: str | None
    marker: str | None
    before: frozenset[str]
    """Before-image columns."""
    columns: tuple[str, ...]
    """Those that are no data."""


@dataclass(frozen=True)
class Changes:
    """The rows of a file that do something; how many are left out of them, and how many of them are old keys."""

    rows: pa.Table
    rows_dropped: int
    rows_moved: int = 0


def find_control(name: str, found: pa.Schema, file: SourceFile) -> Control:
    """Find the columns that say something about rows.

    A full load may lack them, and so may a file of changes lack DMS's `Op` (AWS DMS guide: CdcInsertsOnly,
    IncludeOpForFullLoad): then every row is an insert. A column that was named for this table must be there, or its
    deletes would be lost in silence.
    """
    table, marker = file.table, file.table.delete_marker
    op = _find(found, table.op.column)
    near = [field.name for field in found if field.name.lower() == table.op.column.lower()]
    if op is None and near:
        raise PermanentError(f"{name}: the columns {near} could each be the operation; name the right one in op.column")
    marked = _find(found, marker.column) if marker is not None else None
    if file.kind is Kind.CHANGE:
        if op is None and not table.op.written_by_dms:
            raise PermanentError(f"{name}: the operation column {table.op.column!r} is not in the file")
        if marker is not None and marked is None:
            raise PermanentError(f"{name}: the delete marker {marker.column!r} is not in the file")
    image = table.before_image
    before = [field.name for field in found if image is not None and image.is_named(field.name)]
    dropped = None if marker is not None and marker.keep else marked
    return Control(op, marked, frozenset(before), tuple(c for c in (op, dropped, *before) if c is not None))


def changes_of(
    name: str, rows: pa.Table, file: SourceFile, info: ObjectInfo, plan: ColumnPlan, control: Control
) -> Changes:
    """The rows of a change file in the target's types, with OP, SEQ and FILE.

    A row that changed its key is a delete of the old key, just before the upsert of the new one. It is so with
    `deletes = "ignore"` too: the source has one row, and the target would show it under both keys.
    """
    table = file.table
    columns = {c.name: schema.cast(name, source, rows[source], c, table.target) for source, c in plan.mapped.items()}
    for key in table.primary_key:
        if columns[key].null_count:
            row = pc.index(pc.is_null(columns[key]), True).as_py()
            raise PermanentError(f"{name}: row {row + 1} has no value in the primary key column {key!r}")
    operations = operations_of(name, rows, table, control.op)
    ranks = _ranks(name, rows, file, info)
    positions = pa.array(range(rows.num_rows), pa.int64())
    columns[OP] = with_marked(name, rows, table, control.marker, operations)
    spared = pc.equal(columns[OP], "D") if table.mode is Mode.MERGE and table.deletes is not Deletes.SOFT else False
    for column in plan.mapped.values():
        if not column.nullable:
            require_values(name, column, pc.or_(spared, pc.is_valid(columns[column.name])))
    columns[SEQ] = _sequence(ranks, positions)
    columns[FILE] = pa.chunked_array([pa.repeat(pa.scalar(file.version.file_id), rows.num_rows)])
    kept, dropped = pa.table(columns), 0
    if table.deletes is Deletes.IGNORE and table.mode is Mode.MERGE:
        deletes = pc.equal(columns[OP], "D")
        kept, dropped = kept.filter(pc.invert(deletes)), pc.sum(deletes).as_py() or 0
    if table.before_image is None or file.kind is Kind.FULL:
        return Changes(kept, dropped)
    ignored = pc.equal(columns[OP], "D") if table.deletes is Deletes.IGNORE else pa.scalar(False)
    updates = pc.indices_nonzero(pc.and_not(pc.equal(operations, "U"), ignored))
    moved = _moved(name, rows, table, plan, control, updates, columns) if len(updates) else updates
    if not len(moved):
        return Changes(kept, dropped)
    columns[SEQ] = _just_before(ranks, positions)
    former = _former(name, rows.take(moved), table, plan, control, pa.table(columns).take(moved))
    return Changes(pa.concat_tables([kept, former]), dropped, former.num_rows)


def operations_of(name: str, rows: pa.Table, table: Table, column: str | None, start: int = 0) -> pa.Array:
    """I, U or D for each row. Without the column, and without a value in DMS's own, a row is an insert.

    `start`: the rows of the file before these.
    """
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
            f"{name}: row {start + row + 1} has the operation {values[row].as_py()!r}, expected one of "
            f"{', '.join(table.op.values)}"
        )
    return result


def with_marked(name: str, rows: pa.Table, table: Table, column: str | None, operations: pa.Array) -> pa.Array:
    """The operations, with D for each row that the delete marker says is deleted."""
    if column is None or table.delete_marker is None:
        return operations
    values = _text(name, "delete marker", column, rows[column])
    return pc.if_else(pc.is_in(values, pa.array(table.delete_marker.values, pa.string())), "D", operations)


def require_values(name: str, column: Column, given: pa.ChunkedArray, start: int = 0) -> None:
    if not pc.all(given).as_py():
        row = start + pc.index(given, False).as_py()
        raise PermanentError(f"{name}: row {row + 1} has no value for the target's {column.name!r}, which is NOT NULL")


def _moved(
    name: str,
    rows: pa.Table,
    table: Table,
    plan: ColumnPlan,
    control: Control,
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
        values = schema.cast(name, former, rows[former].take(updates), column, table.target)
        absent.append(pc.is_null(values))
        differs = pc.or_(differs, pc.fill_null(pc.not_equal(values, columns[column.name].take(updates)), False))
    for other in absent[1:]:
        same = pc.equal(other, absent[0])
        if not pc.all(same).as_py():
            row = updates[pc.index(same, False).as_py()].as_py()
            raise PermanentError(f"{name}: row {row + 1} has only a part of its former primary key")
    return updates.take(pc.indices_nonzero(differs))


def _former(name: str, rows: pa.Table, table: Table, plan: ColumnPlan, control: Control, after: pa.Table) -> pa.Table:
    """The deletes of old keys: rows as they were, as far as their before-image tells it."""
    image = table.before_image
    assert image is not None, "only tables with before-images have moved rows"
    for source, column in plan.mapped.items():
        if (former := image.name(source)) in control.before:
            index = after.schema.get_field_index(column.name)
            after = after.set_column(index, column.name, schema.cast(name, former, rows[former], column, table.target))
    index = after.schema.get_field_index(OP)
    return after.set_column(index, OP, pa.repeat(pa.scalar("D"), after.num_rows))


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


def _text(name: str, what: str, column: str, values: pa.ChunkedArray) -> pa.Array:
    """A control column's values as text: `true`, `1`, `1.50`, or the text itself."""
    is_, kind = pa.types, values.type
    if not (
        is_.is_string(kind) or is_.is_large_string(kind) or is_.is_boolean(kind) or is_.is_integer(kind)
        or is_.is_floating(kind) or is_.is_decimal(kind) or is_.is_null(kind)
    ):  # fmt: skip
        raise PermanentError(f"{name}: the {what} {column!r} has the type {kind}, expected text, a boolean or a number")
    return values.cast(pa.string()).combine_chunks()


def _find(source: pa.Schema, name: str) -> str | None:
    if source.get_field_index(name) >= 0:
        return name
    near = [field.name for field in source if field.name.lower() == name.lower()]
    return near[0] if len(near) == 1 else None
