"""Reload: a table begins a new generation, from a full load that DMS wrote anew and every change since.

    plan         which full-load files are new, which changes are as new as the oldest of them; writes nothing
    take the turn, so that nobody loads the table meanwhile, and plan again
    fill         a shadow table, file by file, through the same transactions as any load; `cdc_applied` says
                 what the new generation holds, so that a reload that was interrupted goes on where it stopped
    swap         one transaction: the target's rows are replaced by the shadow's, the turn says the new generation
    tell         the ledger, which until then spoke of the old generation

Readers see the old rows until the swap commits and the new ones after it. The target stays the same table, with its
grants, views and indexes. The swap is refused unless the new generation holds every file of the new full load and
every change since its start that the old generation held. Objects older than that start are superseded.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import boto3

from firebolt_cdc import files, ledger, protocol, schema
from firebolt_cdc.apply import (
    PART_FILES,
    PART_FULL_BYTES,
    PART_FULL_LOADS,
    AlreadyAppliedError,
    Applier,
    Place,
    create_table,
    instant,
    target_columns,
)
from firebolt_cdc.config import RELOAD_MARK, Config, Table
from firebolt_cdc.deadline import Deadline, LambdaContext
from firebolt_cdc.engine import Engine, Transaction
from firebolt_cdc.errors import (
    CdcError,
    ConflictError,
    EngineRejectedError,
    FailureClass,
    PermanentError,
    TransientError,
    TurnLostError,
)
from firebolt_cdc.files import Kind, SourceFile
from firebolt_cdc.ledger import Ledger
from firebolt_cdc.migrations import tables
from firebolt_cdc.parquet import TooLargeError, room_bytes
from firebolt_cdc.sql import ident, idents, marks
from firebolt_cdc.stage import Prepared, prepare
from firebolt_cdc.storage import ObjectInfo, Storage
from firebolt_cdc.telemetry import logger

PATIENCE_SECONDS = 6.0
"""With less than this left, nothing is tried again."""
OUTAGES = 5
"""How often one part is tried when engine or network fail; whoever runs the reload again goes on from there."""
CHUNK = 200

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with how many files the new generation holds, and how many it will."""


@dataclass(frozen=True)
class Item:
    """One object of the table's, and what its name says."""

    file: SourceFile
    info: ObjectInfo


@dataclass(frozen=True)
class Plan:
    """What a reload would do."""

    source_table: str
    table: Table
    current: int
    generation: int
    starts: datetime
    """Last modification of the oldest file of the new full load; what is older is superseded."""
    shadow: str
    resumes: bool
    """Whether an interrupted reload of the same start goes on."""
    full: tuple[Item, ...]
    changes: tuple[Item, ...]
    done: frozenset[str]
    """Applied ids that the new generation holds already."""
    superseded: tuple[Item, ...]
    left_out: dict[str, str]
    """Changes that failed for good, with why: they are in neither generation. No part of a full load is left out."""

    @property
    def items(self) -> tuple[Item, ...]:
        """Everything that the new generation holds in the end, full load first."""
        return (*self.full, *self.changes)

    @property
    def rest(self) -> list[Item]:
        """What is still to be filled in."""
        return [item for item in self.items if item.file.applied_id(self.generation) not in self.done]


@dataclass(frozen=True)
class Result:
    """A reload that was swapped in."""

    generation: int
    files: int
    rows_read: int
    superseded: int


def find_table(config: Config, name: str) -> tuple[str, Table]:
    """A listed table by its source name (`schema/table`) or its target.

    Raises:
        PermanentError: it is not in the table map.
    """
    for source, table in config.tables.items():
        if name in (source, table.target):
            return source, table
    raise PermanentError(f"{name} is neither a source table nor a target of the table map: list it first")


class NothingToReloadError(PermanentError):
    """No full load in S3 is another one than that of the table's present generation."""


