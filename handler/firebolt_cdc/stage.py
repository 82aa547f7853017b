"""From files to rows in order: read, check, cast, give every row its sequence, keep the last change of each key.

A file of changes is read here, because what its rows do depends on their order. A full-load file can be a gigabyte
of rows without order: only its schema, its keys, and columns whose type differs from the target's are read here; the
engine reads the rest itself. One with types that the engine does not read is rewritten here like a file of changes.

Memory is bounded whatever the files hold: a full-load file is looked through in batches of BATCH_ROWS rows, of which
one is held at a time; the rows that are read whole, of all files of a part together, take `room_bytes` at most, and the
process PEAK_FACTOR times as much beside what it takes for itself (BASE_BYTES). tests/bench/memory.py measures it.
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
from firebolt_cdc.storage import ObjectInfo, ObjectReader

# Files are read without pyarrow's threads: with them, reading through a Python file object can abort the process at
# its end (apache/arrow issue 50482).
POSITION_DIGITS = 12
CHANGE_SEQ_DIGITS = 38
"""AR_H_CHANGE_SEQ has 35 digits (AWS DMS guide, "Using transformation rule expressions"); padded on the left."""
_OPS = pa.array(["I", "U", "D"])
_DEFECT = "a defect of the loader: please report it"
BATCH_ROWS = 16_384
OWN_BYTES = 200
"""What OP, SEQ, FILE and a row's number take in memory, for each row."""
BASE_BYTES = 320 * 1024 * 1024
"""Python, pyarrow, the SDK, one object that is fetched whole, and the staged file."""
PEAK_FACTOR = 4
"""How many times their own size rows take while they are cast, collapsed and written."""


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


@dataclass(frozen=True)
class Counts:
    """What becomes of each row of one file."""

    rows_read: int
    """By the file's footer."""
    rows_upserted: int
    rows_deleted: int
    rows_collapsed: int = 0
    """A later row of the same load has the same key."""
    rows_dropped: int = 0
    """`deletes = ignore`."""

    @property
    def rows_staged(self) -> int:
        """Rows that the engine is given."""
        return self.rows_upserted + self.rows_deleted

    def require_balance(self, name: str) -> None:
        """Every row of the file has become something.

        Raises:
            PermanentError: it has not, by a defect of the loader. Nothing of the file may be applied.
        """
        found = self.rows_staged + self.rows_collapsed + self.rows_dropped
        if found != self.rows_read or self.rows_collapsed < 0:
            raise PermanentError(
                f"{name}: its footer says {self.rows_read} rows, but {self.rows_upserted} to upsert, "
                f"{self.rows_deleted} to delete, {self.rows_collapsed} superseded in the load and {self.rows_dropped} "
                f"dropped are {found}; nothing was applied ({_DEFECT})"
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
    plan = schema.plan_columns(name, found, target, table.schema_drift, [op] if op else [], table.target)
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
        if file.kind is Kind.FULL and not _needs_conversion(found):
            _check_full_load(name, parquet, plan, table, keys)
            types = {s: schema.firebolt_type(found.field(s).type) or "" for s in plan.mapped}
            return Prepared(file, info, plan, parquet.metadata.num_rows, None, types)
        rows = _read(name, parquet, room)
    except (pa.ArrowException, OSError) as error:
        raise PermanentError(f"{name}: damaged Parquet file ({info.size_bytes} bytes): {error}") from error
    changes = _changes(name, rows, file, info, plan, op)
    kept, dropped = _kept(changes, table)
    if file.kind is Kind.FULL and table.mode is Mode.MERGE:
        _require_distinct(name, kept, table.primary_key)
    return Prepared(file, info, plan, parquet.metadata.num_rows, kept, {}, dropped)


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
        counts[id_] = Counts(f.rows_read, left - deleted, deleted, collapsed, f.rows_dropped)
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
    columns = {c.name: schema.cast(name, source, rows[source], c, table.target) for source, c in plan.mapped.items()}
    for key in table.primary_key:
        if columns[key].null_count:
            row = pc.index(pc.is_null(columns[key]), True).as_py()
            raise PermanentError(f"{name}: row {row + 1} has no value in the primary key column {key!r}")
    columns[OP] = _operations(name, rows, op)
    columns[SEQ] = _sequence(name, rows, file, info)
    columns[FILE] = pa.chunked_array([pa.repeat(pa.scalar(file.version.file_id), rows.num_rows)])
    return pa.table(columns)


def _kept(rows: pa.Table, table: Table) -> tuple[pa.Table, int]:
    """The rows that do something, and how many do not: on a merge table that ignores them, the deletes."""
    if table.deletes is not Deletes.IGNORE or table.mode is not Mode.MERGE:
        return rows, 0
    deletes = pc.equal(rows[OP], "D")
    return rows.filter(pc.invert(deletes)), pc.sum(deletes).as_py() or 0


def _rows_by_file(rows: pa.Table) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(rows[FILE]).to_pylist()}


