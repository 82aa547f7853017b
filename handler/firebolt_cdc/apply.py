"""The load: one transaction that applies rows and records that it did. This transaction is the promise.

    read the turn     it must be ours (the first statement, so that a lost BEGIN is noticed before any write)
    UPDATE the turn   version + 1, load_id = ours; whoever else updates it conflicts with us at COMMIT
    read the turn     it must carry our load_id: else the UPDATE was in no transaction, or in another
    read cdc_applied  none of these versions may be there
    DDL               a missing table, new columns
    count             the engine must read as many rows as the files have
    MERGE or INSERT   only while the turn's row carries our load_id, which until COMMIT only this transaction sees
    tombstones        under the same condition
    count             an append table must have grown by the files' rows
    cdc_applied       under the same condition
    look up in S3     what the engine read itself must still be the version that was announced
    COMMIT

Without the UPDATE of the turn two workers' loads both commit; without the reading of `cdc_applied` a worker that
comes back late loads again. The condition on `load_id` is for an engine or SDK that loses the transaction on the way:
outside it no row of the turn carries our load_id, so a statement that runs alone writes nothing.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from firebolt_cdc import ledger, protocol, schema
from firebolt_cdc.config import Config, Deletes, MissingTable, Mode, Table
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine, Transaction
from firebolt_cdc.errors import (
    CdcError,
    ConflictError,
    EngineRejectedError,
    PermanentError,
    TimedOutError,
    TooSlowError,
    TransientError,
    TurnLostError,
    redact,
)
from firebolt_cdc.files import FileVersion, Kind, SourceFile, file_rank
from firebolt_cdc.ledger import GUARD
from firebolt_cdc.schema import DELETED, FILE, OP, SEQ, Column
from firebolt_cdc.sql import ident, idents, instant, marks, read_parquet
from firebolt_cdc.stage import Counts, Prepared, doubled_key, explain, stage
from firebolt_cdc.storage import Storage
from firebolt_cdc.telemetry import logger

PART_FILES = 100
"""Change files of one transaction, as many of them as have room in memory together (`parquet.room_bytes`)."""
PART_DDL = 40
"""New columns that the load's transaction adds; of a file with more, the others, which are nullable, come before it."""
PART_FULL_LOADS = 8
"""Full-load files of one transaction, each a few statements of its own (Firebolt allows 100 statements)."""
PART_FULL_BYTES = 256 * 1024 * 1024
"""Full-load files of one transaction, by their size in S3: of several large ones each has the time for itself."""
_GLOB = re.compile(r"[*?\[\]{}\\'\"\x00-\x1f]")
"""Characters of a key that READ_PARQUET's PATTERN or URL could read as a glob, or that need quoting."""

ANSWER_SECONDS = 10.0
"""Kept back from the statements that apply rows, to learn afterwards whether the engine answers at all."""


class AlreadyAppliedError(ConflictError):
    """Some of the versions were applied meanwhile; the load goes on without them."""

    def __init__(self, applied_ids: set[str]) -> None:
        super().__init__(f"{len(applied_ids)} file(s) were applied meanwhile")
        self.applied_ids = applied_ids


@dataclass(frozen=True)
class Place:
    """Where a load writes: under which turn, for which generation of which table."""

    turn: str
    table: Table
    generation: int
    """What `cdc_applied` and the tombstones say."""
    shadow: str | None = None
    """The table that a reload fills in the target's stead, for a generation that has not begun yet."""
    current: int | None = None
    """The generation that the turn must be in, where it is another than the one that is filled."""

    @property
    def destination(self) -> str:
        """The table that gets the rows."""
        return self.shadow or self.table.target


