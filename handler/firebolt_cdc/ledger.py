"""The ledger in Firebolt: reading it, claiming turns, and recording how each file ended.

The claim is one short transaction for all tables of a batch. It reads the turns, `cdc_applied` and the ledger rows,
decides (`protocol`), and writes. Firebolt has snapshot isolation and lets the first committer win: two claims of one
table both UPDATE the table's row in `cdc_tables`, so one of them fails at COMMIT and reads again. Inserts into the
ledger ride on the same rule: they happen only in a transaction that also UPDATEs the turn.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from firebolt_cdc import protocol
from firebolt_cdc.config import Config
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine, Transaction
from firebolt_cdc.errors import (
    CdcError,
    ConflictError,
    FailureClass,
    LedgerUnavailableError,
    PermanentError,
    SupersededError,
    TimeShortError,
    redact,
)
from firebolt_cdc.files import FileVersion, Kind, SourceFile
from firebolt_cdc.protocol import Decision, LedgerRow, Status, Turn, Verdict
from firebolt_cdc.sql import marks

T = TypeVar("T")

SETTLED_LOAD = "settled-"
"""With the class of the failure behind it, what `cdc_applied` has of a file that was settled by hand (`settle`)."""
UNWANTED = tuple(f"{SETTLED_LOAD}{c}" for c in FailureClass if c is not FailureClass.HELD)
"""Those of files that had failed: nothing of them is in the target, and no reload takes them up again."""
SETTLED = tuple(f"{SETTLED_LOAD}{c}" for c in FailureClass)
"""Those of files of every class."""

CONFLICT_PAUSE_SECONDS = (0.05, 2.0)
"""First and longest pause before a lost commit race is run again; each is drawn at random up to its bound."""


@dataclass(frozen=True)
class Candidate:
    """One file version of a batch, with how many of its deliveries came from S3."""

    file: SourceFile
    s3_deliveries: int
    written_again: bool = False
    """S3 holds it, written since its table's generation began: that an earlier one had it says nothing."""


@dataclass(frozen=True)
class Claimed:
    """One file version with the claim's decision and the generation that it is for."""

    file: SourceFile
    decision: Decision
    generation: int
    superseded_before: datetime | None = None
    """See `Turn.superseded_before`."""


def with_conflict_retries(deadline: Deadline, action: Callable[[], T], reserve_seconds: float = 5.0) -> T:
    """Run `action`, again after each lost commit race, until too little time is left.

    Raises:
        ConflictError: it still conflicts when `reserve_seconds` are left.
    """
    pause, longest = CONFLICT_PAUSE_SECONDS
    while True:
        try:
            return action()
        except ConflictError:
            wait = random.uniform(0, pause)
            if deadline.remaining_seconds() - wait < reserve_seconds:
                raise
            time.sleep(wait)
            pause = min(longest, pause * 2)


