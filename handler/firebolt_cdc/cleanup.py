"""The cleanup Lambda: finishes what crashed workers left, finds what no event announced, counts duplicates, purges.

| task        | what it does                                                                                        |
| ----------- | --------------------------------------------------------------------------------------------------- |
| `sweep`     | frees expired turns; mends, resets and sends again the ledger's unfinished rows                     |
| `reconcile` | lists the source, compares with `cdc_applied`, announces what nobody announced                      |
| `audit`     | counts doubled primary keys in the merge targets; folds doubled lines of the ledger                 |
| `purge`     | deletes old ledger rows (loaded, skipped), duplicate lines, tombstones and shadows nobody needs     |
| `reload`    | carries out reloads of tables with `reload = "auto"`, once no more of the new full load comes        |

All but `reconcile` leave an engine that has stopped itself asleep: without loads there is nothing new for them.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from firebolt_cdc import aws, ledger, migrations, protocol
from firebolt_cdc import config as configuration
from firebolt_cdc.config import Config, Mode, Reloads, Table
from firebolt_cdc.deadline import Deadline, LambdaContext
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import CdcError, FailureClass, PermanentError
from firebolt_cdc.events import Origin
from firebolt_cdc.files import FileVersion, Kind, SkippedError, identify, is_of_listed
from firebolt_cdc.ledger import with_conflict_retries
from firebolt_cdc.plan import NothingToReloadError, UndecidedError
from firebolt_cdc.protocol import SweepAction
from firebolt_cdc.queues import Queues
from firebolt_cdc.reload import Reload, drop_shadows
from firebolt_cdc.sql import ident, idents, instant, marks, read_parquet
from firebolt_cdc.storage import ObjectInfo, Storage
from firebolt_cdc.telemetry import MetricUnit, count, logger, metrics

TASKS = ("sweep", "reconcile", "audit", "purge", "reload")
CHUNK = 200
"""Ledger rows that one statement of the sweep names."""
LISTED = 20_000
"""Objects of the source that are compared with the ledger at once; a larger bucket takes no more memory."""
Listed = tuple[str, ObjectInfo]
"""An object and its applied id; "" where no table takes it."""
BUSY_INTERVALS = 12
"""How many intervals pass before a file is sent again while its table is being loaded: the message that was sent before
goes round as a copy meanwhile, and each further one would go round beside it."""


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Lambda entry point: `{"task": "sweep"}`; without a task all, in order.

    Raises:
        CdcError: a task failed. Each can be run again at any time.
    """
    task = event.get("task") if isinstance(event, dict) else event
    if task is not None and task not in TASKS:
        raise PermanentError(f"unknown task {task!r}: expected one of {', '.join(TASKS)}")
    config = configuration.load()
    deadline = Deadline.of(context)
    engine = Engine.of(config, deadline)
    cleanup = Cleanup(
        config,
        engine,
        Storage(aws.client("s3"), config),
        Queues(aws.client("sqs"), config.queue),
        deadline,
        context,
    )
    try:
        return {name: cleanup.run(name) for name in ([str(task)] if task else TASKS)}
    finally:
        engine.close()


@dataclass(frozen=True)
class Unfinished:
    """A ledger row that is not completed, as the sweep sees it."""

    row: protocol.LedgerRow
    bucket: str
    object_key: str
    etag: str
    enqueued_lately: bool
    """The sweep, or a worker that gave it back, sent it within the interval, and nobody has claimed it since."""
    enqueued_before: bool
    """The same, within BUSY_INTERVALS of them."""


