"""The load: one transaction that applies rows and records that it did. This transaction is the promise.

    read the turn     it must be ours (the first statement, so that a lost BEGIN is noticed before any write)
    UPDATE the turn   version + 1, load_id = ours; whoever else updates it conflicts with us at COMMIT
    read cdc_applied  none of these versions may be there
    DDL               a missing table, new columns
    MERGE or INSERT   only while the turn's row carries our load_id, which until COMMIT only this transaction sees
    tombstones        under the same condition
    cdc_applied       under the same condition
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
from datetime import UTC, datetime

from firebolt_cdc import ledger, protocol, schema
from firebolt_cdc.config import Config, Deletes, MissingTable, Mode, Table
from firebolt_cdc.engine import Engine, Transaction
from firebolt_cdc.errors import CdcError, ConflictError, PermanentError, TransientError, TurnLostError
from firebolt_cdc.files import Kind, SourceFile, file_rank
from firebolt_cdc.schema import DELETED, FILE, OP, SEQ, Column
from firebolt_cdc.sql import ident, idents, marks
from firebolt_cdc.stage import Counts, Prepared, stage
from firebolt_cdc.storage import Storage
from firebolt_cdc.telemetry import logger

_GLOB = re.compile(r"[*?\[\]{}\\'\"\x00-\x1f]")
"""Characters of a key that READ_PARQUET's PATTERN or URL could read as a glob, or that need quoting."""


class AlreadyAppliedError(ConflictError):
    """Some of the versions were applied meanwhile; the load goes on without them."""

    def __init__(self, applied_ids: set[str]) -> None:
        super().__init__(f"{len(applied_ids)} file(s) were applied meanwhile")
        self.applied_ids = applied_ids


@dataclass(frozen=True)
class Part:
    """What one transaction applies: prepared files of one table, the changes among them staged as one file."""

    turn: str
    table: Table
    generation: int
    files: tuple[Prepared, ...]
    columns: tuple[Column, ...]
    """The target's columns before the load; empty where it does not exist."""
    staged_key: str | None
    staged_rows: int
    counts: dict[str, Counts]
    copies: dict[str, str]
    """Staged copy's key by file id, for full-load files whose own key the engine could misread."""


@dataclass(frozen=True)
class Loaded:
    """A load that committed."""

    load_id: str
    counts: dict[str, Counts]
    """By file id, of the staged files."""

    def of(self, file: Prepared) -> Counts:
        """What one file did; the engine read a full-load file itself, and whole."""
        return self.counts.get(file.file.version.file_id, Counts(file.rows_read, file.rows_read, 0))


def needs_copy(file: SourceFile) -> bool:
    """Whether the engine must read a full-load file through a staged copy with a plain name."""
    return file.kind is Kind.FULL and _GLOB.search(file.version.key) is not None


def target_columns(engine: Engine, target: str) -> tuple[Column, ...]:
    """The columns of a table; none where it does not exist."""
    rows = engine.query(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = ? "
        "ORDER BY ordinal_position",
        [target],
    )
    return tuple(Column(str(r[0]), schema.canonical(str(r[1])), str(r[2]).upper() != "NO") for r in rows)


