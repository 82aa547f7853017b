"""From files to what the engine is given: read, check, and keep the last change of each key.

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
from firebolt_cdc.changes import Control, changes_of, find_control, operations_of, require_values, with_marked
from firebolt_cdc.config import Mode, Table
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import Kind, SourceFile
from firebolt_cdc.parquet import LOOK_BYTES, open_parquet, pieces, read_rows, reading, require_sound
from firebolt_cdc.schema import FILE, OP, SEQ, Column, ColumnPlan
from firebolt_cdc.storage import ObjectInfo, ObjectReader

SPARE_SECONDS = 12.0
"""With less than this left, `explain` says nothing: the failure must still be written down."""
_DEFECT = "a defect of the loader: please report it"


@dataclass(frozen=True)
class Prepared:
    """One file, read and checked against its target."""

    file: SourceFile
    info: ObjectInfo
    plan: ColumnPlan
    rows_read: int
    """By the file's footer."""
    rows: pa.Table | None
    """Changes: the target's columns, OP, SEQ and FILE (the file id). Full load: None, the engine reads them."""
    source_types: dict[str, str]
    """Full load: the Firebolt type of each of the file's columns, as the engine will read it."""
    rows_dropped: int = 0
    """Rows that are left out of `rows` (`deletes = ignore`)."""
    rows_moved: int = 0
    """Rows that changed their key: `rows` has one more for each, the delete of the old key."""


@dataclass(frozen=True)
class Counts:
    """What becomes of each row of one file, and of the deletes of old keys that key changes add to them."""

    rows_read: int
    """By the file's footer."""
    rows_upserted: int
    rows_deleted: int
    rows_collapsed: int = 0
    """A later row of the same load has the same key."""
    rows_dropped: int = 0
    """`deletes = ignore`."""
    rows_moved: int = 0
    """Key changes: each adds the delete of the old key to the rows of the file."""

    @property
    def rows_staged(self) -> int:
        """Rows that the engine is given."""
        return self.rows_upserted + self.rows_deleted

    def require_balance(self, name: str) -> None:
        """Every row of the file, and every delete that a key change added, has become something.

        Raises:
            PermanentError: it has not, by a defect of the loader. Nothing of the file may be applied.
        """
        found = self.rows_staged + self.rows_collapsed + self.rows_dropped
        if found != self.rows_read + self.rows_moved or self.rows_collapsed < 0:
            raise PermanentError(
                f"{name}: its footer says {self.rows_read} rows, of which {self.rows_moved} changed their key, but "
                f"{self.rows_upserted} to upsert, {self.rows_deleted} to delete, {self.rows_collapsed} superseded in "
                f"the load and {self.rows_dropped} dropped are {found}; nothing was applied ({_DEFECT})"
            )


def prepare(reader: ObjectReader, file: SourceFile, info: ObjectInfo, target: Sequence[Column], room: int) -> Prepared:
    """Read one file and check it against its target's columns (empty where the target is to be created).

    Args:
        reader: the object's content.
        file: what the object is.
        info: what S3 says of it.
        target: the target's columns.
        room: the bytes that its rows may take in memory, where they are read whole.

    Raises:
        PermanentError: the file is not Parquet, or does not fit its target. Names the file and what is wrong.
        TooLargeError: its rows need more than `room`.
        GoneError: the object was deleted or overwritten.
    """
    name = str(file.version)
    parquet = open_parquet(name, reader, info, pre_buffer=file.kind is Kind.CHANGE)
    found, table = parquet.schema_arrow, file.table
    doubled = sorted({field.name for field in found if len(found.get_all_field_indices(field.name)) > 1})
    if doubled:
        raise PermanentError(f"{name}: the columns {doubled} are there more than once")
    control = find_control(name, found, file)
    plan = schema.plan_columns(name, found, target, table.schema_drift, control.columns, table.target)
    keys = {column: source for source, column in ((s, c.name) for s, c in plan.mapped.items())}
    missing = [key for key in table.primary_key if key not in keys]
    if missing:
        raise PermanentError(
            f"{name}: the primary key column(s) {missing} are not in the file, which has "
            f"{[field.name for field in found]}; correct primary_key (names as in the target)"
        )
    if not plan.mapped:
        raise PermanentError(f"{name}: the file has no data columns")
    with reading(name, info):
        if file.kind is Kind.FULL and not (
            _needs_conversion(found, plan) or _holds_deletes(name, parquet, table, control)
        ):
            _check_full_load(name, parquet, plan, table, keys)
            types = {s: schema.firebolt_type(found.field(s).type) or "" for s in plan.mapped}
            return Prepared(file, info, plan, parquet.metadata.num_rows, None, types)
        rows = read_rows(name, parquet, room)
        for column in rows.column_names:
            require_sound(name, column, rows[column])
    changes = changes_of(name, rows, file, info, plan, control)
    if file.kind is Kind.FULL and table.mode is Mode.MERGE:
        _require_distinct(name, changes.rows, table.primary_key)
    return Prepared(
        file, info, plan, parquet.metadata.num_rows, changes.rows, {}, changes.rows_dropped, changes.rows_moved
    )