def _require_distinct(name: str, rows: pa.Table, key: Sequence[str]) -> None:
    """No two rows of a full load share a key: there is no order between them."""
    counted = rows.group_by(list(key), use_threads=False).aggregate([([], "count_all")])
    doubled = counted.filter(pc.greater(counted["count_all"], 1))
    if doubled.num_rows:
        first = doubled.slice(0, 1).to_pylist()[0]
        raise doubled_key(name, {column: first[column] for column in key}, first["count_all"])


def doubled_key(name: str, values: dict[str, object], times: int) -> PermanentError:
    """The failure of a full-load file in which a key is there more than once."""
    return PermanentError(
        f"{name}: {times} rows have the primary key {', '.join(f'{c} = {v!r}' for c, v in values.items())}; "
        "correct primary_key, or use mode append"
    )


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
        raise PermanentError(f"{name}: row {row + 1} has the operation {values[row].as_py()!r}, expected I, U or D")
    return values


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


def _last_per_key(rows: pa.Table, key: Sequence[str]) -> tuple[pa.Table, int]:
    """The row with the greatest sequence for each key, and how many others there are."""
    numbered = rows.append_column("#", pa.array(range(rows.num_rows), pa.int64()))
    ordered = numbered.select([*key, SEQ, "#"]).sort_by(SEQ)
    last = ordered.group_by(list(key), use_threads=False).aggregate([("#", "last")])
    return rows.take(last["#_last"].combine_chunks().sort()), rows.num_rows - last.num_rows


def _needs_conversion(found: pa.Schema) -> bool:
    """Whether a full-load file has types that the engine does not read as the table in `schema` maps them."""
    is_ = pa.types
    return any(is_.is_time(f.type) or is_.is_uint64(f.type) or is_.is_null(f.type) for f in found)


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


def _check_full_load(name: str, parquet: pq.ParquetFile, plan: ColumnPlan, table: Table, keys: dict[str, str]) -> None:
    """Check that keys have values, and columns whose type differs from the target's fit it, batch by batch.

    Whether a key is there twice is asked of the engine, in the load's transaction.
    """
    found = parquet.schema_arrow
    differ = {s: c for s, c in plan.mapped.items() if schema.firebolt_type(found.field(s).type) != c.type}
    key_columns = [keys[key] for key in table.primary_key]
    for source in dict.fromkeys([*key_columns, *differ]):
        row = 0
        for batch in parquet.iter_batches(BATCH_ROWS, columns=[source], use_threads=False):
            values = pa.chunked_array([batch.column(0)])
            if source in key_columns and values.null_count:
                at = row + pc.index(pc.is_null(values), True).as_py() + 1
                raise PermanentError(f"{name}: row {at} has no value in the primary key column {source!r}")
            if source in differ:
                schema.cast(name, source, values, differ[source], table.target)
            row += batch.num_rows