class Ledger:
    """What one worker reads and writes in the ledger, under one claim id."""

    def __init__(self, engine: Engine, config: Config, deadline: Deadline, request_id: str, function_arn: str) -> None:
        self.claim_id = uuid.uuid4().hex
        self._counted: set[str] = set()
        """Files of which this claim has counted an attempt that has not failed: untried, they get it back."""
        self._engine = engine
        self._config = config
        self._deadline = deadline
        self._request_id = request_id
        self._function_arn = function_arn

    def claim(self, candidates: Sequence[Candidate]) -> list[Claimed]:
        """STEP 1 and 2: decide about each file version and take the turns of those that are to be loaded.

        Raises:
            CdcError: the ledger could not be read or written; nothing is claimed and nothing may be loaded.
        """
        return with_conflict_retries(self._deadline, lambda: self._claim(candidates))

    def _claim(self, candidates: Sequence[Candidate]) -> list[Claimed]:
        files = [candidate.file for candidate in candidates]
        with self._engine.transaction() as tx:
            turns = read_turns(tx, {name for file in files for name in (file.turn, file.target)}, first=True)
            generations = {f.version: turns[f.turn].generation if f.turn in turns else 0 for f in files}
            applied_ids = {f.version: f.applied_id(generations[f.version]) for f in files}
            applied = read_applied(tx, list(applied_ids.values()))
            reloaded = [c.file for c in candidates if generations[c.file.version] > 1 and not c.written_again]
            earlier = read_earlier(tx, reloaded, generations)
            rows = read_rows(tx, [file.version.file_id for file in files])
            owners = self._read_owners(tx, {file.target for file in files if not file.listed}, turns)
            reloads = read_reloads(tx, [file for file in files if file.kind is Kind.FULL], generations)
            claimed = [
                Claimed(
                    c.file,
                    self._decide(
                        c,
                        turns,
                        owners.get(c.file.target),
                        applied_ids[c.file.version] in applied,
                        c.file.version in earlier,
                        rows,
                        c.file.version in reloads,
                    ),
                    generations[c.file.version],
                    turns[c.file.turn].superseded_before if c.file.turn in turns else None,
                )
                for c in candidates
            ]
            wrote = self._write_claim(tx, candidates, claimed, rows)
            if wrote:
                tx.commit()
        return claimed

    def _decide(
        self,
        candidate: Candidate,
        turns: dict[str, Turn],
        owner: str | None,
        applied: bool,
        earlier: bool,
        rows: dict[str, LedgerRow],
        reloaded: bool,
    ) -> Decision:
        file = candidate.file
        turn = turns.get(file.turn)
        if turn is not None and owner is not None:
            turn = replace(turn, pipeline=owner)
        elif not file.listed and file.target in turns:
            return protocol.decide_own_turn(turns[file.target], file.source_table)
        return protocol.decide_claim(
            applied=applied and self._config.deduplication_enabled,
            earlier=earlier and self._config.deduplication_enabled,
            turn=turn,
            row=rows.get(file.version.file_id),
            pipeline=self._config.source.pipeline,
            order_format=file.table.order_format,
            max_attempts=self._config.loader.max_attempts,
            reloaded=reloaded,
            listed=file.listed,
            announced=candidate.s3_deliveries > 0,
        )

    def _read_owners(self, tx: Transaction, targets: set[str], turns: dict[str, Turn]) -> dict[str, str]:
        """The other pipelines of these targets of unlisted tables, which have no turn that says whose they are: those
        that list them, or have loaded into them. Two that begin at once are both refused from then on."""
        if not targets:
            return {}
        pipeline, names = self._config.source.pipeline, sorted(targets)
        found = tx.execute(
            f"SELECT DISTINCT target_table, pipeline FROM cdc_applied WHERE target_table IN ({marks(names)}) "
            "AND pipeline <> ?",
            [*names, pipeline],
        )
        listed = {name: turns[name].pipeline for name in names if name in turns and turns[name].pipeline != pipeline}
        return {str(row[0]): str(row[1]) for row in found} | listed

    def _write_claim(
        self,
        tx: Transaction,
        candidates: Sequence[Candidate],
        claimed: Sequence[Claimed],
        rows: dict[str, LedgerRow],
    ) -> bool:
        winners = [c for c in claimed if c.decision.verdict is Verdict.CLAIM]
        holds = [c for c in claimed if c.decision.verdict is Verdict.HOLD]
        by_turn: dict[str, int] = {}
        for winner in winners:
            by_turn[winner.file.turn] = by_turn.get(winner.file.turn, 0) + 1
        self._counted = {c.file.version.file_id for c in winners if by_turn[c.file.turn] == 1}
        if by_turn:
            tx.execute(
                "UPDATE cdc_tables SET holder = ?, lease_until = DATE_ADD('second', ?, CURRENT_TIMESTAMP), "
                f"version = version + 1, updated_at = CURRENT_TIMESTAMP WHERE turn IN ({marks(list(by_turn))}) "
                "AND (holder IS NULL OR lease_until IS NULL OR lease_until <= CURRENT_TIMESTAMP)",
                [self.claim_id, int(self._deadline.remaining_seconds()), *by_turn],
            )
        touch_turns(tx, {c.file.turn for c in holds if c.file.version.file_id not in rows} - set(by_turn))
        new = [c for c in winners + holds if c.file.version.file_id not in rows]
        if new:
            self._insert(tx, [(c, by_turn.get(c.file.turn) == 1) for c in new])
        for fresh in (False, True):
            for alone in (False, True):
                ids = [
                    c.file.version.file_id
                    for c in winners
                    if c.file.version.file_id in rows
                    and c.decision.fresh_budget is fresh
                    and (by_turn[c.file.turn] == 1) is alone
                ]
                self._take(tx, ids, fresh=fresh, alone=alone)
        mended = [c.file.version.file_id for c in claimed if c.decision.mend]
        if mended:
            tx.execute(*_mend(mended))
        held = [c for c in holds if (row := rows.get(c.file.version.file_id)) is not None and not row.held]
        _write_reasons(tx, held, Status.PENDING, "error_class = 'held', merge_asked = FALSE")
        given_up = [c for c in claimed if c.decision.give_up]
        _write_reasons(tx, given_up, Status.FAILED, "error_class = COALESCE(error_class, 'transient'), claim_id = NULL")
        self._move(tx, [c.file for c in [*winners, *holds, *given_up]], rows)
        duplicates = self._duplicates(tx, candidates, claimed)
        return bool(by_turn or new or mended or held or given_up or duplicates)

    def _insert(self, tx: Transaction, new: Sequence[tuple[Claimed, bool]]) -> None:
        values: list[object] = []
        for c, alone in new:
            hold = c.decision.verdict is Verdict.HOLD
            status = Status.PENDING if hold else Status.PROCESSING
            file, version = c.file, c.file.version
            values += [
                file.file_key,
                status,
                self._request_id,
                redact(c.decision.reason) if hold else None,
                0 if hold else 1,
                self._function_arn,
                version.file_id,
                self._config.source.pipeline,
                file.turn,
                version.bucket,
                version.key,
                version.etag,
                file.source_table,
                file.target,
                file.kind,
                status,
                None if hold else self.claim_id,
                1 if alone and not hold else 0,
                FailureClass.HELD if hold else None,
            ]
        width = len(values) // len(new)
        row = f"(CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, {', '.join('?' * width)})"
        tx.execute(
            "INSERT INTO cdc_processed_files (processed_at, first_seen_at, file_key, status, request_id, "
            "error_message, attempt_count, lambda_arn, file_id, pipeline, turn, bucket, object_key, etag, "
            "source_table, target_table, kind, recorded_status, claim_id, alone_count, error_class) "
            f"VALUES {', '.join([row] * len(new))}",
            values,
        )

    def _take(self, tx: Transaction, file_ids: Sequence[str], *, fresh: bool, alone: bool) -> None:
        if not file_ids:
            return
        attempts = "1" if fresh else "COALESCE(attempt_count, 0) + 1"
        alone_count = ("0" if fresh else "alone_count") + (" + 1" if alone else "")
        tx.execute(
            f"UPDATE cdc_processed_files SET status = 'processing', recorded_status = 'processing', claim_id = ?, "
            f"request_id = ?, lambda_arn = ?, attempt_count = {attempts}, alone_count = {alone_count}, "
            "processed_at = CURRENT_TIMESTAMP, error_message = NULL, error_class = NULL, enqueued_at = NULL, "
            "merge_asked = CASE WHEN status IN ('pending', 'processing', 'failed') THEN merge_asked ELSE FALSE END "
            f"WHERE file_id IN ({marks(file_ids)})",
            [self.claim_id, self._request_id, self._function_arn, *file_ids],
        )

    def _move(self, tx: Transaction, files: Sequence[SourceFile], rows: dict[str, LedgerRow]) -> None:
        """Write into rows that exist where their files go now: the table may have been listed, or renamed, since."""
        moved = []
        for file in files:
            row, now = rows.get(file.version.file_id), (file.turn, file.source_table, file.target, file.kind)
            if row is not None and (row.turn, row.source_table, row.target_table, row.kind) != now:
                moved.append((file.version.file_id, *now))
        if moved:
            columns = ("file_id", "turn", "source_table", "target_table", "kind")
            first = f"SELECT {', '.join(f'? AS {column}' for column in columns)}"
            new = " UNION ALL ".join([first, *[f"SELECT {marks(columns)}"] * (len(moved) - 1)])
            tx.execute(
                f"UPDATE cdc_processed_files SET {', '.join(f'{c} = m.{c}' for c in columns[1:])} "
                f"FROM ({new}) AS m WHERE cdc_processed_files.file_id = m.file_id",
                [value for line in moved for value in line],
            )

    def _duplicates(self, tx: Transaction, candidates: Sequence[Candidate], claimed: Sequence[Claimed]) -> int:
        values: list[object] = []
        for candidate, c in zip(candidates, claimed, strict=True):
            first = 0 if c.decision.verdict is Verdict.DUPLICATE else 1
            for _ in range(max(0, candidate.s3_deliveries - first)):
                values += [
                    c.file.version.file_id,
                    c.file.file_key,
                    self._config.source.pipeline,
                    c.file.target,
                    self._request_id,
                ]
        count = len(values) // 5
        if count:
            rows = ", ".join(["(?, ?, ?, ?, ?, CURRENT_TIMESTAMP)"] * count)
            tx.execute(
                "INSERT INTO cdc_duplicate_deliveries "
                f"(file_id, file_key, pipeline, target_table, request_id, delivered_at) VALUES {rows}",
                values,
            )
        return count

    def start_alone(self, file: SourceFile) -> None:
        """Count an attempt before a file of a batch is tried alone, so that one that kills its worker is counted."""
        self._counted.add(file.version.file_id)
        self._update(
            "UPDATE cdc_processed_files SET alone_count = alone_count + 1 WHERE file_id = ? AND claim_id = ?",
            [file.version.file_id, self.claim_id],
        )

    def take_turn(self, turn: str, generation: int, seconds: float) -> None:
        """Take one table's turn for this claim, without a file: what a reload does.

        Raises:
            ConflictError: another worker holds it, or took it first.
            PermanentError: the turn is missing, another pipeline's, or in another generation by now.
        """
        with self._engine.transaction() as tx:
            found = read_turns(tx, {turn}, first=True).get(turn)
            if found is None or found.pipeline != self._config.source.pipeline or found.generation != generation:
                raise PermanentError(
                    f"{turn}: its row in cdc_tables is missing, another pipeline's, or of another generation than "
                    f"{generation}; run firebolt-cdc doctor"
                )
            if found.holder not in (None, self.claim_id) and found.live:
                raise ConflictError(f"the table {turn} is being loaded by another worker")
            tx.execute(
                "UPDATE cdc_tables SET holder = ?, lease_until = DATE_ADD('second', ?, CURRENT_TIMESTAMP), "
                "version = version + 1, updated_at = CURRENT_TIMESTAMP WHERE turn = ?",
                [self.claim_id, int(seconds), turn],
            )
            tx.commit()

    def set_apart(self, files: Sequence[SourceFile]) -> None:
        """Give files of a batch back so that the next claim tries each alone: like those of a claim that died."""
        ids = [file.version.file_id for file in files]
        self._update(
            "UPDATE cdc_processed_files SET status = 'pending', recorded_status = 'pending', processed_at = "
            f"CURRENT_TIMESTAMP WHERE claim_id = ? AND status = 'processing' AND file_id IN ({marks(ids)})",
            [self.claim_id, *ids],
        )

    def mend(self, files: Sequence[SourceFile]) -> None:
        """Mark `completed` what was found applied."""
        self._update(*_mend([file.version.file_id for file in files]))

    def complete(self, load_id: str) -> None:
        """STEP 4: mark `completed` what stands in `cdc_applied` under `load_id`: success is read, not assumed."""
        self._update(
            f"UPDATE cdc_processed_files SET {COMPLETED}, {', '.join(f'{c} = a.{c}' for c in APPLIED_COLUMNS)} "
            "FROM cdc_applied a WHERE a.load_id = ? AND cdc_processed_files.file_id = a.file_id",
            [load_id],
        )

    def fail(self, file: SourceFile, failure: CdcError, schema_change: str | None = None) -> None:
        """Record how a claimed file failed. Held files stay `pending`, and what a person set to it meanwhile, too.

        To be superseded is no failure: it costs no attempt.
        """
        status = Status.PENDING if failure.failure_class is FailureClass.HELD else Status.FAILED
        if isinstance(failure, SupersededError):
            status = Status.SKIPPED
        file_id = file.version.file_id
        refund = int(status is Status.SKIPPED and file_id in self._counted)
        self._counted.discard(file_id)
        self._update(
            "UPDATE cdc_processed_files SET status = CASE WHEN status = 'pending' THEN status ELSE ? END, "
            "recorded_status = ?, error_class = ?, error_message = ?, schema_change = ?, claim_id = NULL, "
            "alone_count = alone_count - ?, processed_at = CURRENT_TIMESTAMP WHERE file_id = ? AND claim_id = ?",
            [
                status,
                status,
                failure.failure_class,
                redact(str(failure)),
                schema_change,
                refund,
                file_id,
                self.claim_id,
            ],
        )

    def release(self, turns: Sequence[str]) -> None:
        """Give back the turns that this claim still holds, and return its untried files, uncounted, to `pending`.

        A file that a person set to `pending` meanwhile keeps what was recorded, so that the request stays visible. For
        the others a copy of their message goes round: the sweep sends no further one beside it within its interval.
        """
        if turns:
            self._update(
                "UPDATE cdc_tables SET holder = NULL, lease_until = NULL, version = version + 1, "
                f"updated_at = CURRENT_TIMESTAMP WHERE holder = ? AND turn IN ({marks(turns)})",
                [self.claim_id, *turns],
            )
        counted = sorted(self._counted)
        refund = f" - CASE WHEN file_id IN ({marks(counted)}) THEN 1 ELSE 0 END" if counted else ""
        self._update(
            "UPDATE cdc_processed_files SET claim_id = NULL, status = 'pending', "
            "recorded_status = CASE WHEN status = 'pending' THEN recorded_status ELSE 'pending' END, "
            "enqueued_at = CASE WHEN status = 'pending' THEN enqueued_at ELSE CURRENT_TIMESTAMP END, "
            f"alone_count = alone_count{refund}, processed_at = CURRENT_TIMESTAMP "
            "WHERE claim_id = ? AND recorded_status = 'processing'",
            [*counted, self.claim_id],
        )

    def record_unclaimed(
        self,
        version: FileVersion,
        file_key: str,
        status: Status,
        failure: FailureClass | None,
        message: str,
        *,
        anywhere: bool = True,
    ) -> bool:
        """Write the ledger row of a file that no table takes (unlisted, unreadable name, gone before its look-up).

        Args:
            anywhere: a version that was applied to any target is done (its table left the map since). False for one
                that has a target, which the claim has looked for.

        Returns:
            False where the version is applied already: nothing is written.
        """
        turn = self._config.unlisted_turn

        def write() -> bool:
            with self._engine.transaction() as tx:
                if turn not in read_turns(tx, {turn}, first=True):
                    raise LedgerUnavailableError(f"{turn} has no row in cdc_tables: run the migrate function")
                done = "SELECT 1 FROM cdc_applied WHERE file_id = ? LIMIT 1"
                if anywhere and tx.execute(done, [version.file_id]):
                    return False
                known = read_rows(tx, [version.file_id])
                touch_turns(tx, {turn})
                if version.file_id in known:
                    tx.execute(
                        "UPDATE cdc_processed_files SET status = ?, recorded_status = ?, error_class = ?, "
                        "error_message = ?, request_id = ?, attempt_count = COALESCE(attempt_count, 0) + 1, "
                        "processed_at = CURRENT_TIMESTAMP WHERE file_id = ?",
                        [status, status, failure, redact(message), self._request_id, version.file_id],
                    )
                else:
                    tx.execute(
                        "INSERT INTO cdc_processed_files (processed_at, first_seen_at, file_key, status, request_id, "
                        "error_message, attempt_count, lambda_arn, file_id, pipeline, turn, bucket, object_key, etag, "
                        "recorded_status, alone_count, error_class) VALUES (CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, "
                        "?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
                        [
                            file_key,
                            status,
                            self._request_id,
                            redact(message),
                            self._function_arn,
                            version.file_id,
                            self._config.source.pipeline,
                            turn,
                            version.bucket,
                            version.key,
                            version.etag,
                            status,
                            failure,
                        ],
                    )
                tx.commit()
                return True

        return with_conflict_retries(self._deadline, write)

    def _update(self, sql: str, parameters: Sequence[object]) -> None:
        if self._deadline.remaining_seconds() <= 0:
            raise TimeShortError("no time is left to write the ledger; the sweep mends it")
        with_conflict_retries(self._deadline, lambda: self._engine.query(sql, parameters), reserve_seconds=1.0)