class Applier:
    """Runs load transactions."""

    def __init__(self, engine: Engine, storage: Storage, config: Config) -> None:
        self._engine = engine
        self._storage = storage
        self._config = config

    def apply(
        self,
        prepared: Sequence[Prepared],
        columns: Sequence[Column],
        turn: str,
        generation: int,
        claim_id: str,
        *,
        release: bool,
    ) -> Loaded:
        """Stage and load files of one table, and find out how it ended if the engine did not say.

        Raises:
            As `load`, of which an error at COMMIT here means that nothing was written.
        """
        load_id = uuid.uuid4().hex
        counts: dict[str, Counts] = {}
        staged: list[str] = []
        try:
            staged_key = None
            if changes := [p for p in prepared if p.rows is not None]:
                body, counts = stage(changes, prepared[0].file.table)
                staged_key = self._storage.stage(f"{load_id}.parquet", body)
                staged.append(staged_key)
            copies = {}
            for number, p in enumerate(p for p in prepared if p.rows is None and needs_copy(p.file)):
                copies[p.file.version.file_id] = self._storage.stage_copy(p.file.version, f"{load_id}-{number}.parquet")
                staged.append(copies[p.file.version.file_id])
            rows = sum(c.rows_upserted + c.rows_deleted for c in counts.values())
            table = prepared[0].file.table
            part = Part(turn, table, generation, tuple(prepared), tuple(columns), staged_key, rows, counts, copies)
            self.load(part, claim_id, load_id, release=release)
        except (TransientError, ConflictError) as error:
            if isinstance(error, (TurnLostError, AlreadyAppliedError)) or not self._committed(load_id):
                raise
            logger.warning("COMMIT had succeeded although its answer was an error", load_id=load_id, error=str(error))
        finally:
            self._unstage(staged)
        return Loaded(load_id, counts)

    def _committed(self, load_id: str) -> bool:
        return bool(self._engine.query("SELECT applied_id FROM cdc_applied WHERE load_id = ?", [load_id]))

    def _unstage(self, keys: Sequence[str]) -> None:
        for key in keys:
            try:
                self._storage.unstage(key)
            except CdcError as error:
                logger.warning("a staged file stays until the bucket's lifecycle rule removes it", error=str(error))

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
            turn = ledger.read_turns(tx, {part.turn}, first=True).get(part.turn)
            protocol.require_turn(turn, claim_id, part.generation)
            tx.execute(
                "UPDATE cdc_tables SET version = version + 1, load_id = ?, updated_at = CURRENT_TIMESTAMP"
                + (", holder = NULL, lease_until = NULL" if release else "")
                + " WHERE turn = ? AND holder = ?",
                [load_id, part.turn, claim_id],
            )
            self._require_unapplied(tx, part)
            self._require_guard(tx, part.turn, load_id)
            self._prepare_target(tx, part)
            for file in part.files:
                if file.rows is None:
                    self._apply_full(tx, part, file, load_id)
            if part.staged_key is not None:
                self._apply_changes(tx, part, part.staged_key, load_id)
            self._record(tx, part, load_id)
            for file in part.files:
                if file.rows is None:
                    version = file.file.version
                    self._storage.look_up(version.bucket, version.key, version.etag)
            tx.commit()

    def _require_unapplied(self, tx: Transaction, part: Part) -> None:
        if not self._config.deduplication_enabled:
            return
        applied = ledger.read_applied(tx, [f.file.applied_id(part.generation) for f in part.files])
        if applied:
            raise AlreadyAppliedError(applied)

    def _require_guard(self, tx: Transaction, turn: str, load_id: str) -> None:
        rows = tx.execute("SELECT COUNT(*) FROM cdc_tables WHERE turn = ? AND load_id = ?", [turn, load_id])
        if int(rows[0][0]) != 1:
            raise ConflictError(f"{turn}: the transaction does not see its own write of the turn; nothing was applied")

    def _require_rows(self, tx: Transaction, reading: tuple[str, list[object]], rows: int, name: str) -> None:
        """The engine must read as many rows as the file has: a LOCATION that points elsewhere would apply nothing."""
        found = int(tx.execute(f"SELECT COUNT(*) FROM {reading[0]} AS p", reading[1])[0][0])
        if found != rows:
            raise PermanentError(
                f"{name}: the engine reads {found} rows where the file has {rows}; does the LOCATION's URL end with "
                "the source prefix (or the staging prefix)? Nothing was applied"
            )

    def _prepare_target(self, tx: Transaction, part: Part) -> None:
        for statement in target_ddl(part):
            tx.execute(statement)

    def _apply_full(self, tx: Transaction, part: Part, file: Prepared, load_id: str) -> None:
        copy = part.copies.get(file.file.version.file_id)
        reading = parquet(self._config, staged=copy) if copy else parquet(self._config, source=file.file.version.key)
        columns = [(source, column) for source, column in file.plan.mapped.items()]
        values = ", ".join(
            (
                f"p.{ident(source)}"
                if file.source_types[source] == schema.canonical(column.type)
                else f"CAST(p.{ident(source)} AS {column.type})"
            )
            + f" AS {ident(column.name)}"
            for source, column in columns
        )
        names = [column.name for _, column in columns]
        rank = file_rank(file.file, file.info.last_modified)
        selected = f"SELECT {values}, 'I' AS {ident(OP)}, ? AS {ident(SEQ)}, ? AS {ident(FILE)} FROM {reading[0]} AS p"
        parameters = [rank, file.file.file_key, *reading[1]]
        self._require_rows(tx, reading, file.rows_read, str(file.file.version))
        tx.execute(*self._statement(part, names, selected, parameters, load_id))

    def _apply_changes(self, tx: Transaction, part: Part, staged_key: str, load_id: str) -> None:
        names = list(dict.fromkeys(c.name for f in part.files if f.rows is not None for c in f.plan.mapped.values()))
        extra = [OP, SEQ] + ([FILE] if part.table.mode is Mode.APPEND else [])
        reading, where = parquet(self._config, staged=staged_key)
        self._require_rows(tx, (reading, where), part.staged_rows, f"the staged file {staged_key}")
        selected = f"SELECT {idents([*names, *extra], 'p.')} FROM {reading} AS p"
        absent = [c.name for c in part.columns if c.nullable and c.name not in names and c.name not in schema.RESERVED]
        tx.execute(*self._statement(part, names, selected, where, load_id, absent))
        buries = part.table.mode is Mode.MERGE and part.table.buries
        if buries and any(counts.rows_deleted for counts in part.counts.values()):
            tx.execute(*self._tombstones(part, reading, where, load_id))

    def _statement(
        self,
        part: Part,
        names: Sequence[str],
        selected: str,
        parameters: Sequence[object],
        load_id: str,
        absent: Sequence[str] = (),
    ) -> tuple[str, list[object]]:
        if part.table.mode is Mode.APPEND:
            columns = [*names, OP, SEQ, FILE]
            return (
                f"INSERT INTO {ident(part.table.target)} ({idents(columns)}) SELECT {idents(columns, 's.')} "
                f"FROM ({selected}) AS s WHERE EXISTS ({_GUARD})",
                [*parameters, part.turn, load_id],
            )
        return merge_statement(part, names, selected, parameters, load_id, absent)

    def _tombstones(self, part: Part, reading: str, where: Sequence[object], load_id: str) -> tuple[str, list[object]]:
        newest = max(f.info.last_modified for f in part.files)
        return (
            "INSERT INTO cdc_tombstones (target_table, generation, row_key, seq, file_modified_at, load_id) "
            f"SELECT ?, ?, {row_key(part.table.primary_key, 'p')}, p.{ident(SEQ)}, CAST(? AS TIMESTAMPTZ), ? "
            f"FROM {reading} AS p WHERE p.{ident(OP)} = 'D' AND EXISTS ({_GUARD})",
            [part.table.target, part.generation, instant(newest), load_id, *where, part.turn, load_id],
        )

    def _record(self, tx: Transaction, part: Part, load_id: str) -> None:
        """Insert the lines of `cdc_applied`, under the same condition as the rows that they speak of."""
        values: list[object] = []
        for f in part.files:
            version = f.file.version
            counts = part.counts.get(version.file_id, Counts(f.rows_read, f.rows_read, 0))
            values += [
                f.file.applied_id(part.generation),
                version.file_id,
                version.key_id,
                f.file.file_key,
                version.etag,
                f.file.kind,
                instant(f.info.last_modified),
                counts.rows_read,
                counts.rows_upserted,
                counts.rows_deleted,
            ]
        names = "applied_id, file_id, key_id, file_key, etag, kind, modified, rows_read, rows_upserted, rows_deleted"
        row = f"({marks(range(10))})"
        tx.execute(
            "INSERT INTO cdc_applied (applied_id, file_id, key_id, file_key, etag, kind, file_modified_at, rows_read, "
            "rows_upserted, rows_deleted, pipeline, target_table, generation, load_id, applied_at) "
            "SELECT v.applied_id, v.file_id, v.key_id, v.file_key, v.etag, v.kind, CAST(v.modified AS TIMESTAMPTZ), "
            "v.rows_read, v.rows_upserted, v.rows_deleted, ?, ?, ?, ?, CURRENT_TIMESTAMP "
            f"FROM (VALUES {', '.join([row] * len(part.files))}) AS v ({names}) WHERE EXISTS ({_GUARD})",
            [
                self._config.source.pipeline,
                part.table.target,
                part.generation,
                load_id,
                *values,
                part.turn,
                load_id,
            ],
        )