@dataclass(frozen=True)
class Part:
    """What one transaction applies: prepared files of one table, those of changes among them staged as one file."""

    place: Place
    files: tuple[Prepared, ...]
    columns: tuple[Column, ...]
    """The destination's columns before the load; empty where it does not exist."""
    staged_key: str | None
    counts: dict[str, Counts]
    copies: dict[str, str]
    """Staged file's key by file id: copies of full-load files whose own key the engine could misread, and full-load
    files that were rewritten. Each has a statement of its own, so that a column that it lacks keeps its values."""


@dataclass(frozen=True)
class Loaded:
    """A load that committed."""

    load_id: str
    counts: dict[str, Counts]
    """By file id, of the staged files."""
    changes: tuple[TargetChange, ...]
    """What was done to the target so that its rows could be applied."""

    def of(self, file: Prepared) -> Counts:
        """What one file did."""
        return counts_of(file, self.counts)


@dataclass(frozen=True)
class TargetChange:
    """A statement that changes the target: it is created (no column), or given a column."""

    ddl: str
    column: Column | None = None


def counts_of(file: Prepared, staged: dict[str, Counts]) -> Counts:
    """What one file of a part did; the engine reads a full-load file itself, and whole."""
    return staged.get(file.file.version.file_id, Counts(file.rows_read, file.rows_read, 0))


def needs_copy(file: SourceFile) -> bool:
    """Whether the engine must read a full-load file through a staged copy with a plain name."""
    return file.kind is Kind.FULL and _GLOB.search(file.version.key) is not None


def target_columns(engine: Engine, target: str) -> tuple[Column, ...]:
    """The columns of a table in the schema `public`; none where it does not exist."""
    rows = engine.query(
        "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name = ? ORDER BY ordinal_position",
        [target],
    )
    return tuple(
        Column(str(name), schema.canonical(str(type_)), str(nullable).upper() != "NO", default)
        for name, type_, nullable, default in rows
    )