ANEW = (
    "status = 'pending', recorded_status = 'failed', error_message = NULL, error_class = NULL, merge_asked = "
    "CASE WHEN status = 'pending' AND error_class = 'held' THEN TRUE WHEN status = 'skipped' THEN FALSE "
    "ELSE merge_asked END"
)
"""What `firebolt-cdc retry` and `load` write: the guide's UPDATE by hand, which also decides about a held file."""


TURN_COLUMNS = (
    "turn, pipeline, holder, CASE WHEN lease_until > CURRENT_TIMESTAMP THEN 1 ELSE 0 END, generation, order_format, "
    "generation_started_at, CASE WHEN source_table IS NULL THEN 0 ELSE 1 END"
)


def turn_of(values: Sequence[Any]) -> Turn:
    """A row of a SELECT of TURN_COLUMNS."""
    name, pipeline, holder, live, generation, order_format, began, listed = values
    return Turn(
        str(name),
        str(pipeline),
        holder,
        bool(int(live)),
        int(generation),
        str(order_format),
        began if int(generation) > 1 else None,
        bool(int(listed)),
    )


def read_turns(tx: Transaction, names: set[str], *, first: bool = False) -> dict[str, Turn]:
    """The turns by name. With `first`, this is the read that begins the transaction."""
    run = tx.begin if first else tx.execute
    rows = run(f"SELECT {TURN_COLUMNS} FROM cdc_tables WHERE turn IN ({marks(list(names))})", sorted(names))
    return {str(row[0]): turn_of(row) for row in rows}