class Cleanup:
    """The tasks, on one engine."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        storage: Storage,
        queues: Queues,
        deadline: Deadline,
        context: LambdaContext,
    ) -> None:
        self._config = config
        self._engine = engine
        self._storage = storage
        self._queues = queues
        self._deadline = deadline
        self._context = context

    def run(self, task: str) -> dict[str, int | str]:
        """Run one task and return its counts."""
        tasks: dict[str, Callable[[], dict[str, int]]] = {
            "sweep": self.sweep,
            "reconcile": self.reconcile,
            "audit": self.audit,
            "purge": self.purge,
            "reload": self.reload,
        }
        if task != "reconcile" and not self._engine.is_running():
            logger.info("the engine has stopped itself and is left asleep", task=task)
            return {"skipped": "the engine is stopped"}
        migrations.require(self._engine)
        result = tasks[task]()
        logger.info("task done", extra={"task": task, **result})
        return dict(result)

    def sweep(self) -> dict[str, int]:
        """Free expired turns, then decide about each unfinished row (`protocol.decide_sweep`)."""
        freed = self._free_expired()
        self._return_held_for_order()
        room = max(0, self._config.cleanup.queue_limit - self._queues.depth())
        chunks, waiting = self._unfinished()
        counts = {"turns_freed": freed, "mended": 0, "reset": 0, "requeued": 0, "left": waiting}
        turns = self._turns()  # after the rows: a row's worker that does not hold its turn by now is gone
        holders = {turn.holder: turn for turn in turns.values() if turn.holder is not None}
        for unfinished in chunks:
            applied = self._applied(unfinished, turns)
            groups: dict[SweepAction, list[Unfinished]] = {action: [] for action in SweepAction}
            for u in unfinished:
                turn = holders.get(str(u.row.claim_id)) or turns.get(u.row.turn)
                busy = turn is not None and turn.holder is not None and turn.live
                action = protocol.decide_sweep(
                    applied=u.row.file_id in applied,
                    turn=turn,
                    row=u.row,
                    max_attempts=self._config.loader.max_attempts,
                    enqueued_lately=u.enqueued_lately or (busy and u.enqueued_before),
                )
                if action in (SweepAction.REQUEUE, SweepAction.RESET) and not u.row.typed:
                    if room <= 0 and action is SweepAction.REQUEUE:
                        action = SweepAction.LEAVE
                    room -= 1
                groups[action].append(u)
                waiting += action is SweepAction.LEAVE and protocol.needs_operator(
                    u.row, self._config.loader.max_attempts
                )
            counts["mended"] += self._mend(groups[SweepAction.MEND])
            counts["reset"] += self._reset(groups[SweepAction.RESET])
            counts["requeued"] += self._requeue(groups[SweepAction.RESET] + groups[SweepAction.REQUEUE])
            counts["left"] += len(groups[SweepAction.LEAVE])
        count("TurnsFreed", counts["turns_freed"])
        count("FilesRequeued", counts["requeued"])
        count("FilesNeedingOperator", waiting)
        return counts

    def _free_expired(self) -> int:
        pipeline = self._config.source.pipeline

        def free() -> int:
            expired = "pipeline = ? AND holder IS NOT NULL AND lease_until <= CURRENT_TIMESTAMP"
            with self._engine.transaction() as tx:
                found = tx.begin(f"SELECT turn FROM cdc_tables WHERE {expired}", [pipeline])
                if found:
                    tx.execute(
                        "UPDATE cdc_tables SET holder = NULL, lease_until = NULL, version = version + 1, "
                        f"updated_at = CURRENT_TIMESTAMP WHERE {expired}",
                        [pipeline],
                    )
                    tx.commit()
            return len(found)

        return with_conflict_retries(self._deadline, free)

    def _return_held_for_order(self) -> None:
        """Files that are held because their table's order differed, and differs no more, are sent again as if a person
        had asked for them: also those that were held by a version of the loader that does not run any more."""
        pipeline = self._config.source.pipeline
        held = "pipeline = ? AND status = 'pending' AND error_class = ? AND error_message LIKE ?"
        which = [pipeline, FailureClass.HELD, f"{protocol.OTHER_ORDER}%"]
        waiting = {str(r[0]) for r in self._engine.query(f"SELECT turn FROM cdc_processed_files WHERE {held}", which)}
        turns, wanted = self._turns() if waiting else {}, self._config.turns
        agreed = sorted(n for n in waiting if n in turns and turns[n].order_format == wanted.get(n))
        if agreed:
            with_conflict_retries(
                self._deadline,
                lambda: self._engine.query(
                    "UPDATE cdc_processed_files SET recorded_status = 'failed', error_class = NULL, "
                    f"error_message = NULL WHERE {held} AND turn IN ({marks(agreed)})",
                    [*which, *agreed],
                ),
            )

    def _turns(self) -> dict[str, protocol.Turn]:
        with self._engine.transaction() as tx:
            names = {
                str(r[0])
                for r in tx.begin("SELECT turn FROM cdc_tables WHERE pipeline = ?", [self._config.source.pipeline])
            }
            return ledger.read_turns(tx, names) if names else {}

    def _unfinished(self) -> tuple[list[list[Unfinished]], int]:
        """The pipeline's unfinished rows in chunks, those that a person typed first; and how many more there are.

        Left out are those that nothing but a person moves (`protocol.needs_operator`, not typed), of which there may be
        any number, unless `cdc_applied` has their version.
        """
        pipeline = self._config.source.pipeline
        unfinished = "f.pipeline = ? AND f.status NOT IN ('completed', 'skipped')"
        at_rest = (
            "(f.status = f.recorded_status AND ((f.status = 'failed' AND (COALESCE(f.error_class, '') IN (?, ?) "
            "OR f.alone_count >= ?)) OR (f.status = 'pending' AND COALESCE(f.error_class, '') = ?)))"
        )
        final = [FailureClass.PERMANENT, FailureClass.GONE, self._config.loader.max_attempts, FailureClass.HELD]
        columns = (
            f"SELECT {', '.join(f'f.{c}' for c in ledger.ROW_COLUMNS)}, f.bucket, f.object_key, f.etag, "
            "CASE WHEN f.enqueued_at > DATE_ADD('second', ?, CURRENT_TIMESTAMP) THEN 1 ELSE 0 END, "
            "CASE WHEN f.enqueued_at > DATE_ADD('second', ?, CURRENT_TIMESTAMP) THEN 1 ELSE 0 END "
            "FROM cdc_processed_files AS f"
        )
        interval = self._config.cleanup.sweep_interval_seconds
        ages = [-interval, -BUSY_INTERVALS * interval]
        rows = self._engine.query(
            f"{columns} WHERE {unfinished} AND NOT {at_rest} "
            "ORDER BY CASE WHEN f.status <> f.recorded_status THEN 0 ELSE 1 END, f.processed_at",
            [*ages, pipeline, *final],
        )
        applied = self._engine.query(
            f"{columns} INNER JOIN cdc_applied AS a ON a.file_id = f.file_id WHERE {unfinished} AND {at_rest}",
            [*ages, pipeline, *final],
        )
        resting = self._engine.query(
            f"SELECT COUNT(*) FROM cdc_processed_files AS f WHERE {unfinished} AND {at_rest}", [pipeline, *final]
        )
        once = list({str(r[0]): r for r in applied}.values())
        found = [
            Unfinished(
                ledger.ledger_row(r[:-5]), str(r[-5]), str(r[-4]), str(r[-3]), bool(int(r[-2])), bool(int(r[-1]))
            )
            for r in [*rows, *once]
        ]
        chunks = [found[i : i + CHUNK] for i in range(0, len(found), CHUNK)]
        return chunks, max(0, int(resting[0][0]) - len(once))

    def _applied(self, rows: Sequence[Unfinished], turns: dict[str, protocol.Turn]) -> set[str]:
        """The file ids among these that stand in `cdc_applied` for the target that they have now, in its generation.

        A file that was applied to another target is still to be loaded into this one. One that no table takes any more
        is done wherever it was applied.
        """
        if not rows:
            return set()
        ids = [u.row.file_id for u in rows]
        found = self._engine.query(f"SELECT file_id, applied_id FROM cdc_applied WHERE file_id IN ({marks(ids)})", ids)
        lines: dict[str, set[str]] = {}
        for file_id, applied_id in found:
            lines.setdefault(str(file_id), set()).add(str(applied_id))
        applied = set()
        for u in rows:
            try:
                file = identify(self._config, FileVersion(u.bucket, u.object_key, u.etag))
                turn = ledger.own_turn(turns, file)
                wanted = {file.applied_id(turn.generation if turn else 1)}
            except PermanentError:
                wanted = lines.get(u.row.file_id, set())
            if wanted & lines.get(u.row.file_id, set()):
                applied.add(u.row.file_id)
        return applied

    def _mend(self, rows: Sequence[Unfinished]) -> int:
        return self._mark(
            rows,
            "status = 'completed', recorded_status = 'completed', error_message = NULL, "
            "error_class = NULL, claim_id = NULL",
        )

    def _reset(self, rows: Sequence[Unfinished]) -> int:
        """Back to `pending`; the claim id stays, so that the next claim tries the file alone."""
        return self._mark(
            rows,
            "status = 'pending', recorded_status = 'pending', error_class = 'transient', "
            "error_message = 'its last worker died without a word'",
            f"AND status = 'processing' AND (claim_id IS NULL OR claim_id IN ({marks(rows)}))",
            [u.row.claim_id for u in rows],
        )

    def _mark(
        self, rows: Sequence[Unfinished], what: str, condition: str = "", parameters: Sequence[object] = ()
    ) -> int:
        ids = [u.row.file_id for u in rows]
        if ids:
            with_conflict_retries(
                self._deadline,
                lambda: self._engine.query(
                    f"UPDATE cdc_processed_files SET {what}, processed_at = CURRENT_TIMESTAMP "
                    f"WHERE file_id IN ({marks(ids)}) {condition}",
                    [*ids, *parameters],
                ),
            )
        return len(ids)

    def _requeue(self, rows: Sequence[Unfinished]) -> int:
        """Send, and only then note that it was sent: a sweep that dies in between sends twice, which is harmless."""
        if not rows:
            return 0
        sent = self._queues.announce([(u.bucket, u.object_key, u.etag) for u in rows], Origin.SWEEP, datetime.now(UTC))
        ids = [u.row.file_id for u in rows]
        with_conflict_retries(
            self._deadline,
            lambda: self._engine.query(
                f"UPDATE cdc_processed_files SET enqueued_at = CURRENT_TIMESTAMP WHERE file_id IN ({marks(ids)})",
                ids,
            ),
        )
        return sent

    def reconcile(self) -> dict[str, int]:
        """Announce the objects that stand neither in `cdc_applied` nor, unfinished, in the ledger.

        Files of tables that were skipped and are listed now are among them. A long queue is left to shrink first: what
        it holds has no ledger row yet and would only be announced again. For the same reason the metric counts what is
        missing beyond the queue's length only: that many at least were announced by nobody.
        """
        until = datetime.now(UTC) - timedelta(seconds=self._config.cleanup.reconcile_grace_seconds)
        depth = self._queues.depth()
        room = max(0, self._config.cleanup.queue_limit - depth)
        listed, missing, sent = 0, 0, 0
        for objects in self._listed():
            due = [one for one in objects if one[1].last_modified <= until and self._wanted(one[1])]
            listed += len(due)
            found = self._missing(due) if due else []
            missing += len(found)
            announced = found[: room - sent]
            sent += self._queues.announce(announced, Origin.SWEEP, datetime.now(UTC))
            for _, key, _ in announced[:20]:
                logger.warning("a file that is neither applied nor in the ledger is announced", object_key=key)
        count("MissingFiles", max(0, missing - depth))
        return {"listed": listed, "missing": missing, "sent": sent}

    def _wanted(self, info: ObjectInfo) -> bool:
        """Whether an object is not left out by `start_after`."""
        after = self._config.source.start_after
        return after is None or info.last_modified > after

    def _missing(self, objects: Sequence[Listed]) -> list[tuple[str, str, str]]:
        """Bucket, key and etag of those that stand neither in `cdc_applied` nor, unfinished, in the ledger."""
        with self._staged(objects) as (reading, where):
            found = self._engine.query(
                f"SELECT l.bucket, l.object_key, l.etag FROM {reading} AS l "
                "LEFT JOIN cdc_applied a ON a.applied_id = l.applied_id "
                "LEFT JOIN cdc_processed_files f ON f.file_id = l.file_id "
                "LEFT JOIN (SELECT DISTINCT file_id FROM cdc_applied) b ON b.file_id = l.file_id "
                "WHERE (l.applied_id <> '' AND a.applied_id IS NULL "
                "AND (f.file_id IS NULL OR f.status IN ('completed', 'skipped'))) "
                "OR (l.applied_id = '' AND f.file_id IS NULL AND b.file_id IS NULL) ORDER BY l.object_key",
                where,
            )
        return [(str(r[0]), str(r[1]), str(r[2])) for r in found]

    def _listed(self) -> Iterator[list[Listed]]:
        """The objects of the source, LISTED at a time, but for those that no table wants: skipped, or superseded."""
        turns = self._turns()
        objects: list[Listed] = []
        for info in self._storage.listing():
            try:
                file = identify(self._config, info.version)
            except SkippedError:
                continue  # the configuration leaves it out; its event wrote the `skipped` line
            except PermanentError:
                objects.append(("", info))  # announced, so that the loader writes its `failed` line
            else:
                turn = ledger.own_turn(turns, file)
                if protocol.superseded(turn, info.last_modified):
                    continue
                objects.append((file.applied_id(turn.generation if turn else 1), info))
            if len(objects) == LISTED:
                yield objects
                objects = []
        if objects:
            yield objects

    @contextlib.contextmanager
    def _staged(self, objects: Sequence[Listed]) -> Iterator[tuple[str, list[object]]]:
        """A part of the listing as a Parquet file, to be joined in the engine: READ_PARQUET and its parameters."""
        buffer = io.BytesIO()
        versions = [info.version for _, info in objects]
        columns = {
            "applied_id": [applied_id for applied_id, _ in objects],
            "file_id": [version.file_id for version in versions],
            "bucket": [version.bucket for version in versions],
            "object_key": [version.key for version in versions],
            "etag": [version.etag for version in versions],
            "last_modified": [instant(info.last_modified) for _, info in objects],
            "wanted": [self._wanted(info) for _, info in objects],
        }
        pq.write_table(pa.table(columns), buffer)
        with self._storage.staged(f"listing-{self._config.name}-{uuid.uuid4().hex}.parquet", buffer.getvalue()) as key:
            yield read_parquet(self._config, staged=key)

    def audit(self) -> dict[str, int]:
        """Count rows beyond the first of each primary key, and file versions that were applied more than once.

        The latter within the retention: `cdc_applied` keeps its lines for good, and an alarm has to end.
        """
        present = migrations.tables(self._engine)
        doubled = checked = 0
        for table in self._config.tables.values():
            if table.mode is not Mode.MERGE or table.target not in present:
                continue
            key = idents(table.primary_key)
            rows = self._engine.query(
                "SELECT COALESCE(SUM(n - 1), 0) FROM "
                f"(SELECT COUNT(*) AS n FROM {ident(table.target)} GROUP BY {key}) AS k"
            )
            checked, found = checked + 1, int(rows[0][0])
            doubled += found
            if found:
                logger.error("duplicate primary keys", table=table.target, rows=found)
        files, repeated = self._engine.query(
            "SELECT COUNT(*), COALESCE(SUM(CASE WHEN n > 1 THEN 1 ELSE 0 END), 0) FROM "
            "(SELECT COUNT(*) AS n FROM cdc_applied WHERE pipeline = ? GROUP BY applied_id "
            "HAVING MAX(applied_at) > DATE_ADD('day', ?, CURRENT_TIMESTAMP)) AS k",
            [self._config.source.pipeline, -self._config.cleanup.retention_days],
        )[0]
        folded = self._fold_doubled_lines()
        count("DuplicateRows", doubled)
        count("DuplicateFilesPercent", 100 * int(repeated) / max(1, int(files)), MetricUnit.Percent)
        return {
            "tables": checked,
            "duplicate_rows": doubled,
            "duplicate_files": int(repeated),
            "ledger_lines_folded": folded,
        }

    def _fold_doubled_lines(self) -> int:
        """Leave one ledger row to each file version: the completed one, else a held one, else the newest.

        Two versions of the configuration that run side by side, and disagree whether a table is listed, write under
        different turns, so that two inserts of one file's row do not conflict. Its data is applied once all the same.
        """
        pipeline = self._config.source.pipeline
        doubled = self._engine.query(
            "SELECT file_id FROM cdc_processed_files WHERE pipeline = ? GROUP BY file_id HAVING COUNT(*) > 1 "
            f"AND SUM(CASE WHEN status = 'processing' THEN 1 ELSE 0 END) = 0 LIMIT {CHUNK}",
            [pipeline],
        )

        def fold(file_id: str) -> int:
            with self._engine.transaction() as tx:
                rows = tx.begin(
                    "SELECT turn, first_seen_at FROM cdc_processed_files WHERE pipeline = ? AND file_id = ? "
                    "ORDER BY CASE WHEN status = 'completed' THEN 0 WHEN error_class = 'held' THEN 1 ELSE 2 END, "
                    "processed_at DESC",
                    [pipeline, file_id],
                )
                if len(rows) > 1:
                    turn, first_seen = rows[0]
                    tx.execute(
                        "DELETE FROM cdc_processed_files WHERE pipeline = ? AND file_id = ? "
                        "AND (turn <> ? OR first_seen_at <> CAST(? AS TIMESTAMPTZ))",
                        [pipeline, file_id, turn, instant(first_seen)],
                    )
                    tx.commit()
                return len(rows) - 1

        return sum(with_conflict_retries(self._deadline, partial(fold, str(row[0]))) for row in doubled)

    def purge(self) -> dict[str, int]:
        """Delete what is past the retention: ledger rows of files that are loaded or left out, duplicate lines; settled
        tombstones; and the shadow tables that reloads left."""
        days, pipeline = self._config.cleanup.retention_days, self._config.source.pipeline
        old = "< DATE_ADD('day', ?, CURRENT_TIMESTAMP)"
        purged = {
            "ledger": self._delete(
                "cdc_processed_files",
                "pipeline = ? AND status IN ('completed', 'skipped') AND recorded_status = status "
                f"AND processed_at {old}",
                [pipeline, -days],
            ),
            "duplicate_lines": self._delete(
                "cdc_duplicate_deliveries", f"pipeline = ? AND delivered_at {old}", [pipeline, -days]
            ),
        }
        floor = self._tombstone_floor()
        targets = [table.target for table in self._config.tables.values()]
        purged["tombstones"] = 0
        for target in targets:
            purged["tombstones"] += self._delete(
                "cdc_tombstones",
                f"target_table = ? AND file_modified_at < CAST(? AS TIMESTAMPTZ) AND file_modified_at {old}",
                [target, instant(floor), -days],
            )
        purged["shadows"] = drop_shadows(self._engine, pipeline)
        return purged

    def reload(self) -> dict[str, int]:
        """Carry out held reloads of tables with `reload = "auto"`. What time cuts off goes on at the next run.

        What only a person can decide (`Plan.doubt`) stays held, and alarmed by that.

        Raises:
            CdcError: a reload failed; the others were tried all the same.
        """
        held = self._held_full_loads() if any(t.reload is Reloads.AUTO for t in self._config.tables.values()) else set()
        counts = {"reloaded": 0, "still_written": 0, "undecided": 0}
        failures: list[CdcError] = []
        for table in self._config.tables.values():
            if table.reload is Reloads.AUTO and table.target in held:
                try:
                    counts[self._reload(table)] += 1
                except NothingToReloadError:
                    continue  # held for another reason
                except UndecidedError as error:
                    logger.warning("the reload waits for a person", table=table.target, reason=str(error))
                    counts["undecided"] += 1
                except CdcError as error:
                    logger.error("the reload failed", table=table.target, error=str(error))
                    failures.append(error)
        count("TablesReloaded", counts["reloaded"])
        if failures:
            raise failures[0]
        return counts

    def _held_full_loads(self) -> set[str]:
        """The targets of full-load files that wait for a decision, also of those held before their table was listed."""
        rows = self._engine.query(
            "SELECT bucket, object_key, etag FROM cdc_processed_files WHERE pipeline = ? AND status = 'pending' "
            "AND error_class = ?",
            [self._config.source.pipeline, FailureClass.HELD],
        )
        targets = set()
        for bucket, key, etag in rows:
            with contextlib.suppress(PermanentError):  # of no table any more
                file = identify(self._config, FileVersion(str(bucket), str(key), str(etag)))
                if file.kind is Kind.FULL:
                    targets.add(file.target)
        return targets

    def _reload(self, table: Table) -> str:
        work = Reload.of(self._config, self._engine, self._deadline, self._context)
        plan = work.plan(table.target)
        quiet = datetime.now(UTC) - timedelta(seconds=self._config.cleanup.reload_quiet_seconds)
        if max(item.info.last_modified for item in plan.full) > quiet:
            return "still_written"
        result = work.run(plan, progress=lambda done, total: None)
        logger.warning("the table was reloaded", table=table.target, **asdict(result))
        return "reloaded"

    def _tombstone_floor(self) -> datetime:
        """The age below which every object of the source is applied, so that no older insert can still come.

        One whose name its table's patterns do not fit comes once they are corrected, unless it is settled. One that
        `start_after` leaves out comes only where the ledger has it as unfinished: `retry` loads that.
        """
        floor = datetime.now(UTC)
        for objects in self._listed():
            may_come = [
                (applied_id, info)
                for applied_id, info in objects
                if applied_id or is_of_listed(self._config, info.version)
            ]
            if not may_come:
                continue
            with self._staged(may_come) as (reading, where):
                rows = self._engine.query(
                    f"SELECT MIN(CAST(l.last_modified AS TIMESTAMPTZ)) FROM {reading} AS l "
                    "LEFT JOIN cdc_applied a ON a.applied_id = l.applied_id "
                    "LEFT JOIN (SELECT DISTINCT file_id FROM cdc_applied) b ON b.file_id = l.file_id "
                    "LEFT JOIN cdc_processed_files f ON f.file_id = l.file_id "
                    "WHERE a.applied_id IS NULL AND (l.applied_id <> '' OR b.file_id IS NULL) "
                    "AND (l.wanted OR f.status IN ('failed', 'pending', 'processing'))",
                    where,
                )
            floor = min([floor, *(row[0] for row in rows if row[0] is not None)])
        return floor

    def _delete(self, table: str, condition: str, parameters: Sequence[object]) -> int:
        """Delete and return how many; counted first, because the engine does not say."""
        found = int(self._engine.query(f"SELECT COUNT(*) FROM {table} WHERE {condition}", parameters)[0][0])
        if found:
            with_conflict_retries(
                self._deadline,
                lambda: self._engine.query(f"DELETE FROM {table} WHERE {condition}", parameters),
            )
        return found
