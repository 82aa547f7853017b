"""From files to rows in order: read, check, cast, give every row its sequence, keep the last change of each key.

A file of changes is read here, because what its rows do depends on their order. A full-load file can be a gigabyte
of rows without order: only its schema, its keys, and columns whose type differs from the target's are read here; the
engine reads the rest itself. One with types that the engine does not read is rewritten here like a file of changes.

Memory is bounded whatever the files hold: a full-load file is looked through in batches of BATCH_ROWS rows, of which
one is held at a time; the rows that are read whole, of all files of a part together, take `room_bytes` at most, and the
process PEAK_FACTOR times as much beside what it takes for itself (BASE_BYTES). tests/bench/memory.py measures it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from firebolt_cdc import schema
from firebolt_cdc.config import Deletes, Mode, OrderBy, Table
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import Kind, SourceFile, file_rank
from firebolt_cdc.schema import FILE, OP, SEQ, Column, ColumnPlan
from firebolt_cdc.storage import ObjectInfo, ObjectReader

# Files are read without pyarrow's threads: with them, reading through a Python file object can abort the process at
# its end (apache/arrow issue 50482).
POSITION_DIGITS = 12
CHANGE_SEQ_DIGITS = 38
"""AR_H_CHANGE_SEQ has 35 digits (AWS DMS guide, "Using transformation rule expressions"); padded on the left."""
_DEFECT = "a defect of the loader: please report it"
BATCH_ROWS = 16_384
LOOK_ROWS = 64
"""Rows that `explain` reads at once: of text that is a megabyte each, as many megabytes."""
LOOK_BYTES = 16 * 1024 * 1024
"""What it checks at once, and fetches at once of an object that is not fetched whole."""
SPARE_SECONDS = 12.0
"""With less than this left, `explain` says nothing: the failure must still be written down."""
SIGNATURE_BYTES = 28
"""What follows the metadata in a plaintext footer of an encrypted file: a nonce and a tag (Parquet's "Encryption")."""
OWN_BYTES = 200
"""What OP, SEQ, FILE and a row's number take in memory, for each row."""
BASE_BYTES = 320 * 1024 * 1024
"""Python, pyarrow, the SDK, one object that is fetched whole, and the staged file."""
PEAK_FACTOR = 4
"""How many times their own size rows take while they are cast, collapsed and written."""
_BINLOG = r"^(?:[A-Za-z].*\.)?([0-9]+)$"
"""A number, or the name of a MySQL binlog file, which ends in one."""


def room_bytes(memory_bytes: int) -> int:
    """How much the rows that are read together may take in a process of so much memory."""
    return max(32 * 1024 * 1024, (memory_bytes - BASE_BYTES) // PEAK_FACTOR)


class TooLargeError(PermanentError):
    """The file's rows do not fit into the memory that is left for them; alone, or in a larger process, they may."""


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


@dataclass(frozen=True)
class _Control:
    """The columns of a file, by the names that they have there, that say something about rows."""

    op: str | None
    marker: str | None
    before: frozenset[str]
    """Before-image columns."""
    columns: tuple[str, ...]
    """Those that are no data."""


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
    parquet = _open(name, reader, info, pre_buffer=file.kind is Kind.CHANGE)
    found, table = parquet.schema_arrow, file.table
    doubled = sorted({field.name for field in found if len(found.get_all_field_indices(field.name)) > 1})
    if doubled:
        raise PermanentError(f"{name}: the columns {doubled} are there more than once")
    control = _control(name, found, file)
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
    with _reading(name, info):
        if file.kind is Kind.FULL and not (
            _needs_conversion(found, plan) or _holds_deletes(name, parquet, table, control)
        ):
            _check_full_load(name, parquet, plan, table, keys)
            types = {s: schema.firebolt_type(found.field(s).type) or "" for s in plan.mapped}
            return Prepared(file, info, plan, parquet.metadata.num_rows, None, types)
        rows = _read(name, parquet, room)
        for column in rows.column_names:
            _require_sound(name, column, rows[column])
    changes = _changes(name, rows, file, info, plan, control)
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
        with _reading(name, refused.info):
            parquet = _open(name, reader, refused.info, pre_buffer=False, buffer_size=LOOK_BYTES)
            for source, column in refused.plan.mapped.items():
                row = 0
                for values in _looked_through(parquet, source):
                    if deadline.remaining_seconds() < SPARE_SECONDS:
                        return None
                    _require_sound(name, source, values, row)
                    schema.cast(name, source, values, column, table.target, row)
                    row += len(values)
    except PermanentError as error:
        return error
    return None


def _looked_through(parquet: pq.ParquetFile, column: str) -> Iterator[pa.ChunkedArray]:
    """A column in pieces of LOOK_BYTES, or one batch of LOOK_ROWS more, or BATCH_ROWS.

    How much a batch takes is known only once it is there: neither the footer nor the pages tell the longest text.
    """
    batches: list[pa.Array] = []
    taken = 0
    for batch in parquet.iter_batches(LOOK_ROWS, columns=[column], use_threads=False):
        batches.append(batch.column(0))
        taken += batch.nbytes
        if taken >= LOOK_BYTES or len(batches) * LOOK_ROWS >= BATCH_ROWS:
            yield pa.chunked_array(batches)
            batches, taken = [], 0
    if batches:
        yield pa.chunked_array(batches)


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


def _open(
    name: str, reader: ObjectReader, info: ObjectInfo, *, pre_buffer: bool, buffer_size: int = 0
) -> pq.ParquetFile:
    """Open a file and read its footer.

    Raises:
        PermanentError: it is not Parquet, or encrypted, in whole or in some of its columns.
    """
    encrypted = PermanentError(
        f"{name}: the Parquet file is encrypted ({info.size_bytes} bytes), so neither the loader nor the engine can "
        "read it: switch Parquet encryption off where it is written, and let S3 encrypt the bucket"
    )
    try:
        parquet = pq.ParquetFile(pa.PythonFile(reader, mode="r"), pre_buffer=pre_buffer, buffer_size=buffer_size)
        str(parquet.schema_arrow)  # decodes every name
    except (pa.ArrowException, OSError, UnicodeError) as error:
        if _tail(reader, info)[4:] == b"PARE":
            raise encrypted from error
        raise PermanentError(f"{name}: not a readable Parquet file ({info.size_bytes} bytes): {error}") from error
    # To ask pyarrow (26) for the metadata of an encrypted column would abort the process.
    footer_bytes = int.from_bytes(_tail(reader, info)[:4], "little")
    if footer_bytes - parquet.metadata.serialized_size == SIGNATURE_BYTES:
        raise encrypted
    return parquet


def _tail(reader: ObjectReader, info: ObjectInfo) -> bytes:
    """The last eight bytes: how long the footer is, and the magic word."""
    reader.seek(max(0, info.size_bytes - 8))
    return reader.read(8)


@contextlib.contextmanager
def _reading(name: str, info: ObjectInfo) -> Iterator[None]:
    """What pyarrow says of pages that it cannot read, as the file's failure."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise PermanentError(f"{name}: damaged Parquet file ({info.size_bytes} bytes): {error}") from error


def _require_sound(name: str, column: str, values: pa.ChunkedArray, start: int = 0) -> None:
    """Check a column's text, and its offsets: pyarrow reads text that is not UTF-8 without a word.

    `start`: the rows of the file before these.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        for row, value in enumerate(values, start + 1):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise PermanentError(
                    f"{name}: row {row} has text in the column {column!r} that is not UTF-8: correct it in the source, "
                    "or load the column as binary"
                ) from error
        raise


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
    return _Control(op, marked, frozenset(before), tuple(c for c in (op, dropped, *before) if c is not None))


@dataclass(frozen=True)
class _Changes:
    """The rows of a file that do something; how many are left out of them, and how many of them are old keys."""

    rows: pa.Table
    rows_dropped: int
    rows_moved: int = 0


def _changes(
    name: str, rows: pa.Table, file: SourceFile, info: ObjectInfo, plan: ColumnPlan, control: _Control
) -> _Changes:
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
    operations = _operations(name, rows, table, control.op)
    ranks = _ranks(name, rows, file, info)
    positions = pa.array(range(rows.num_rows), pa.int64())
    columns[OP] = _marked(name, rows, table, control.marker, operations)
    spared = pc.equal(columns[OP], "D") if table.mode is Mode.MERGE and table.deletes is not Deletes.SOFT else False
    for column in plan.mapped.values():
        if not column.nullable:
            _require_values(name, column, pc.or_(spared, pc.is_valid(columns[column.name])))
    columns[SEQ] = _sequence(ranks, positions)
    columns[FILE] = pa.chunked_array([pa.repeat(pa.scalar(file.version.file_id), rows.num_rows)])
    kept, dropped = pa.table(columns), 0
    if table.deletes is Deletes.IGNORE and table.mode is Mode.MERGE:
        deletes = pc.equal(columns[OP], "D")
        kept, dropped = kept.filter(pc.invert(deletes)), pc.sum(deletes).as_py() or 0
    if table.before_image is None or file.kind is Kind.FULL:
        return _Changes(kept, dropped)
    ignored = pc.equal(columns[OP], "D") if table.deletes is Deletes.IGNORE else pa.scalar(False)
    updates = pc.indices_nonzero(pc.and_not(pc.equal(operations, "U"), ignored))
    moved = _moved(name, rows, table, plan, control, updates, columns) if len(updates) else updates
    if not len(moved):
        return _Changes(kept, dropped)
    columns[SEQ] = _just_before(ranks, positions)
    former = _former(name, rows.take(moved), table, plan, control, pa.table(columns).take(moved))
    return _Changes(pa.concat_tables([kept, former]), dropped, former.num_rows)


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
        values = schema.cast(name, former, rows[former].take(updates), column, table.target)
        absent.append(pc.is_null(values))
        differs = pc.or_(differs, pc.fill_null(pc.not_equal(values, columns[column.name].take(updates)), False))
    for other in absent[1:]:
        same = pc.equal(other, absent[0])
        if not pc.all(same).as_py():
            row = updates[pc.index(same, False).as_py()].as_py()
            raise PermanentError(f"{name}: row {row + 1} has only a part of its former primary key")
    return updates.take(pc.indices_nonzero(differs))


def _former(name: str, rows: pa.Table, table: Table, plan: ColumnPlan, control: _Control, after: pa.Table) -> pa.Table:
    """The deletes of old keys: rows as they were, as far as their before-image tells it."""
    image = table.before_image
    assert image is not None, "only tables with before-images have moved rows"
    for source, column in plan.mapped.items():
        if (former := image.name(source)) in control.before:
            index = after.schema.get_field_index(column.name)
            after = after.set_column(index, column.name, schema.cast(name, former, rows[former], column, table.target))
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


def _operations(name: str, rows: pa.Table, table: Table, column: str | None, start: int = 0) -> pa.Array:
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


def _require_values(name: str, column: Column, given: pa.ChunkedArray, start: int = 0) -> None:
    if not pc.all(given).as_py():
        row = start + pc.index(given, False).as_py()
        raise PermanentError(f"{name}: row {row + 1} has no value for the target's {column.name!r}, which is NOT NULL")


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


def _read(name: str, parquet: pq.ParquetFile, room: int) -> pa.Table:
    """All rows, read batch by batch, so that a file that is too large is found out before it is in memory.

    Raises:
        TooLargeError: by its footer, or by what its rows really take (a footer counts a repeated text once).
    """
    metadata = parquet.metadata
    groups = (metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    size = sum(groups) + OWN_BYTES * metadata.num_rows
    batches: list[pa.RecordBatch] = []
    taken = 0
    if size <= room:
        for batch in parquet.iter_batches(BATCH_ROWS, use_threads=False):
            batches.append(batch)
            taken += batch.nbytes + OWN_BYTES * batch.num_rows
            if taken > room:
                break
    if max(size, taken) > room:
        raise TooLargeError(
            f"{name}: its {metadata.num_rows} rows take more than the {room // 2**20} MiB that this process has for "
            "rows: run `firebolt-cdc load` for it on a machine with more memory, raise loader.memory_mb, or lower "
            "MaxFileSize (CdcMinFileSize, CdcMaxBatchInterval) in the DMS endpoint"
        )
    return pa.Table.from_batches(batches, schema=parquet.schema_arrow)


def _holds_deletes(name: str, parquet: pq.ParquetFile, table: Table, control: _Control) -> bool:
    """Whether a full-load file has rows that are deleted: the engine, which reads it whole, would insert them.

    Raises:
        PermanentError: it holds an unknown operation, or one that DMS does not write into full loads.
    """
    columns = [column for column in (control.op, control.marker) if column is not None]
    start = 0
    for batch in parquet.iter_batches(BATCH_ROWS, columns=columns, use_threads=False) if columns else ():
        rows = pa.Table.from_batches([batch])
        for column in rows.column_names:  # as where all columns are read
            _require_sound(name, column, rows[column], start)
        operations = _operations(name, rows, table, control.op, start)
        start += rows.num_rows
        strange = pc.not_equal(operations, "I")
        if table.op.written_by_dms and pc.any(strange).as_py():
            value = operations[pc.index(strange, True).as_py()].as_py()
            raise PermanentError(
                f"{name}: a row of this full-load file has the operation {value!r} in {control.op!r}, but DMS "
                f"writes only I there. If {control.op!r} is a column of the source, let DMS write the operation too "
                "(IncludeOpForFullLoad); if the source is not DMS, say so with op"
            )
        if pc.any(pc.equal(_marked(name, rows, table, control.marker, operations), "D")).as_py():
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
    """Check that keys have values, and that columns fit the target's, batch by batch.

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
        for batch in parquet.iter_batches(BATCH_ROWS, columns=[source], use_threads=False):
            values = pa.chunked_array([batch.column(0)])
            if source in key_columns and values.null_count:
                at = row + pc.index(pc.is_null(values), True).as_py() + 1
                raise PermanentError(f"{name}: row {at} has no value in the primary key column {source!r}")
            if source in differ:
                schema.cast(name, source, values, differ[source], table.target, row)
                if not differ[source].nullable:
                    _require_values(name, differ[source], pc.is_valid(values), row)
            row += batch.num_rows