def own_turn(turns: dict[str, Turn], file: SourceFile) -> Turn | None:
    """The turn whose generation says what is applied: the target's own, also after its table has left the map."""
    return turns.get(file.target) or turns.get(file.turn)


def touch_turns(tx: Transaction, turns: set[str]) -> None:
    """Write the turns without taking them, so that two inserts of one ledger row cannot both commit."""
    if turns:
        tx.execute(
            f"UPDATE cdc_tables SET version = version + 1 WHERE turn IN ({marks(list(turns))})",
            sorted(turns),
        )


GUARD = "SELECT 1 FROM cdc_tables WHERE turn = ? AND load_id = ?"
"""True only inside the transaction that has written `load_id` into the turn."""


def write_turn(tx: Transaction, turn: str, claim_id: str, load_id: str, *, release: bool = False) -> None:
    """Write the turn in the name of a load: what makes two loads of one table conflict, and GUARD true in this one.

    Args:
        tx: the load's transaction.
        turn: which turn.
        claim_id: its holder.
        load_id: the load's name, never used before.
        release: give the turn back in the same transaction.

    Raises:
        ConflictError: the transaction does not see its own write: it is lost, or another has the turn.
    """
    tx.execute(
        "UPDATE cdc_tables SET version = version + 1, load_id = ?, updated_at = CURRENT_TIMESTAMP"
        + (", holder = NULL, lease_until = NULL" if release else "")
        + " WHERE turn = ? AND holder = ?",
        [load_id, turn, claim_id],
    )
    if len(tx.execute(GUARD, [turn, load_id])) != 1:
        raise ConflictError(f"{turn}: the transaction does not see its own write of the turn; nothing was applied")