class Applier:
    """Runs load transactions."""

    def __init__(self, engine: Engine, storage: Storage, config: Config, deadline: Deadline) -> None:
        self._engine = engine
        self._storage = storage
        self._config = config
        self._deadline = deadline

    def apply(
        self,
        prepared: Sequence[Prepared],
        columns: Sequence[Column],
        place: Place,
        claim_id: str,
        *,
        release: bool,
    ) -> Loaded:
        """Stage and load files of one table, and find out how it ended if the engine did not say.

        Raises:
            As `load`, of which an error at COMMIT here means that nothing was written.
            TooSlowError: the time was up before the rows were applied, and the engine answered after that.
            PermanentError: the engine refused a full-load file that was alone, and the file says why.
        """
        load_id = uuid.uuid4().hex
        counts: dict[str, Counts] = {}
        ddl: tuple[TargetChange, ...] = ()
        staged: list[str] = []
        try:
            staged_key = None
            if changes := [p for p in prepared if p.file.kind is Kind.CHANGE]:
                body, counts = stage(changes, place.table)
                staged_key = self._storage.stage(f"{load_id}.parquet", body)
                staged.append(staged_key)
            copies = {}
            for number, p in enumerate(p for p in prepared if p.file.kind is Kind.FULL):
                name = f"{load_id}-{number}.parquet"
                if p.rows is not None:
                    body, counted = stage([p], place.table)
                    counts |= counted
                    staged.append(self._storage.stage(name, body))
                elif needs_copy(p.file):
                    staged.append(self._storage.stage_copy(p.file.version, name))
                else:
                    continue
                copies[p.file.version.file_id] = staged[-1]
            part = Part(place, tuple(prepared), tuple(columns), staged_key, counts, copies)
            ddl = target_changes(part)
            for change in ddl[PART_DDL:]:
                self._engine.query(change.ddl)
            self.load(part, claim_id, load_id, release=release)
        except (TransientError, ConflictError) as error:
            if isinstance(error, (TurnLostError, AlreadyAppliedError)) or not self._committed(load_id):
                self._explain(prepared, columns, error)
                raise
            logger.warning("COMMIT had succeeded although its answer was an error", load_id=load_id, error=str(error))
        finally:
            for key in staged:
                self._storage.unstage(key)
        return Loaded(load_id, counts, ddl)

    def _explain(self, prepared: Sequence[Prepared], columns: Sequence[Column], error: CdcError) -> None:
        """Find out why the engine refused a file, now that its transaction is over.

        Only of one that was alone: of several, halving finds out which. A full-load file that the engine read itself is
        looked through. What goes wrong here must not stand in for why the engine refused it.

        Raises:
            PermanentError: what is wrong with the file.
        """
        alone = prepared[0] if len(prepared) == 1 else None
        refused = isinstance(error, EngineRejectedError) and not isinstance(error, TooSlowError)
        if not refused or alone is None:
            return
        given, said = {column.name for column in alone.plan.mapped.values()}, str(error)
        absent = [c.name for c in columns if c.must_be_given and c.name not in given]
        if (missing := [name for name in absent if name in said]) and "null" in said.lower():
            drops = "; ".join(f"ALTER TABLE {ident(alone.file.target)} DROP COLUMN {ident(name)}" for name in missing)
            raise PermanentError(
                f"{alone.file.version}: the file lacks {missing}, which the target has as NOT NULL without default, so "
                f"the engine refused its rows; let the source write them again, or run: {drops} ({error})"
            ) from error
        if alone.rows is not None:
            return
        try:
            reason = explain(self._storage.open(alone.info), alone, self._deadline)
        except (CdcError, MemoryError) as unread:
            logger.warning("a file that the engine refused could not be looked through", error=redact(str(unread)))
            return
        if reason is not None:
            logger.warning("the engine refused a full-load file", file_key=alone.file.file_key, error=str(error))
            raise reason from error

    def _committed(self, load_id: str) -> bool:
        return bool(self._engine.query("SELECT applied_id FROM cdc_applied WHERE load_id = ?", [load_id]))

    def load(self, part: Part, claim_id: str, load_id: str, *, release: bool) -> None:
        """Apply a part in one transaction.

        Args:
            part: what to apply.
            claim_id: the holder that the turn must name.
            load_id: this transaction's name, never used before.
            release: give the turn back in the same transaction (the batch's last part).

        Raises:
            AlreadyAppliedError: some files were applied meanwhile; nothing was written.
            TurnLostError: the turn went on; nothing was written.
            CdcError: anything else; after an error at COMMIT the outcome is unknown, ask `cdc_applied`.
        """
        with self._engine.transaction() as tx:
            place, target = part.place, part.place.table.target
            turns = ledger.read_turns(tx, {place.turn, target}, first=True)
            if place.turn != target and target in turns:
                raise TurnLostError(f"{target}: it has a turn of its own since this worker began; nothing was written")
            current = place.generation if place.current is None else place.current
            order_format = place.table.order_format if place.current is None else None
            protocol.require_turn(turns.get(place.turn), claim_id, current, order_format)
            ledger.write_turn(tx, place.turn, claim_id, load_id, release=release)
            self._require_unapplied(tx, part)
            self._prepare_target(tx, part)
            before = self._rows_before(tx, part)
            with tx.keeping_back(ANSWER_SECONDS):
                self._apply_rows(tx, part, load_id)
            self._require_inserted(tx, part, before)
            self._record(tx, part, load_id)
            for file in part.files:
                if file.rows is None:
                    version = file.file.version
                    self._storage.look_up(version.bucket, version.key, version.etag)
            tx.commit()

    def _apply_rows(self, tx: Transaction, part: Part, load_id: str) -> None:
        try:
            for file in part.files:
                if file.rows is None:
                    self._apply_full(tx, part, file, load_id)
                elif file.file.kind is Kind.FULL:
                    self._apply_staged(tx, part, [file], part.copies[file.file.version.file_id], load_id)
            if part.staged_key is not None:
                changes = [file for file in part.files if file.file.kind is Kind.CHANGE]
                self._apply_staged(tx, part, changes, part.staged_key, load_id)
        except TimedOutError as error:
            raise TooSlowError(
                f"{part.place.table.target}: the engine did not apply the rows in time ({error})"
            ) from error

    def _require_unapplied(self, tx: Transaction, part: Part) -> None:
        if not self._config.deduplication_enabled:
            return
        applied = ledger.read_applied(tx, [f.file.applied_id(part.place.generation) for f in part.files])
        if applied:
            raise AlreadyAppliedError(applied)

    def _require_rows(
        self, tx: Transaction, reading: tuple[str, list[object]], rows: int, name: str, source: FileVersion | None
    ) -> None:
        """The engine must read as many rows as the file has: a LOCATION that points elsewhere would apply nothing.

        Raises:
            GoneError: it does not, because the object `source` was deleted or overwritten meanwhile.
            PermanentError: it does not.
        """
        found = _count(tx, reading[0], reading[1])
        if found != rows:
            if source is not None:
                self._storage.look_up(source.bucket, source.key, source.etag)
            raise PermanentError(
                f"{name}: the engine reads {found} rows where the file has {rows}; does the LOCATION's URL end with "
                "the source prefix (or the staging prefix)? Nothing was applied"
            )

    def _rows_before(self, tx: Transaction, part: Part) -> int | None:
        return _count(tx, ident(part.place.destination)) if part.place.table.mode is Mode.APPEND else None

    def _require_inserted(self, tx: Transaction, part: Part, before: int | None) -> None:
        """An append table has grown by the rows of the files; nobody else's rows are in this transaction's snapshot.

        The whole table is counted, which a columnar engine does without reading a column, not the rows of the files by
        `_cdc_file`, of which an earlier version may be there. How many rows a MERGE touches depends on their sequence.

        Raises:
            TransientError: it has not. Nothing was written.
        """
        if before is None:
            return
        rows = sum(counts_of(f, part.counts).rows_staged for f in part.files)
        found = _count(tx, ident(part.place.destination)) - before
        if found != rows:
            raise TransientError(
                f"{part.place.destination}: the engine inserted {found} rows, the files have {rows}; "
                "nothing was applied"
            )

    def _prepare_target(self, tx: Transaction, part: Part) -> None:
        for statement in target_ddl(part)[:PART_DDL]:
            tx.execute(statement)

    def _apply_full(self, tx: Transaction, part: Part, file: Prepared, load_id: str) -> None:
        copy = part.copies.get(file.file.version.file_id)
        reading = (
            read_parquet(self._config, staged=copy)
            if copy
            else read_parquet(self._config, source=file.file.version.key)
        )
        values = {
            column.name: (
                f"p.{ident(source)}"
                if file.source_types[source] == schema.canonical(column.type)
                else f"CAST(p.{ident(source)} AS {column.type})"
            )
            + f" AS {ident(column.name)}"
            for source, column in file.plan.mapped.items()
        }
        rank = file_rank(file.file, file.info.last_modified)
        selected = (
            f"SELECT {', '.join(values.values())}, 'I' AS {ident(OP)}, ? AS {ident(SEQ)}, ? AS {ident(FILE)} "
            f"FROM {reading[0]} AS p"
        )
        parameters = [rank, file.file.file_key, *reading[1]]
        self._require_rows(tx, reading, file.rows_read, str(file.file.version), file.file.version)
        if part.place.table.mode is Mode.MERGE:
            self._require_distinct(tx, part.place.table.primary_key, values, reading, str(file.file.version))
        tx.execute(*self._statement(part, list(values), selected, parameters, load_id, Kind.FULL))

    def _require_distinct(
        self, tx: Transaction, key: Sequence[str], values: dict[str, str], reading: tuple[str, list[object]], name: str
    ) -> None:
        """No two rows of a full load share a key: there is no order between them, and MERGE would take either."""
        keys = ", ".join(values[column] for column in key)
        doubled = tx.execute(
            f"SELECT {idents(key, 'k.')}, COUNT(*) FROM (SELECT {keys} FROM {reading[0]} AS p) AS k "
            f"GROUP BY {idents(key, 'k.')} HAVING COUNT(*) > 1 LIMIT 1",
            reading[1],
        )
        for row in doubled:
            raise doubled_key(name, dict(zip(key, row, strict=False)), int(row[-1]))

    def _apply_staged(
        self, tx: Transaction, part: Part, files: Sequence[Prepared], staged_key: str, load_id: str
    ) -> None:
        """Apply files that were read here: a full load, or all files of changes together."""
        names = list(dict.fromkeys(c.name for f in files for c in f.plan.mapped.values()))
        extra = [OP, SEQ] + ([FILE] if part.place.table.mode is Mode.APPEND else [])
        counts = [counts_of(f, part.counts) for f in files]
        reading, where = read_parquet(self._config, staged=staged_key)
        rows = sum(c.rows_staged for c in counts)
        self._require_rows(tx, (reading, where), rows, f"the staged file {staged_key}", None)
        selected = f"SELECT {idents([*names, *extra], 'p.')} FROM {reading} AS p"
        kind = files[0].file.kind
        tx.execute(*self._statement(part, names, selected, where, load_id, kind))
        buries = part.place.table.mode is Mode.MERGE and part.place.table.buries
        if buries and any(c.rows_deleted for c in counts):
            tx.execute(*self._tombstones(part, reading, where, load_id))

    def _statement(
        self,
        part: Part,
        names: Sequence[str],
        selected: str,
        parameters: Sequence[object],
        load_id: str,
        kind: Kind,
    ) -> tuple[str, list[object]]:
        absent = [c.name for c in part.columns if c.nullable and c.name not in names and c.name not in schema.RESERVED]
        if part.place.table.mode is Mode.APPEND:
            columns = [*names, OP, SEQ, FILE]
            given = ", ".join([*(f"s.{ident(c)}" for c in columns), *("NULL" for _ in absent)])
            return (
                f"INSERT INTO {ident(part.place.destination)} ({idents([*columns, *absent])}) SELECT {given} "
                f"FROM ({selected}) AS s WHERE EXISTS ({GUARD})",
                [*parameters, part.place.turn, load_id],
            )
        return merge_statement(part, names, selected, parameters, load_id, absent, clears=kind is Kind.CHANGE)

    def _tombstones(self, part: Part, reading: str, where: Sequence[object], load_id: str) -> tuple[str, list[object]]:
        newest = max(f.info.last_modified for f in part.files)
        return (
            "INSERT INTO cdc_tombstones (target_table, generation, row_key, seq, file_modified_at, load_id) "
            f"SELECT ?, ?, {row_key(part.place.table.primary_key, 'p')}, p.{ident(SEQ)}, CAST(? AS TIMESTAMPTZ), ? "
            f"FROM {reading} AS p WHERE p.{ident(OP)} = 'D' AND EXISTS ({GUARD})",
            [
                part.place.table.target,
                part.place.generation,
                instant(newest),
                load_id,
                *where,
                part.place.turn,
                load_id,
            ],
        )

    def _record(self, tx: Transaction, part: Part, load_id: str) -> None:
        """Insert the lines of `cdc_applied`, under the same condition as the rows that they speak of."""
        values: list[object] = []
        for f, said in zip(part.files, schema_changes(part), strict=True):
            version = f.file.version
            counts = counts_of(f, part.counts)
            values += [
                f.file.applied_id(part.place.generation),
                version.file_id,
                version.key_id,
                f.file.file_key,
                version.etag,
                f.file.kind,
                instant(f.info.last_modified),
                counts.rows_read,
                counts.rows_upserted,
                counts.rows_deleted,
                counts.rows_collapsed,
                counts.rows_dropped,
                counts.rows_moved,
                said,
            ]
        names = (
            "applied_id, file_id, key_id, file_key, etag, kind, modified, rows_read, rows_upserted, rows_deleted, "
            "rows_collapsed, rows_dropped, rows_moved, schema_change"
        )
        row = f"({marks(range(len(values) // len(part.files)))})"
        tx.execute(
            "INSERT INTO cdc_applied (applied_id, file_id, key_id, file_key, etag, kind, file_modified_at, rows_read, "
            "rows_upserted, rows_deleted, rows_collapsed, rows_dropped, rows_moved, schema_change, "
            "pipeline, target_table, generation, load_id, applied_at) "
            "SELECT v.applied_id, v.file_id, v.key_id, v.file_key, v.etag, v.kind, CAST(v.modified AS TIMESTAMPTZ), "
            "v.rows_read, v.rows_upserted, v.rows_deleted, v.rows_collapsed, v.rows_dropped, v.rows_moved, "
            "NULLIF(v.schema_change, ''), ?, ?, ?, ?, CURRENT_TIMESTAMP "
            f"FROM (VALUES {', '.join([row] * len(part.files))}) AS v ({names}) WHERE EXISTS ({GUARD})",
            [
                self._config.source.pipeline,
                part.place.table.target,
                part.place.generation,
                load_id,
                *values,
                part.place.turn,
                load_id,
            ],
        )


