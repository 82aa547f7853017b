"""Parquet files, opened and read within bounds: what is no sound file is said, and what is too large.

Files are read without pyarrow's threads: with them, reading through a Python file object can abort the process at its
end (apache/arrow issue 50482).

Memory is bounded whatever the files hold: they are read in `pieces`, of which one is held of a full-load file that is
looked through; the rows that are read whole, of all files of a part together, take `room_bytes` at most, and the
process PEAK_FACTOR times as much beside what it takes for itself (BASE_BYTES). tests/bench/memory.py measures it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from firebolt_cdc.errors import PermanentError
from firebolt_cdc.storage import ObjectInfo, ObjectReader

BATCH_ROWS = 16_384
"""Rows of a piece, at most."""
LOOK_ROWS = 64
"""Rows that `pieces` reads at once: of text that is a megabyte each, as many megabytes."""
LOOK_BYTES = 16 * 1024 * 1024
"""What a piece has, and what is fetched at once for it of an object that is not fetched whole."""
SIGNATURE_BYTES = 28
"""What follows the metadata in a plaintext footer of an encrypted file: a nonce and a tag (Parquet's "Encryption")."""
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


def open_parquet(
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
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, UnicodeError) as error:
        if _tail(reader, info)[4:] == b"PARE":
            raise encrypted from error
        raise PermanentError(f"{name}: not a readable Parquet file ({info.size_bytes} bytes): {error}") from error
    # To ask pyarrow (26) for the metadata of an encrypted column would abort the process.
    footer_bytes = int.from_bytes(_tail(reader, info)[:4], "little")
    if footer_bytes - parquet.metadata.serialized_size == SIGNATURE_BYTES:
        raise encrypted
    return parquet


@contextlib.contextmanager
def reading(name: str, info: ObjectInfo) -> Iterator[None]:
    """What pyarrow says of pages that it cannot read, as the file's failure; want of memory is none."""
    try:
        yield
    except MemoryError:  # pyarrow's is an ArrowException too
        raise
    except (pa.ArrowException, OSError) as error:
        raise PermanentError(f"{name}: damaged Parquet file ({info.size_bytes} bytes): {error}") from error


def read_rows(name: str, parquet: pq.ParquetFile, room: int) -> pa.Table:
    """All rows, read piece by piece, so that a file that is too large is found out before it is in memory.

    Raises:
        TooLargeError: by its footer, or by what its rows really take (a footer counts a repeated text once).
    """
    metadata = parquet.metadata
    groups = (metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    size = sum(groups) + OWN_BYTES * metadata.num_rows
    found: list[pa.Table] = []
    taken = 0
    if size <= room:
        for piece in pieces(parquet):
            found.append(piece)
            taken += piece.nbytes + OWN_BYTES * piece.num_rows
            if taken > room:
                break
    if max(size, taken) > room:
        raise TooLargeError(
            f"{name}: its {metadata.num_rows} rows take more than the {room // 2**20} MiB that this process has for "
            "rows: run `firebolt-cdc load` for it on a machine with more memory, raise loader.memory_mb, or lower "
            "MaxFileSize (CdcMinFileSize, CdcMaxBatchInterval) in the DMS endpoint"
        )
    return pa.concat_tables(found or [_plain(parquet.schema_arrow.empty_table())])


def pieces(parquet: pq.ParquetFile, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows, of some columns or of all, in pieces of LOOK_BYTES, or one batch of LOOK_ROWS more, or BATCH_ROWS.

    How much a batch takes is known only once it is there: neither the footer nor the pages tell the longest text. Where
    all columns have values of one width it is known before, and batches are larger. Dictionaries are resolved, since
    what is made of them later is so too, and must have been counted.
    """
    kept = [field for field in parquet.schema_arrow if columns is None or field.name in columns]
    dictionaries = any(pa.types.is_dictionary(field.type) for field in kept)
    batches: list[pa.RecordBatch] = []
    rows = taken = 0
    for batch in parquet.iter_batches(_rows_at_once(kept), columns=columns, use_threads=False):
        batches.append(_plain(batch) if dictionaries else batch)
        rows, taken = rows + batch.num_rows, taken + batches[-1].get_total_buffer_size()
        if taken >= LOOK_BYTES or rows >= BATCH_ROWS:
            yield pa.Table.from_batches(batches).combine_chunks()
            batches, rows, taken = [], 0, 0
    if batches:
        yield pa.Table.from_batches(batches).combine_chunks()


def _rows_at_once(fields: Sequence[pa.Field]) -> int:
    """How many rows are read before it is looked how much they take."""
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in fields]
    try:
        bits: int = sum(kind.bit_width for kind in kinds)
    except ValueError:  # of texts and lists
        return LOOK_ROWS
    return max(LOOK_ROWS, min(BATCH_ROWS, 8 * LOOK_BYTES // max(bits, 1)))


def _plain(rows: pa.RecordBatch | pa.Table) -> pa.RecordBatch | pa.Table:
    """The same with dictionaries resolved."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            rows = rows.set_column(index, field.name, rows.column(index).cast(field.type.value_type))
    return rows


def require_sound(name: str, column: str, values: pa.ChunkedArray, start: int = 0) -> None:
    """Check a column's text, and its offsets: pyarrow reads text that is not UTF-8 without a word.

    `start`: the rows of the file before these.
    """
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


def _tail(reader: ObjectReader, info: ObjectInfo) -> bytes:
    """The last eight bytes: how long the footer is, and the magic word."""
    reader.seek(max(0, info.size_bytes - 8))
    return reader.read(8)