_GUARD = "SELECT 1 FROM cdc_tables WHERE turn = ? AND load_id = ?"


def parquet(config: Config, *, staged: str | None = None, source: str | None = None) -> tuple[str, list[object]]:
    """READ_PARQUET of one object, by its key, with its parameters."""
    place = config.staging if staged is not None else config.source
    key = staged or source
    assert key is not None, "one of staged and source"
    if config.locations is None:
        return "READ_PARQUET(URL => ?)", [f"s3://{place.bucket}/{key}"]
    source_location, staging_location = config.locations
    location = staging_location if staged is not None else source_location
    return "READ_PARQUET(LOCATION => ?, PATTERN => ?)", [location, key.removeprefix(place.prefix)]


def target_ddl(part: Part) -> list[str]:
    """What must be done to the target before its rows can be applied."""
    table = part.table
    added: dict[str, Column] = {}
    for f in part.files:
        for column in f.plan.added:
            other = added.setdefault(column.name, column)
            if other.type != column.type:
                raise PermanentError(
                    f"{f.file.version}: the new column {column.name!r} is {column.type} here and "
                    f"{other.type} in another file of the batch"
                )
    own = [Column(SEQ, "TEXT")]
    if table.mode is Mode.APPEND:
        own += [Column(OP, "TEXT"), Column(FILE, "TEXT")]
    elif table.deletes is Deletes.SOFT:
        own.append(Column(DELETED, "BOOLEAN"))
    if not part.columns:
        if table.missing_table is MissingTable.FAIL:
            raise PermanentError(
                f"{part.files[0].file.version}: the table {table.target} does not exist and "
                "missing_table is fail; create it, then run `firebolt-cdc retry`"
            )
        columns = ", ".join(
            f"{ident(c.name)} {c.type} {'NOT NULL' if c.name in table.primary_key else 'NULL'}"
            for c in [*added.values(), *own]
        )
        index = f" PRIMARY INDEX {idents(table.primary_key)}" if table.primary_key else ""
        return [f"CREATE TABLE IF NOT EXISTS {ident(table.target)} ({columns}){index}"]
    present = {column.name for column in part.columns}
    return [
        f"ALTER TABLE {ident(table.target)} ADD COLUMN IF NOT EXISTS {ident(c.name)} {c.type} NULL"
        for c in [*added.values(), *own]
        if c.name not in present
    ]