def explain(reader: ObjectReader, refused: Prepared, deadline: Deadline) -> PermanentError | None:
    """What is wrong with a full-load file that the engine was to read itself, and has refused.

    Whatever `_check_full_load` leaves to the engine is looked for now, since a file that holds it is refused each time,
    and the engine's words name neither row nor way out: text that is not UTF-8 or holds a character zero, damage.

    Args:
        reader: the object's content.
        refused: the file, as it was prepared.
        deadline: the invocation's; nothing is looked for in its last SPARE_SECONDS.

    Returns:
        The failure that a file of changes with these rows would have, or None: nothing is wrong with the file, or there
        was too little time to find it.

    Raises:
        GoneError, TransientError: the object could not be read.
    """
    name, table = str(refused.file.version), refused.file.table
    try:
        with reading(name, refused.info):
            parquet = open_parquet(name, reader, refused.info, pre_buffer=False, buffer_size=LOOK_BYTES)
            for source, column in refused.plan.mapped.items():
                row = 0
                for piece in pieces(parquet, [source]):
                    if deadline.remaining_seconds() < SPARE_SECONDS:
                        return None
                    values = piece[source]
                    require_sound(name, source, values, row)
                    schema.cast(name, source, values, column, table.target, row)
                    row += len(values)
    except PermanentError as error:
        return error
    return None


def stage(files: Sequence[Prepared], table: Table) -> tuple[bytes, dict[str, Counts]]:
    """Bring the changes of several files of one table together into one Parquet file for the engine.

    On a merge table only the last change of each key is left, by sequence, whatever the order of `files`.

    Returns:
        The file's bytes, and for each file id what it does.

    Raises:
        PermanentError: rows of a file were lost on the way, or doubled, by a defect of the loader.
    """
    rows = pa.concat_tables([f.rows for f in files if f.rows is not None], promote_options="default")
    before = _rows_by_file(rows)
    superseded = 0
    if table.mode is Mode.MERGE:
        rows, superseded = _last_per_key(rows, table.primary_key)
    after = _rows_by_file(rows)
    deletes = _rows_by_file(rows.filter(pc.equal(rows[OP], "D")))
    counts = {}
    for f in files:
        id_ = f.file.version.file_id
        left, deleted = after.get(id_, 0), deletes.get(id_, 0)
        collapsed = before.get(id_, 0) - left
        counts[id_] = Counts(f.rows_read, left - deleted, deleted, collapsed, f.rows_dropped, f.rows_moved)
        counts[id_].require_balance(str(f.file.version))
    if sum(c.rows_collapsed for c in counts.values()) != superseded:
        raise PermanentError(
            f"{files[0].file.version}: {superseded} rows have a later one of the same key in the load, but "
            f"{sum(before.values()) - rows.num_rows} were left out; nothing was applied ({_DEFECT})"
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


def _rows_by_file(rows: pa.Table) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(rows[FILE]).to_pylist()}