class Reload:
    """The reload of one table, by one claim."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        storage: Storage,
        book: Ledger,
        deadline: Deadline,
        memory_bytes: int,
    ) -> None:
        self._config = config
        self._engine = engine
        self._storage = storage
        self._ledger = book
        self._deadline = deadline
        self._room = room_bytes(memory_bytes)
        self._applier = Applier(engine, storage, config, deadline)

    @classmethod
    def of(cls, config: Config, engine: Engine, deadline: Deadline, context: LambdaContext) -> Reload:
        """A reload by whoever `context` describes: an invocation, or the operator's machine."""
        book = Ledger(engine, config, deadline, context.aws_request_id, context.invoked_function_arn)
        memory_bytes = int(context.memory_limit_in_mb) * 2**20
        return cls(config, engine, Storage(boto3.client("s3"), config), book, deadline, memory_bytes)

    def plan(self, name: str, *, everything: bool = False) -> Plan:
        """Say what a reload would do; writes nothing.

        Args:
            name: source table or target.
            everything: begin from all that lies in S3 of the present generation, not from a new full load.

        Raises:
            PermanentError: the table is unknown; or `everything` although there is a new full load.
            NothingToReloadError: there is no new full load.
        """
        source_table, table = find_table(self._config, name)
        current, since = self._current(table)
        listed = list(self._listed(source_table, table))
        failed = self._failed(table)
        left_out = {
            item.file.version: failed[item.file.version.file_id]
            for item in listed
            if item.file.kind is Kind.CHANGE and item.file.version.file_id in failed
        }
        after = self._config.source.start_after
        mine = [
            item
            for item in listed
            if (since is None or item.info.last_modified >= since)
            and (after is None or item.info.last_modified > after)
        ]
        starts = self._new_full_load(table, current, mine)
        if everything and starts is not None:
            raise PermanentError(
                f"{table.target}: S3 holds a full load that is newer than the table's first change ({starts}): what is "
                "older is part of it; reload without --everything"
            )
        if everything:
            starts = min((item.info.last_modified for item in mine), default=None)
        if starts is None:
            raise NothingToReloadError(
                f"{table.target}: S3 holds no full-load file that is newer than the table's first change or that was "
                "applied with other content, so there is nothing to reload from; --everything begins again from all "
                "files that lie there since the table's last reload"
            )
        items = [i for i in mine if i.info.last_modified >= starts and i.file.version not in left_out]
        generation, shadow, resumes = self._generation(table, current, starts)
        return Plan(
            source_table,
            table,
            current,
            generation,
            starts,
            shadow,
            resumes,
            tuple(item for item in items if item.file.kind is Kind.FULL),
            tuple(sorted((i for i in items if i.file.kind is Kind.CHANGE), key=lambda item: item.file.stamp)),
            frozenset(self._applied("target_table = ? AND generation = ?", [table.target, generation], "applied_id")),
            tuple(item for item in listed if item.info.last_modified < starts),
            {item.file.file_key: left_out[v] for item in listed if (v := item.file.version) in left_out},
        )

    def run(self, plan: Plan, *, everything: bool = False, allow_gone: bool = False, progress: Progress) -> Result:
        """Carry a plan out. Interrupted at any place, it can be run again.

        Args:
            plan: what `plan` said; files that came meanwhile are added.
            everything: as for `plan`.
            allow_gone: begin the generation without changes that were applied and are no longer in S3.
            progress: see `Progress`.

        Raises:
            PermanentError: a file cannot be applied, or changes are gone from S3; nothing was swapped.
            TurnLostError: the lease ran out and the turn went on; nothing was swapped.
        """
        try:
            self._take_turn(plan)
            confirmed, plan = plan, self.plan(plan.source_table, everything=everything)
            self._require_same(confirmed.starts == plan.starts, plan)
            self._begin(plan)
            while True:
                self._fill(plan, progress)
                filled, plan = plan, self.plan(plan.source_table, everything=everything)
                self._require_same((filled.starts, filled.generation) == (plan.starts, plan.generation), plan)
                if not plan.rest:
                    break
            waiting = self._waiting(plan)
            self._patiently(lambda: self._add_rows(plan))
            rows = self._swap(plan, allow_gone=allow_gone)
        finally:
            self._release(plan.table.target)
        self._tell(plan, waiting)
        return Result(plan.generation, len(plan.items), rows, len(plan.superseded))

    def _require_same(self, same: bool, plan: Plan) -> None:
        if not same:
            raise PermanentError(
                f"{plan.table.target}: the new full load began again meanwhile (now {plan.starts}), or its line in "
                "cdc_reloads is gone; nothing was swapped, run the reload again"
            )

    # ------------------------------------------------------------ what there is

    def _current(self, table: Table) -> tuple[int, datetime | None]:
        """The table's generation, and from when on objects belong to it (None in the first)."""
        rows = self._engine.query(
            "SELECT pipeline, generation, generation_started_at FROM cdc_tables WHERE turn = ?", [table.target]
        )
        if not rows or str(rows[0][0]) != self._config.source.pipeline:
            raise PermanentError(f"{table.target} has no turn of this pipeline: run firebolt-cdc migrate")
        generation = int(rows[0][1])
        return generation, rows[0][2] if generation > 1 else None

    def _new_full_load(self, table: Table, current: int, mine: Sequence[Item]) -> datetime | None:
        """When a full load began that is not of the present generation.

        Its files were written after the first change, or over files that were applied (also with the same content).
        What is merely not loaded yet is none; nor is what is loaded (the operator had it merged), unless the rest of
        the same full load is there too: that is, with no change between.
        """
        rows = self._engine.query(
            "SELECT file_id, key_id, kind, file_modified_at FROM cdc_applied WHERE target_table = ? AND generation = ?",
            [table.target, current],
        )
        applied = {str(row[0]): row[3] for row in rows}
        written: dict[str, list[tuple[str, datetime | None]]] = {}
        for file_id, key_id, kind, modified in rows:
            if kind == Kind.FULL:
                written.setdefault(str(key_id), []).append((str(file_id), modified))
        changed = [row[3] for row in rows if row[2] == Kind.CHANGE and row[3] is not None]
        changed += [item.info.last_modified for item in mine if item.file.kind is Kind.CHANGE]
        first = min(changed, default=None)

        def is_loaded(item: Item) -> bool:
            file_id = item.file.version.file_id
            return file_id in applied and (applied[file_id] is None or applied[file_id] >= item.info.last_modified)

        def is_other(item: Item) -> bool:
            version, modified = item.file.version, item.info.last_modified
            over = written.get(version.key_id, [])
            return (first is not None and modified > first) or any(
                file_id != version.file_id or (before is not None and before < modified) for file_id, before in over
            )

        other = [item for item in mine if item.file.kind is Kind.FULL and is_other(item)]
        starts = min((item.info.last_modified for item in other if not is_loaded(item)), default=None)
        if starts is None:
            return None
        last = max((moment for moment in changed if moment < starts), default=None)
        return min(item.info.last_modified for item in other if last is None or item.info.last_modified > last)

    def _listed(self, source_table: str, table: Table) -> Iterator[Item]:
        for info in self._storage.listing(files.folder(self._config, source_table)):
            try:
                file = files.identify(self._config, info.version)
            except PermanentError:
                continue  # named as nothing of DMS's: its own event writes its `failed` line
            if file.table == table:
                yield Item(file, info)

    def _applied(self, condition: str, parameters: Sequence[object], column: str) -> set[str]:
        rows = self._engine.query(f"SELECT {column} FROM cdc_applied WHERE {condition}", parameters)
        return {str(row[0]) for row in rows}

    def _failed(self, table: Table) -> dict[str, str]:
        rows = self._engine.query(
            "SELECT file_id, error_message FROM cdc_processed_files WHERE turn = ? AND status = 'failed' "
            "AND error_class IN (?, ?)",
            [table.target, FailureClass.PERMANENT, FailureClass.GONE],
        )
        return {str(row[0]): str(row[1]) for row in rows}

    def _generation(self, table: Table, current: int, starts: datetime) -> tuple[int, str, bool]:
        """The generation that begins, its shadow table, and whether a reload of the same start goes on with it."""
        rows = self._engine.query(
            "SELECT generation, starts, settings, shadow, status FROM cdc_reloads WHERE turn = ? ORDER BY generation",
            [table.target],
        )
        present = tables(self._engine)
        for generation, began, settings, shadow, status in rows:
            if (status, began, settings) == ("building", starts, table.model_dump_json()) and int(generation) > current:
                holds = self._applied(
                    "target_table = ? AND generation = ? LIMIT 1", [table.target, int(generation)], "applied_id"
                )
                if str(shadow) in present or not holds:
                    return int(generation), str(shadow), True
        newest = self._engine.query("SELECT MAX(generation) FROM cdc_applied WHERE target_table = ?", [table.target])
        generation = 1 + max([current, int(newest[0][0] or 0), *(int(row[0]) for row in rows)])
        while (shadow := f"{table.target}{RELOAD_MARK}{generation}") in present:
            generation += 1
        return generation, shadow, False

    # ------------------------------------------------------------ under the turn

    def _take_turn(self, plan: Plan) -> None:
        """Wait for the table's turn and take it for as long as this reload may last."""
        self._patiently(
            lambda: self._ledger.take_turn(plan.table.target, plan.current, self._deadline.remaining_seconds())
        )

    def _release(self, turn: str) -> None:
        try:
            self._ledger.release([turn])
        except CdcError as error:
            logger.error("the turn could not be given back; it ends with its lease", turn=turn, error=str(error))

    def _begin(self, plan: Plan) -> None:
        """Write the reload down, give up earlier ones of another start, and make the shadow table."""
        target = plan.table.target

        def note() -> None:
            with self._engine.transaction() as tx:
                turn = ledger.read_turns(tx, {target}, first=True).get(target)
                protocol.require_turn(turn, self._ledger.claim_id, plan.current)
                tx.execute("UPDATE cdc_tables SET version = version + 1 WHERE turn = ?", [target])
                tx.execute(
                    "UPDATE cdc_reloads SET status = 'abandoned', ended_at = CURRENT_TIMESTAMP "
                    "WHERE turn = ? AND status = 'building' AND generation <> ?",
                    [target, plan.generation],
                )
                if not tx.execute(
                    "SELECT 1 FROM cdc_reloads WHERE turn = ? AND generation = ?", [target, plan.generation]
                ):
                    tx.execute(
                        "INSERT INTO cdc_reloads (turn, pipeline, generation, starts, settings, shadow, status, "
                        "began_at) VALUES (?, ?, ?, CAST(? AS TIMESTAMPTZ), ?, ?, 'building', CURRENT_TIMESTAMP)",
                        [
                            target,
                            self._config.source.pipeline,
                            plan.generation,
                            instant(plan.starts),
                            plan.table.model_dump_json(),
                            plan.shadow,
                        ],
                    )
                tx.commit()

        self._patiently(note)
        drop_shadows(self._engine, self._config.source.pipeline)
        columns = target_columns(self._engine, target)
        if columns:
            self._engine.query(create_table(plan.shadow, columns, plan.table.primary_key))

    def _fill(self, plan: Plan, progress: Progress) -> None:
        place = Place(plan.table.target, plan.table, plan.generation, plan.shadow, plan.current)
        done = len(plan.items) - len(plan.rest)
        progress(done, len(plan.items))
        for part in parts(plan.rest):
            self._load(part, place)
            done += len(part)
            progress(done, len(plan.items))

    def _load(self, part: Sequence[Item], place: Place) -> None:
        """Load one part into the shadow, in more than one transaction where its rows have no room together."""
        columns = target_columns(self._engine, place.destination)
        known = list(columns)
        prepared: list[Prepared] = []
        room = self._room
        for item in part:
            try:
                prepared.append(prepare(self._storage.open(item.info), item.file, item.info, known, room))
            except TooLargeError:
                if not prepared:
                    raise
                break
            known += prepared[-1].plan.added  # what the next file meets, as if it came in a part of its own
            rows = prepared[-1].rows
            room -= 0 if rows is None else rows.nbytes

        def load(left: Sequence[Prepared]) -> None:
            while left:
                try:
                    self._applier.apply(left, columns, place, self._ledger.claim_id, release=False)
                    return
                except AlreadyAppliedError as error:
                    left = [p for p in left if p.file.applied_id(place.generation) not in error.applied_ids]

        try:
            self._patiently(lambda: load(prepared))
        except EngineRejectedError as error:
            if len(prepared) == 1:
                raise PermanentError(f"{part[0].file.version}: {error}") from error
            half = len(prepared) // 2
            self._load(part[:half], place)
            self._load(part[half : len(prepared)], place)
        if len(prepared) < len(part):
            self._load(part[len(prepared) :], place)

    def _patiently(self, action: Callable[[], T]) -> T:
        """Run again after a lost race, and a few times after an outage, but not once the turn is lost."""
        outages = 0
        while True:
            try:
                return action()
            except (TurnLostError, EngineRejectedError):
                raise
            except (ConflictError, TransientError) as error:
                outages += isinstance(error, TransientError)
                if outages > OUTAGES or self._deadline.remaining_seconds() < PATIENCE_SECONDS:
                    raise
                time.sleep(random.uniform(0.05, 1.0))

    def _waiting(self, plan: Plan) -> list[str]:
        """Ledger rows that wait for a decision about a full load and are no part of this one (overwritten since)."""
        part = {item.file.version.file_id for item in plan.items}
        rows = self._engine.query(
            "SELECT file_id FROM cdc_processed_files WHERE turn = ? AND kind = ? AND status = 'pending' "
            "AND error_class = 'held'",
            [plan.table.target, Kind.FULL],
        )
        return [str(row[0]) for row in rows if str(row[0]) not in part]

    def _swap(self, plan: Plan, *, allow_gone: bool) -> int:
        """Replace the target's rows by the shadow's and begin the generation, in one transaction; returns the rows."""

        def swap() -> int:
            try:
                self._swap_once(plan, allow_gone=allow_gone)
            except (TransientError, ConflictError) as error:
                if not self._swapped(plan):
                    raise
                logger.warning("COMMIT had succeeded although its answer was an error", error=str(error))
            return self._rows(plan)

        return self._patiently(swap)

    def _swapped(self, plan: Plan) -> bool:
        rows = self._engine.query("SELECT generation FROM cdc_tables WHERE turn = ?", [plan.table.target])
        return bool(rows) and int(rows[0][0]) == plan.generation

    def _rows(self, plan: Plan) -> int:
        rows = self._engine.query(
            "SELECT COALESCE(SUM(rows_read), 0) FROM cdc_applied WHERE target_table = ? AND generation = ?",
            [plan.table.target, plan.generation],
        )
        return int(rows[0][0])

    def _swap_once(self, plan: Plan, *, allow_gone: bool) -> None:
        table, load_id = plan.table, uuid.uuid4().hex
        shadow = target_columns(self._engine, plan.shadow)
        present = target_columns(self._engine, table.target)
        names = {column.name for column in present}
        for column in shadow if present else ():
            if (
                column.name not in names
            ):  # nullable, so harmless before the swap; in it they might pass its 100 statements
                self._engine.query(schema.add_column(table.target, column))
        guard = "SELECT 1 FROM cdc_tables WHERE turn = ? AND load_id = ?"
        with self._engine.transaction() as tx:
            turn = ledger.read_turns(tx, {table.target}, first=True).get(table.target)
            protocol.require_turn(turn, self._ledger.claim_id, plan.current)
            tx.execute(
                "UPDATE cdc_tables SET version = version + 1, load_id = ?, updated_at = CURRENT_TIMESTAMP "
                "WHERE turn = ? AND holder = ?",
                [load_id, table.target, self._ledger.claim_id],
            )
            held = tx.execute(guard, [table.target, load_id])
            if len(held) != 1:
                raise ConflictError(f"{table.target}: the transaction does not see its own write of the turn")
            self._require_complete(tx, plan, allow_gone=allow_gone)
            if not present:
                tx.execute(create_table(table.target, shadow, table.primary_key))
            tx.execute(f"DELETE FROM {ident(table.target)} WHERE EXISTS ({guard})", [table.target, load_id])
            columns = [column.name for column in shadow]
            tx.execute(
                f"INSERT INTO {ident(table.target)} ({idents(columns)}) SELECT {idents(columns, 's.')} "
                f"FROM {ident(plan.shadow)} AS s WHERE EXISTS ({guard})",
                [table.target, load_id],
            )
            tx.execute(
                "UPDATE cdc_reloads SET status = 'done', ended_at = CURRENT_TIMESTAMP "
                f"WHERE turn = ? AND generation = ? AND EXISTS ({guard})",
                [table.target, plan.generation, table.target, load_id],
            )
            tx.execute(
                "UPDATE cdc_tables SET generation = ?, generation_started_at = CAST(? AS TIMESTAMPTZ), "
                "order_format = ?, holder = NULL, lease_until = NULL WHERE turn = ? AND load_id = ?",
                [plan.generation, instant(plan.starts), table.order_format, table.target, load_id],
            )
            tx.commit()

    def _require_complete(self, tx: Transaction, plan: Plan, *, allow_gone: bool) -> None:
        """The new generation must hold the plan, and every change since its start that the old one holds."""
        target = plan.table.target
        wanted = {item.file.applied_id(plan.generation) for item in plan.items}
        found = tx.execute(
            "SELECT applied_id FROM cdc_applied WHERE target_table = ? AND generation = ?", [target, plan.generation]
        )
        if missing := wanted - {str(row[0]) for row in found}:
            raise ConflictError(f"{target}: {len(missing)} files of the new generation are not loaded yet")
        gone = tx.execute(
            "SELECT o.file_key FROM cdc_applied AS o LEFT JOIN (SELECT file_id FROM cdc_applied WHERE target_table = ? "
            "AND generation = ?) AS n ON n.file_id = o.file_id WHERE o.target_table = ? AND o.generation = ? "
            "AND o.kind = ? AND o.file_modified_at >= CAST(? AS TIMESTAMPTZ) AND n.file_id IS NULL ORDER BY o.file_key",
            [target, plan.generation, target, plan.current, Kind.CHANGE, instant(plan.starts)],
        )
        if gone and not allow_gone:
            keys = ", ".join(str(row[0]) for row in gone[:5])
            raise PermanentError(
                f"{target}: {len(gone)} change files since {plan.starts} were applied and are no longer in S3 ({keys}"
                f"{', …' if len(gone) > 5 else ''}): the new generation would lack their changes. Restore them, have "
                "DMS reload the table once more, or accept it with --allow-gone. Nothing was swapped"
            )

    # ------------------------------------------------------------ afterwards

    def _tell(self, plan: Plan, waiting: Sequence[str]) -> None:
        """Bring the ledger up to date and drop the shadow. What fails here is no loss: the sweep and the purge do it
        again."""
        try:
            self._patiently(lambda: self._complete(plan))
            older = [item.file.version.file_id for item in plan.superseded]
            why = f"superseded by the reload that began with {plan.starts}"
            for ids in (older[i : i + CHUNK] for i in range(0, len(older), CHUNK)):
                self._skip(ids, why)
            self._skip(list(waiting), f"overwritten before the reload that began with {plan.starts}")
            drop_shadows(self._engine, self._config.source.pipeline)
        except CdcError as error:
            logger.warning("the table is reloaded, but the ledger could not be told", error=str(error))

    def _complete(self, plan: Plan) -> None:
        self._engine.query(
            f"UPDATE cdc_processed_files SET {ledger.COMPLETED}, "
            f"{', '.join(f'{c} = a.{c}' for c in ledger.APPLIED_COLUMNS)} "
            "FROM cdc_applied a WHERE a.target_table = ? AND a.generation = ? "
            "AND cdc_processed_files.file_id = a.file_id AND cdc_processed_files.status <> 'completed'",
            [plan.table.target, plan.generation],
        )

    def _add_rows(self, plan: Plan) -> None:
        """Ledger rows of files that nobody had claimed; under the turn, so that no claim adds the same.

        They are `pending` until the swap: without it they are still to be loaded, and after it the sweep, too, finds
        that they are applied.
        """
        source, target = self._config.source, plan.table.target
        with self._engine.transaction() as tx:
            turn = ledger.read_turns(tx, {target}, first=True).get(target)
            protocol.require_turn(turn, self._ledger.claim_id, plan.current)
            tx.execute("UPDATE cdc_tables SET version = version + 1 WHERE turn = ?", [target])
            tx.execute(
                "INSERT INTO cdc_processed_files (file_key, status, processed_at, attempt_count, file_id, pipeline, "
                "turn, bucket, object_key, etag, source_table, target_table, kind, recorded_status, alone_count, "
                "first_seen_at) SELECT a.file_key, 'pending', CURRENT_TIMESTAMP, 1, a.file_id, a.pipeline, "
                "a.target_table, ?, ? || a.file_key, a.etag, ?, a.target_table, a.kind, 'pending', 0, "
                "CURRENT_TIMESTAMP FROM cdc_applied AS a LEFT JOIN cdc_processed_files AS f ON f.file_id = a.file_id "
                "WHERE a.target_table = ? AND a.generation = ? AND f.file_id IS NULL",
                [source.bucket, source.prefix, plan.source_table, target, plan.generation],
            )
            tx.commit()

    def _skip(self, ids: Sequence[str], why: str) -> None:
        if ids:
            sql = (
                "UPDATE cdc_processed_files SET status = 'skipped', recorded_status = 'skipped', error_class = NULL, "
                "error_message = ?, claim_id = NULL, processed_at = CURRENT_TIMESTAMP "
                f"WHERE status <> 'completed' AND file_id IN ({marks(ids)})"
            )
            self._patiently(lambda: self._engine.query(sql, [why, *ids]))


def drop_shadows(engine: Engine, pipeline: str) -> int:
    """Drop the shadow tables of a pipeline's reloads that ended or were given up; returns how many."""
    present = tables(engine)
    rows = engine.query("SELECT shadow FROM cdc_reloads WHERE pipeline = ? AND status <> 'building'", [pipeline])
    shadows = {str(row[0]) for row in rows} & set(present)
    for shadow in sorted(shadows):
        engine.query(f"DROP TABLE IF EXISTS {ident(shadow)}")
    return len(shadows)


def parts(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Cut files into parts of one transaction each, full-load files apart from changes."""
    part: list[Item] = []
    size = 0
    for item in items:
        full = item.file.kind is Kind.FULL
        mixed = part and part[0].file.kind is not item.file.kind
        big = full and (len(part) >= PART_FULL_LOADS or size + item.info.size_bytes > PART_FULL_BYTES)
        if part and (mixed or big or len(part) >= PART_FILES):
            yield part
            part, size = [], 0
        part.append(item)
        size += item.info.size_bytes
    if part:
        yield part