def row_key(key: Sequence[str], alias: str) -> str:
    """SQL for a row's primary key as one text: each value's length and value, so that no two keys give the same."""

    def one(name: str) -> str:
        text = f"CAST({alias}.{ident(name)} AS TEXT)"
        return f"CAST(LENGTH({text}) AS TEXT) || ':' || {text}"

    return " || ".join(one(name) for name in key)


def merge_statement(
    part: Part,
    names: Sequence[str],
    selected: str,
    parameters: Sequence[object],
    load_id: str,
    absent: Sequence[str],
) -> tuple[str, list[object]]:
    """MERGE that applies a change only where it is newer than the row and than the row's tombstone.

    `absent`: target columns that the source lacks; they become NULL, so that the result does not depend on how
    batches were cut.
    """
    table = part.table
    hard, soft = table.buries, table.deletes is Deletes.SOFT
    source = f"SELECT s.* FROM ({selected}) AS s"
    values = list(parameters)
    if hard:
        source += (
            " LEFT JOIN (SELECT row_key, MAX(seq) AS seq FROM cdc_tombstones WHERE target_table = ? AND generation = ? "
            f"GROUP BY row_key) AS d ON d.row_key = {row_key(table.primary_key, 's')} "
            f"WHERE (d.seq IS NULL OR s.{ident(SEQ)} > d.seq) AND EXISTS ({_GUARD})"
        )
        values += [table.target, part.generation]
    else:
        source += f" WHERE EXISTS ({_GUARD})"
    values += [part.turn, load_id]
    newer = f"(t.{ident(SEQ)} IS NULL OR s.{ident(SEQ)} > t.{ident(SEQ)})"
    is_delete = f"s.{ident(OP)} = 'D'"
    written = [n for n in names if n not in table.primary_key]
    sets = [f"{ident(n)} = s.{ident(n)}" for n in [*written, SEQ]] + [f"{ident(n)} = NULL" for n in absent]
    inserted, given = [*names, SEQ], [f"s.{ident(n)}" for n in [*names, SEQ]]
    if soft:
        sets.append(f"{ident(DELETED)} = ({is_delete})")
        inserted, given = [*inserted, DELETED], [*given, f"({is_delete})"]
    on = " AND ".join(f"t.{ident(k)} = s.{ident(k)}" for k in table.primary_key)
    clauses = [f"WHEN MATCHED AND {is_delete} AND {newer} THEN DELETE"] if hard else []
    clauses.append(f"WHEN MATCHED AND {newer} THEN UPDATE SET {', '.join(sets)}")
    guard = f" AND NOT ({is_delete})" if hard else ""
    clauses.append(f"WHEN NOT MATCHED{guard} THEN INSERT ({idents(inserted)}) VALUES ({', '.join(given)})")
    return f"MERGE INTO {ident(table.target)} AS t USING ({source}) AS s ON {on} {' '.join(clauses)}", values


def instant(moment: datetime) -> str:
    """A moment as Firebolt reads a TIMESTAMPTZ."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