def _require_distinct(name: str, rows: pa.Table, key: Sequence[str]) -> None:
    """No two rows of a full load share a key: there is no order between them."""
    parts = [str(number) for number in range(len(key))]  # the key's own names may be any
    counted = pa.table([rows[name] for name in key], parts).group_by(parts, use_threads=False)
    times = counted.aggregate([([], "count_all")])
    doubled = times.filter(pc.greater(times["count_all"], 1))
    if doubled.num_rows:
        first = doubled.slice(0, 1).to_pylist()[0]
        raise doubled_key(
            name, {column: first[part] for part, column in zip(parts, key, strict=True)}, first["count_all"]
        )


def doubled_key(name: str, values: dict[str, object], times: int) -> PermanentError:
    """The failure of a full-load file in which a key is there more than once."""
    return PermanentError(
        f"{name}: {times} rows have the primary key {', '.join(f'{c} = {v!r}' for c, v in values.items())}; "
        "correct primary_key, or use mode append"
    )


def _last_per_key(rows: pa.Table, key: Sequence[str]) -> tuple[pa.Table, int]:
    """The row with the greatest sequence for each key, and how many others there are."""
    parts = [str(number) for number in range(len(key))]  # the key's own names may be any
    positions = pa.array(range(rows.num_rows), pa.int64())
    numbered = pa.table([*(rows[name] for name in key), rows[SEQ], positions], [*parts, SEQ, "#"])
    last = numbered.sort_by(SEQ).group_by(parts, use_threads=False).aggregate([("#", "last")])
    return rows.take(last["#_last"].combine_chunks().sort()), rows.num_rows - last.num_rows


def _needs_conversion(found: pa.Schema, plan: ColumnPlan) -> bool:
    """Whether a full-load file has columns that the engine would not read as a change file's are read here."""
    return any(_is_strange(f.type, plan.mapped.get(f.name)) for f in found)


def _holds_deletes(name: str, parquet: pq.ParquetFile, table: Table, control: Control) -> bool:
    """Whether a full-load file has rows that are deleted: the engine, which reads it whole, would insert them.

    Raises:
        PermanentError: it holds an unknown operation, or one that DMS does not write into full loads.
    """
    columns = [column for column in (control.op, control.marker) if column is not None]
    start = 0
    for rows in pieces(parquet, columns) if columns else ():
        for column in rows.column_names:  # as where all columns are read
            require_sound(name, column, rows[column], start)
        operations = operations_of(name, rows, table, control.op, start)
        start += rows.num_rows
        strange = pc.not_equal(operations, "I")
        if table.op.written_by_dms and pc.any(strange).as_py():
            value = operations[pc.index(strange, True).as_py()].as_py()
            raise PermanentError(
                f"{name}: a row of this full-load file has the operation {value!r} in {control.op!r}, but DMS "
                f"writes only I there. If {control.op!r} is a column of the source, let DMS write the operation too "
                "(IncludeOpForFullLoad); if the source is not DMS, say so with op"
            )
        if pc.any(pc.equal(with_marked(name, rows, table, control.marker, operations), "D")).as_py():
            return True
    return False


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
    """Check that keys have values, and that columns fit the target's, piece by piece.

    Dates and times are looked through in any case: the engine would refuse those out of its range in its own words,
    without a row. Text is not, for a character zero: that fetches nearly the whole file, and took more than twice
    as long; `explain` does it once the engine has refused the file. Whether a key is there twice is asked of the
    engine, in the load's transaction.
    """
    found = parquet.schema_arrow
    differ = {
        s: c
        for s, c in plan.mapped.items()
        if schema.firebolt_type(found.field(s).type) != c.type
        or c.type in schema.TIMES
        or not (c.nullable or c.name in table.primary_key)
    }
    key_columns = [keys[key] for key in table.primary_key]
    for source in dict.fromkeys([*key_columns, *differ]):
        row = 0
        for piece in pieces(parquet, [source]):
            values = piece[source]
            if source in key_columns and values.null_count:
                at = row + pc.index(pc.is_null(values), True).as_py() + 1
                raise PermanentError(f"{name}: row {at} has no value in the primary key column {source!r}")
            if source in differ:
                schema.cast(name, source, values, differ[source], table.target, row)
                if not differ[source].nullable:
                    require_values(name, differ[source], pc.is_valid(values), row)
            row += len(values)