def _count(tx: Transaction, what: str, parameters: Sequence[object] = ()) -> int:
    return int(tx.execute(f"SELECT COUNT(*) FROM {what} AS p", parameters)[0][0])


def target_ddl(part: Part) -> list[str]:
    """What must be done to the target before its rows can be applied."""
    return [change.ddl for change in target_changes(part)]


def target_changes(part: Part) -> tuple[TargetChange, ...]:
    """The same, with the columns that are added to a target that exists."""
    table = part.place.table
    own = [Column(SEQ, "TEXT")]
    if table.mode is Mode.APPEND:
        own += [Column(OP, "TEXT"), Column(FILE, "TEXT")]
    elif table.deletes is Deletes.SOFT:
        own.append(Column(DELETED, "BOOLEAN"))
    wanted = [*_added(part), *own]
    if not part.columns:
        if table.missing_table is MissingTable.FAIL and part.place.shadow is None:
            raise PermanentError(
                f"{part.files[0].file.version}: the table {table.target} does not exist and "
                "missing_table is fail; create it, then run `firebolt-cdc retry`"
            )
        columns = [Column(c.name, c.type, c.name not in table.primary_key) for c in wanted]
        return (TargetChange(create_table(part.place.destination, columns, table.primary_key)),)
    present = {column.name for column in part.columns}
    return tuple(TargetChange(schema.add_column(part.place.destination, c), c) for c in wanted if c.name not in present)