def read_applied(tx: Transaction, applied_ids: Sequence[str]) -> set[str]:
    """Which of these stand in `cdc_applied`."""
    if not applied_ids:
        return set()
    rows = tx.execute(f"SELECT applied_id FROM cdc_applied WHERE applied_id IN ({marks(applied_ids)})", applied_ids)
    return {str(row[0]) for row in rows}


def read_earlier(tx: Transaction, files: Sequence[SourceFile], generations: dict[FileVersion, int]) -> set[FileVersion]:
    """Which of these were applied in an earlier generation of their target."""
    if not files:
        return set()
    ids = [file.version.file_id for file in files]
    found = tx.execute(
        f"SELECT file_id, target_table, generation FROM cdc_applied WHERE file_id IN ({marks(ids)})", ids
    )
    lines = [(str(r[0]), str(r[1]), int(r[2])) for r in found]
    return {
        file.version
        for file in files
        for file_id, target, generation in lines
        if (file_id, target) == (file.version.file_id, file.target) and generation < generations[file.version]
    }


def read_reloads(tx: Transaction, files: Sequence[SourceFile], generations: dict[FileVersion, int]) -> set[FileVersion]:
    """Which of these full-load files have a key that was applied with another etag.

    A version that had failed and was settled is not: nothing of it is in the target.
    """
    if not files:
        return set()
    keys = [file.version.key_id for file in files]
    found = tx.execute(
        f"SELECT key_id, file_id, target_table, generation FROM cdc_applied WHERE key_id IN ({marks(keys)}) "
        f"AND load_id NOT IN ({marks(UNWANTED)})",
        [*keys, *UNWANTED],
    )
    lines = [(str(r[0]), str(r[1]), str(r[2]), int(r[3])) for r in found]
    return {
        file.version
        for file in files
        for key_id, file_id, target, generation in lines
        if (key_id, target, generation) == (file.version.key_id, file.target, generations[file.version])
        and file_id != file.version.file_id
    }


