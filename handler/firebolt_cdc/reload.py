"""Reload: a table begins a new generation, from a full load that DMS wrote anew and every change since.

    plan         (plan.py) which full-load files are new, which changes are as new as the oldest of them; writes nothing
    take turn    so that nobody loads the table meanwhile, and plan again
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
from typing import TypeVar

from firebolt_cdc import aws, ledger, protocol, schema
from firebolt_cdc.apply import (
    PART_FILES,
    PART_FULL_BYTES,
    PART_FULL_LOADS,
    AlreadyAppliedError,
    Applier,
    Place,
    create_table,
    target_columns,
)
from firebolt_cdc.config import Config
from firebolt_cdc.deadline import Deadline, LambdaContext
from firebolt_cdc.engine import Engine, Transaction
from firebolt_cdc.errors import (
    CdcError,
    ConflictError,
    EngineRejectedError,
    PermanentError,
    TransientError,
    TurnLostError,
)
from firebolt_cdc.files import Kind
from firebolt_cdc.ledger import GUARD, UNWANTED, Ledger
from firebolt_cdc.migrations import tables
from firebolt_cdc.parquet import TooLargeError, room_bytes
from firebolt_cdc.plan import Item, Plan, Planner, UndecidedError
from firebolt_cdc.sql import ident, idents, instant, marks
from firebolt_cdc.stage import Prepared, prepare
from firebolt_cdc.storage import Storage
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
class Result:
    """A reload that was swapped in."""

    generation: int
    files: int
    rows_read: int
    superseded: int


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
        self._planner = Planner(config, engine, storage)
        self._ledger = book
        self._deadline = deadline
        self._room = room_bytes(memory_bytes)
        self._applier = Applier(engine, storage, config, deadline)

    @classmethod
    def of(cls, config: Config, engine: Engine, deadline: Deadline, context: LambdaContext) -> Reload:
        """A reload by whoever `context` describes: an invocation, or the operator's machine."""
        book = Ledger(engine, config, deadline, context.aws_request_id, context.invoked_function_arn)
        memory_bytes = int(context.memory_limit_in_mb) * 2**20
        return cls(config, engine, Storage(aws.client("s3"), config), book, deadline, memory_bytes)

    def plan(self, name: str, *, everything: bool = False) -> Plan:
        """See `Planner.plan`."""
        return self._planner.plan(name, everything=everything)

    def run(
        self,
        plan: Plan,
        *,
        allow_gone: bool = False,
        same_task: bool = False,
        drop_older_full_load: bool = False,
        progress: Progress,
    ) -> Result:
        """Carry a plan out. Interrupted at any place, it can be run again.

        Args:
            plan: what `plan` said; files that came meanwhile are added.
            allow_gone: begin the generation without files that were applied and are no longer in S3.
            same_task: see `Plan.doubt`.
            drop_older_full_load: see `Plan.doubt`.
            progress: see `Progress`.

        Raises:
            UndecidedError: there is a doubt; nothing was done, or nothing was swapped.
            PermanentError: a file cannot be applied, or changes are gone from S3; nothing was swapped.
            TurnLostError: the lease ran out and the turn went on; nothing was swapped.
        """

        def require_decided(plan: Plan) -> None:
            if doubt := plan.doubt(same_task=same_task, drop_older_full_load=drop_older_full_load):
                raise UndecidedError(doubt)

        require_decided(plan)
        try:
            self._take_turn(plan)
            confirmed, plan = plan, self.plan(plan.source_table, everything=plan.everything)
            self._require_same(confirmed.starts == plan.starts, plan)
            self._begin(plan)
            while True:
                self._fill(plan, progress)
                filled, plan = plan, self.plan(plan.source_table, everything=plan.everything)
                self._require_same((filled.starts, filled.generation) == (plan.starts, plan.generation), plan)
                require_decided(plan)
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
                ledger.touch_turns(tx, {target})
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
        with self._engine.transaction() as tx:
            turn = ledger.read_turns(tx, {table.target}, first=True).get(table.target)
            protocol.require_turn(turn, self._ledger.claim_id, plan.current)
            ledger.write_turn(tx, table.target, self._ledger.claim_id, load_id)
            self._require_complete(tx, plan, allow_gone=allow_gone)
            self._keep_settled(tx, plan, [table.target, load_id])
            if not present:
                tx.execute(create_table(table.target, shadow, table.primary_key))
            tx.execute(f"DELETE FROM {ident(table.target)} WHERE EXISTS ({GUARD})", [table.target, load_id])
            columns = [column.name for column in shadow]
            tx.execute(
                f"INSERT INTO {ident(table.target)} ({idents(columns)}) SELECT {idents(columns, 's.')} "
                f"FROM {ident(plan.shadow)} AS s WHERE EXISTS ({GUARD})",
                [table.target, load_id],
            )
            tx.execute(
                "UPDATE cdc_reloads SET status = 'done', ended_at = CURRENT_TIMESTAMP "
                f"WHERE turn = ? AND generation = ? AND EXISTS ({GUARD})",
                [table.target, plan.generation, table.target, load_id],
            )
            tx.execute(
                "UPDATE cdc_tables SET generation = ?, generation_started_at = CAST(? AS TIMESTAMPTZ), "
                "order_format = ?, holder = NULL, lease_until = NULL WHERE turn = ? AND load_id = ?",
                [plan.generation, instant(plan.starts), table.order_format, table.target, load_id],
            )
            tx.commit()

    def _keep_settled(self, tx: Transaction, plan: Plan, guard: list[object]) -> None:
        """Changes that an operator settled as unwanted are so in the new generation."""
        for items in (plan.settled[i : i + CHUNK] for i in range(0, len(plan.settled), CHUNK)):
            ids = [
                applied_id
                for item in items
                for applied_id in (item.file.applied_id(plan.generation), item.file.applied_id(plan.current))
            ]
            tx.execute(
                "INSERT INTO cdc_applied (applied_id, file_id, key_id, pipeline, target_table, generation, file_key, "
                "etag, kind, file_modified_at, load_id, schema_change, applied_at) SELECT v.applied_id, a.file_id, "
                "a.key_id, a.pipeline, a.target_table, ?, a.file_key, a.etag, a.kind, a.file_modified_at, a.load_id, "
                f"a.schema_change, CURRENT_TIMESTAMP FROM (VALUES {', '.join(['(?, ?)'] * len(items))}) "
                f"AS v (applied_id, before) JOIN cdc_applied AS a ON a.applied_id = v.before WHERE EXISTS ({GUARD})",
                [plan.generation, *ids, *guard],
            )

    def _require_complete(self, tx: Transaction, plan: Plan, *, allow_gone: bool) -> None:
        """The new generation must hold the plan, and every change since its start that the old one holds.

        Without a new full load nothing else has the rows of older files, so it must hold every file of the old one.
        """
        target = plan.table.target
        wanted = {item.file.applied_id(plan.generation) for item in plan.items}
        found = tx.execute(
            "SELECT applied_id FROM cdc_applied WHERE target_table = ? AND generation = ?", [target, plan.generation]
        )
        if missing := wanted - {str(row[0]) for row in found}:
            raise ConflictError(f"{target}: {len(missing)} files of the new generation are not loaded yet")
        since = "" if plan.everything else "AND o.kind = ? AND o.file_modified_at >= CAST(? AS TIMESTAMPTZ) "
        gone = tx.execute(
            "SELECT o.file_key FROM cdc_applied AS o LEFT JOIN (SELECT file_id FROM cdc_applied WHERE target_table = ? "
            "AND generation = ?) AS n ON n.file_id = o.file_id WHERE o.target_table = ? AND o.generation = ? "
            f"{since}AND n.file_id IS NULL AND o.load_id NOT IN ({marks(UNWANTED)}) ORDER BY o.file_key",
            [
                *(target, plan.generation, target, plan.current),
                *([Kind.CHANGE, instant(plan.starts)] if since else []),
                *UNWANTED,
            ],
        )
        if gone and not allow_gone:
            keys = ", ".join(str(row[0]) for row in gone[:5])
            what = "files" if plan.everything else f"change files since {plan.starts}"
            raise PermanentError(
                f"{target}: {len(gone)} {what} were applied and are no longer in S3 ({keys}"
                f"{', …' if len(gone) > 5 else ''}): the new generation would lack what they hold. Restore them, have "
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
            ledger.touch_turns(tx, {target})
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