def _added(part: Part) -> list[Column]:
    """Each once: a file is planned against what those before it in the part add."""
    return [column for f in part.files for column in f.plan.added]


def schema_changes(part: Part) -> list[str]:
    """For each file what differed from the target and what was done; empty where nothing did.

    What no file asked for (the table itself, columns of our own) is said of the part's first.
    """
    columns = [*part.columns, *_added(part)]
    result = []
    for f in part.files:
        full = f.file.kind is Kind.FULL
        result.append(
            schema.differences(f.plan, part.place.table.target, columns, created=not part.columns, inserts_only=full)
        )
    result[0] = [
        f"created the table ({change.ddl})" if change.column is None else schema.said_added(change.column, change.ddl)
        for change in target_changes(part)
        if change.column is None or change.column.name in schema.RESERVED
    ] + result[0]
    return [redact("; ".join(said), schema.CHANGE_LENGTH) for said in result]


def create_table(name: str, columns: Sequence[Column], primary_key: Sequence[str]) -> str:
    """SQL that makes a target, or its shadow, sorted by its key."""
    texts = ", ".join(
        f"{ident(c.name)} {c.type} {'NULL' if c.nullable else 'NOT NULL'}{f' DEFAULT {c.default}' if c.default else ''}"
        for c in columns
    )
    index = f" PRIMARY INDEX {idents(primary_key)}" if primary_key else ""
    return f"CREATE TABLE IF NOT EXISTS {ident(name)} ({texts}){index}"