ROW_COLUMNS = (
    "file_id",
    "status",
    "recorded_status",
    "claim_id",
    "alone_count",
    "error_class",
    "error_message",
    "turn",
    "source_table",
    "target_table",
    "kind",
    "merge_asked",
)


def ledger_row(values: Sequence[object]) -> LedgerRow:
    """A row of a SELECT of ROW_COLUMNS."""
    texts = [None if value is None else str(value) for value in values]
    file_id, status, recorded, claim_id, alone_count, error_class, error_message, turn, source, target, kind, _ = texts
    return LedgerRow(
        str(file_id),
        str(status),
        str(recorded),
        claim_id,
        int(str(alone_count)),
        error_class,
        error_message,
        str(turn),
        source,
        target,
        kind,
        merge_asked=bool(values[-1]),
    )


def read_rows(tx: Transaction, file_ids: Sequence[str]) -> dict[str, LedgerRow]:
    """The ledger rows by file id."""
    if not file_ids:
        return {}
    columns = ", ".join(ROW_COLUMNS)
    rows = tx.execute(f"SELECT {columns} FROM cdc_processed_files WHERE file_id IN ({marks(file_ids)})", file_ids)
    return {str(row[0]): ledger_row(row) for row in rows}


COMPLETED = (
    "status = 'completed', recorded_status = 'completed', error_message = NULL, error_class = NULL, claim_id = NULL, "
    "processed_at = CURRENT_TIMESTAMP"
)
APPLIED_COLUMNS = (
    "load_id",
    "rows_read",
    "rows_upserted",
    "rows_deleted",
    "rows_collapsed",
    "rows_dropped",
    "rows_moved",
    "schema_change",
    "file_modified_at",
)
"""What the ledger repeats of `cdc_applied`."""


def _write_reasons(tx: Transaction, claimed: Sequence[Claimed], status: Status, more: str) -> None:
    """Write a status with each file's own reason, in one statement (Firebolt allows 100 in a transaction)."""
    if claimed:
        reasons = " UNION ALL ".join(["SELECT ? AS file_id, ? AS reason", *["SELECT ?, ?"] * (len(claimed) - 1)])
        tx.execute(
            f"UPDATE cdc_processed_files SET status = ?, recorded_status = ?, {more}, "
            "error_message = r.reason, processed_at = CURRENT_TIMESTAMP "
            f"FROM ({reasons}) AS r WHERE cdc_processed_files.file_id = r.file_id",
            [status, status, *(v for c in claimed for v in (c.file.version.file_id, redact(c.decision.reason)))],
        )


def _mend(file_ids: Sequence[str]) -> tuple[str, list[object]]:
    return (
        f"UPDATE cdc_processed_files SET {COMPLETED} WHERE file_id IN ({marks(file_ids)})",
        list(file_ids),
    )