def row_key(key: Sequence[str], alias: str) -> str:
    """SQL for a row's primary key as one text: each value's length and value, so that no two keys give the same.

    By the columns' names, whatever their order in the table map: a tombstone outlives a change of it.
    """

    def one(name: str) -> str:
        text = f"CAST({alias}.{ident(name)} AS TEXT)"
        return f"CAST(LENGTH({text}) AS TEXT) || ':' || {text}"

    return " || ".join(one(name) for name in sorted(key))


def merge_statement(
    part: Part,
    names: Sequence[str],
    selected: str,
    parameters: Sequence[object],
    load_id: str,
    absent: Sequence[str],
    *,
    clears: bool = True,
) -> tuple[str, list[object]]:
    """MERGE that applies a change only where it is newer than the row and than the row's tombstone.

    Tombstones, and the flag of deleted rows, count whatever `deletes` says now: it may have said something else before.

    Args:
        part, names, selected, parameters, load_id: what is applied, its columns and its SELECT.
        absent: nullable target columns that the source lacks. They are NULL in rows that are inserted, also where they
            have a default: of two files of changes of which one lacks the column, together, both have NULL there, and
            the result must not depend on how batches were cut.
        clears: whether they become NULL in rows that are updated too.
    """
    table = part.place.table
    hard, soft = table.buries, table.deletes is Deletes.SOFT
    flagged = soft or any(c.name == DELETED for c in part.columns)
    source = (
        f"SELECT s.* FROM ({selected}) AS s "
        "LEFT JOIN (SELECT row_key, MAX(seq) AS seq FROM cdc_tombstones WHERE target_table = ? AND generation = ? "
        f"GROUP BY row_key) AS d ON d.row_key = {row_key(table.primary_key, 's')} "
        f"WHERE (d.seq IS NULL OR s.{ident(SEQ)} > d.seq) AND EXISTS ({GUARD})"
    )
    values = [*parameters, table.target, part.place.generation, part.place.turn, load_id]
    newer = f"(t.{ident(SEQ)} IS NULL OR s.{ident(SEQ)} > t.{ident(SEQ)})"
    is_delete = f"s.{ident(OP)} = 'D'"
    written = [n for n in names if n not in table.primary_key]
    sets = [f"{ident(n)} = s.{ident(n)}" for n in [*written, SEQ]]
    sets += [f"{ident(n)} = NULL" for n in absent if clears]
    inserted, given = [*names, SEQ, *absent], [*(f"s.{ident(n)}" for n in [*names, SEQ]), *("NULL" for _ in absent)]
    if flagged:
        sets.append(f"{ident(DELETED)} = ({is_delete})")
        inserted, given = [*inserted, DELETED], [*given, f"({is_delete})"]
    on = " AND ".join(f"t.{ident(k)} = s.{ident(k)}" for k in table.primary_key)
    clauses = [f"WHEN MATCHED AND {is_delete} AND {newer} THEN DELETE"] if hard else []
    clauses.append(f"WHEN MATCHED AND {newer} THEN UPDATE SET {', '.join(sets)}")
    guard = f" AND NOT ({is_delete})" if hard else ""
    clauses.append(f"WHEN NOT MATCHED{guard} THEN INSERT ({idents(inserted)}) VALUES ({', '.join(given)})")
    return f"MERGE INTO {ident(part.place.destination)} AS t USING ({source}) AS s ON {on} {' '.join(clauses)}", values
