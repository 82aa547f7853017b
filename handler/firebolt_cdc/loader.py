"""The loader Lambda: takes deliveries, claims their tables' turns, applies their files, and says how each ended.

    SQS batch                 -> {"batchItemFailures": [...]}: only what could be neither loaded, kept nor sent on
    EventBridge event, by hand -> the guide's answers; a failure raises

Every message ends in one of these ways: loaded, duplicate, skipped or held (acknowledged, in the ledger), waiting
(a delayed copy is on the queue), rejected (on the dead-letter queue with its reason), or not acknowledged.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from firebolt_cdc import aws, events, files, migrations
from firebolt_cdc import config as configuration
from firebolt_cdc.apply import (
    PART_FILES,
    PART_FULL_BYTES,
    PART_FULL_LOADS,
    AlreadyAppliedError,
    Applier,
    Loaded,
    Place,
    target_columns,
)
from firebolt_cdc.config import Config
from firebolt_cdc.deadline import Deadline, LambdaContext
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import (
    BlockedError,
    CdcError,
    ConflictError,
    DriftError,
    EngineRejectedError,
    FailureClass,
    GoneError,
    HeldError,
    OutageError,
    PermanentError,
    SupersededError,
    TooSlowError,
    TransientError,
    TurnLostError,
    UnexpectedError,
    classified,
    redact,
)
from firebolt_cdc.events import Delivery, Origin
from firebolt_cdc.files import FileVersion, Kind, SkippedError, SourceFile
from firebolt_cdc.ledger import SETTLED, Candidate, Claimed, Ledger
from firebolt_cdc.parquet import TooLargeError, room_bytes
from firebolt_cdc.protocol import RELOADED, Status, Verdict, target_lost, way_out
from firebolt_cdc.queues import Queues, dead_letter_body
from firebolt_cdc.schema import CHANGE_LENGTH, RESERVED, Column, add_column
from firebolt_cdc.sql import marks
from firebolt_cdc.stage import Counts, Prepared, prepare
from firebolt_cdc.storage import ObjectInfo, Storage
from firebolt_cdc.telemetry import (
    STEP_CHECK,
    STEP_COMPLETE,
    STEP_MARK,
    STEP_PROCESS,
    MetricUnit,
    count,
    logger,
    metrics,
)

CLAIM_FILES = 200
"""File versions of one claim; a larger batch is claimed and loaded in several."""
START_SECONDS = 12.0
"""With less than this left, no further part is begun."""
WHOLE_SHARE = 0.75
"""Which share of an invocation's time counts as a whole invocation."""


class Ending(StrEnum):
    """How a file's turn in this invocation ended."""

    LOADED = "loaded"
    DUPLICATE = "duplicate"
    WAITING = "waiting"
    HELD = "held"
    SKIPPED = "skipped"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Outcome:
    """An ending, with its reason where it is not success."""

    ending: Ending
    file_key: str
    reason: str = ""
    failure: FailureClass | None = None
    counts: Counts | None = None


@dataclass
class Work:
    """Files of one target under one turn that are still to be loaded, in parts; the next part is the last element."""

    turn: str
    generation: int
    last: bool = False
    """Whether no other target of this invocation loads under the same turn, so that its last part gives it back."""
    parts: list[tuple[list[Claimed], bool]] = field(default_factory=list)
    """Each with whether its attempt has been counted (a file that was claimed alone)."""


class Worker:
    """One invocation's work."""

    def __init__(
        self, config: Config, engine: Engine, ledger: Ledger, storage: Storage, deadline: Deadline, memory_bytes: int
    ) -> None:
        self._config = config
        self.engine = engine
        self._ledger = ledger
        self._storage = storage
        self._deadline = deadline
        self._seconds = deadline.remaining_seconds()
        self._room = room_bytes(memory_bytes)
        self._applier = Applier(engine, storage, config, deadline)
        self._outcomes: dict[FileVersion, Outcome] = {}
        self._held: set[str] = set()
        """Turns that this worker holds, or may hold."""
        self._written_again: dict[FileVersion, Candidate] = {}
        """What an earlier generation had, and DMS has written again since: claimed once more."""
        self._first_changes: dict[str, list[datetime]] = {}
        """When the changes of a source table on the first page of its folder's listing were written."""
        self._outage: OutageError | None = None
        """That AWS did not answer: it is not asked again in this invocation, and the files that are left wait."""
        self._untried = False
        """Whether rows of this claim may still say `processing` although nobody works on them."""

    def run(self, deliveries: Sequence[Delivery]) -> list[tuple[Outcome, list[Delivery]]]:
        """Load what the deliveries announce; one outcome for each file version, with its deliveries."""
        versions = self._versions(deliveries)
        candidates = []
        for version, announced in versions.items():
            logger.info(
                STEP_CHECK,
                step=STEP_CHECK,
                file_key=files.file_key(self._config, version.key),
                etag=version.etag,
            )
            file = self._identify(version)
            if file is not None:
                candidates.append(Candidate(file, sum(d.origin is Origin.S3 for d in announced)))
        try:
            for start in range(0, len(candidates), CLAIM_FILES):
                self._load(candidates[start : start + CLAIM_FILES])
            if self._written_again:
                self._load(list(self._written_again.values()))
        except Exception:
            duplicates = sum(outcome.ending is Ending.DUPLICATE for outcome in self._outcomes.values())
            count("LoaderErrorsDueToDuplicates", duplicates)
            raise
        return [(self._outcomes[version], announced) for version, announced in versions.items()]

    def _versions(self, deliveries: Sequence[Delivery]) -> dict[FileVersion, list[Delivery]]:
        """Fold deliveries by file version; those without an etag are looked up."""
        folded: dict[FileVersion, list[Delivery]] = {}
        for delivery in deliveries:
            version = FileVersion(delivery.bucket, delivery.key, delivery.etag or "")
            if delivery.etag is None and delivery.bucket == self._config.source.bucket:
                try:
                    version = self._look_up(delivery.bucket, delivery.key).version
                except GoneError as error:
                    self._refuse(version, Status.FAILED, error)
                except CdcError as error:
                    self._end(version, Ending.WAITING, str(error), error.failure_class)
            folded.setdefault(version, []).append(delivery)
        return folded

    def _identify(self, version: FileVersion) -> SourceFile | None:
        if version in self._outcomes:
            return None
        try:
            return files.identify(self._config, version)
        except SkippedError as error:
            self._refuse(version, Status.SKIPPED, error)
        except PermanentError as error:
            self._refuse(version, Status.FAILED, error)
        return None

    def _refuse(self, version: FileVersion, status: Status, error: CdcError, *, anywhere: bool = True) -> None:
        """Write down a file that no table takes; if that cannot be written, the file waits.

        `anywhere`: see `Ledger.record_unclaimed`.
        """
        key = files.file_key(self._config, version.key)
        try:
            written = self._ledger.record_unclaimed(
                version, key, status, error.failure_class, str(error), anywhere=anywhere
            )
        except CdcError as unwritten:
            self._ledger_failed([version], unwritten)
            return
        if not written:
            self._end(version, Ending.DUPLICATE)
            return
        ending = Ending.SKIPPED if status is Status.SKIPPED else Ending.REJECTED
        self._end(version, ending, str(error), error.failure_class)

    def _load(self, candidates: Sequence[Candidate]) -> None:
        self._held = {candidate.file.turn for candidate in candidates}
        try:
            try:
                claimed = self._ledger.claim(candidates)
            except CdcError as error:
                self._ledger_failed([candidate.file.version for candidate in candidates], error)
                return
            self._held = {c.file.turn for c in claimed if c.decision.verdict is Verdict.CLAIM}
            for work in self._sort(claimed):
                self._load_table(work)
        finally:
            self._release()

    def _sort(self, claimed: Sequence[Claimed]) -> list[Work]:
        """Settle the verdicts that end here, and bring the rest into parts: batches first, suspects alone."""
        tables: dict[tuple[str, str], Work] = {}
        batches: dict[tuple[str, str], list[Claimed]] = {}
        sizes: dict[str, int] = {}
        for c in claimed:
            version, reason = c.file.version, c.decision.reason
            if c.decision.verdict is Verdict.DUPLICATE:
                self._duplicate(c)
            elif c.decision.verdict is Verdict.WAIT:
                self._end(version, Ending.WAITING, reason, FailureClass.CONFLICT)
            elif c.decision.verdict is Verdict.HOLD:
                self._end(version, Ending.HELD, reason, FailureClass.HELD)
            elif c.decision.foreign or c.decision.delisted:
                refusal = PermanentError(f"{version}: {reason}")
                self._refuse(version, Status.FAILED, refusal, anywhere=c.decision.delisted)
            elif c.decision.verdict is Verdict.REJECT:
                self._end(version, Ending.REJECTED, reason, c.decision.failure)
            else:
                logger.info(STEP_MARK, step=STEP_MARK, file_key=c.file.file_key, claim_id=self._ledger.claim_id)
                place = (c.file.turn, c.file.target)
                tables.setdefault(place, Work(c.file.turn, c.generation))
                batches.setdefault(place, []).append(c)
                sizes[c.file.turn] = sizes.get(c.file.turn, 0) + 1
        for work in {work.turn: work for work in tables.values()}.values():
            work.last = True
        for place, work in tables.items():
            mine = batches[place]
            counted = sizes[work.turn] == 1
            suspects = [c for c in mine if c.decision.suspect]
            together = sorted((c for c in mine if not c.decision.suspect), key=lambda c: c.file.stamp)
            chunks = [together[i : i + PART_FILES] for i in range(0, len(together), PART_FILES)]
            work.parts = [([c], counted) for c in suspects]
            work.parts += [(chunk, counted) for chunk in reversed(chunks)]  # the oldest files first
        return list(tables.values())

    def _duplicate(self, c: Claimed) -> None:
        """End a duplicate, unless it is one of an earlier generation whose object belongs to this one."""
        version = c.file.version
        if c.decision.earlier and c.superseded_before is not None:
            try:
                if self._look_up(version.bucket, version.key, version.etag).last_modified >= c.superseded_before:
                    self._written_again[version] = Candidate(c.file, 0, written_again=True)
                    return
            except GoneError:
                logger.info("superseded, and gone from S3", file_key=c.file.file_key)
            except CdcError as error:
                self._end(version, Ending.WAITING, str(error), error.failure_class)
                return
        self._end(version, Ending.DUPLICATE)

    def _load_table(self, work: Work) -> None:
        while work.parts:
            batch, counted = work.parts.pop()
            if self._time_is_short():
                self._give_back(batch, "too little was left of the invocation", FailureClass.TRANSIENT)
                continue
            if self._outage is not None:
                self._give_back(batch, str(self._outage), self._outage.failure_class)
                continue
            began = self._deadline.remaining_seconds()
            try:
                if len(batch) == 1 and not counted:
                    self._ledger.start_alone(batch[0].file)
                for c in batch:
                    logger.info(STEP_PROCESS, step=STEP_PROCESS, file_key=c.file.file_key)
                self._load_part(work, batch)
            except TurnLostError as error:
                work.parts.append((batch, counted))
                for c in (c for part, _ in work.parts for c in part if c.file.version not in self._outcomes):
                    self._end(c.file.version, Ending.WAITING, str(error), error.failure_class)
                return
            except BlockedError as error:
                self._give_back(batch, str(error), error.failure_class)
            except OutageError as error:
                self._outage = error
                self._give_back(batch, str(error), error.failure_class)
            except Exception as error:  # noqa: BLE001 - classified here, the one place, and never dropped
                failure = classified(error, f"loading {work.turn}")
                if isinstance(failure, UnexpectedError):
                    logger.exception("unexpected error", table=work.turn)
                self._split_or_fail(work, batch, failure, began)

    def _give_back(self, batch: Sequence[Claimed], reason: str, failure: FailureClass) -> None:
        """Let files wait of which nothing was learnt: their attempts are not counted."""
        self._untried = True
        for c in batch:
            if c.file.version not in self._outcomes:
                self._end(c.file.version, Ending.WAITING, reason, failure)

    def _split_or_fail(self, work: Work, batch: list[Claimed], failure: CdcError, began: float) -> None:
        """`began`: how many seconds were left when the batch was begun."""
        queued = {c.file.version for part, _ in work.parts for c in part}  # what `_prepare` had no room for
        left = [c for c in batch if c.file.version not in self._outcomes and c.file.version not in queued]
        slow = isinstance(failure, TooSlowError)
        if len(left) == 1 and len(batch) == 1:
            file = left[0].file
            if slow and file.kind is Kind.FULL and began >= WHOLE_SHARE * self._seconds:
                failure = PermanentError(
                    f"{file.version}: too large for the loader's timeout ({self._seconds:.0f} s): run "
                    f"`firebolt-cdc load {file.file_key} --max-duration 2h --yes`; {failure}"
                )
            self._fail(file, failure)
        elif left and slow and self._time_is_short():
            self._set_apart(left, failure)
        elif left:
            logger.warning("the batch failed and is split", table=work.turn, files=len(left), error=str(failure))
            half = (len(left) + 1) // 2
            work.parts += [(part, False) for part in (left[half:], left[:half]) if part]

    def _set_apart(self, batch: Sequence[Claimed], failure: CdcError) -> None:
        """No time is left to split a batch that took too long: the next claim tries its files alone."""
        try:
            self._ledger.set_apart([c.file for c in batch])
        except CdcError as error:
            self._ledger_failed([c.file.version for c in batch], error)
            return
        for c in batch:
            self._end(c.file.version, Ending.WAITING, str(failure), failure.failure_class)

    def _load_part(self, work: Work, batch: Sequence[Claimed]) -> None:
        """Prepare, stage and apply one part; conflicts are tried again, an outage once.

        Raises:
            TurnLostError: the turn went on.
            CdcError: it failed; the caller splits the part or fails the file.
        """
        target = batch[0].file.target
        columns = target_columns(self.engine, target)
        lost = not columns and self._holds(target, work.generation)
        prepared = self._prepare(work, batch, columns, lost=lost)
        outages = 0
        while prepared:
            try:
                self._apply(work, prepared, columns)
                return
            except AlreadyAppliedError as error:
                done = [p for p in prepared if p.file.applied_id(work.generation) in error.applied_ids]
                self._ledger.mend([p.file for p in done])
                for p in done:
                    self._end(p.file.version, Ending.DUPLICATE)
                prepared = [p for p in prepared if p.file.version not in self._outcomes]
            except TurnLostError:
                raise
            except ConflictError as error:
                count("Conflicts")
                if self._time_is_short():
                    raise BlockedError(f"others committed first until the time ran out; last: {error}") from error
                self._pause()
            except EngineRejectedError:
                raise
            except TransientError:
                outages += 1
                if outages > 1 or self._time_is_short():
                    raise
                self._pause()

    def _time_is_short(self) -> bool:
        return self._deadline.remaining_seconds() < START_SECONDS

    def _pause(self) -> None:
        time.sleep(random.uniform(0.05, 1.0))

    def _holds(self, target: str, generation: int, kinds: Sequence[Kind] = tuple(Kind)) -> bool:
        """Whether a load, also of a ledger that was adopted, has written such a file into this generation of a target.

        What was settled by hand is no load. Nobody else writes while we hold the turn.
        """
        rows = self.engine.query(
            f"SELECT 1 FROM cdc_applied WHERE target_table = ? AND generation = ? AND kind IN ({marks(kinds)}) "
            f"AND load_id NOT IN ({marks(SETTLED)}) LIMIT 1",
            [target, generation, *kinds, *SETTLED],
        )
        return bool(rows)

    def _prepare(
        self, work: Work, batch: Sequence[Claimed], columns: Sequence[Column], *, lost: bool
    ) -> list[Prepared]:
        """Read the part's files; unreadable ones fail here, alone. What is too much goes into another part.

        After an outage of S3 the others wait: each might take as long as the first to say nothing. Files of a target
        that is `lost` are held, unless a person asked for them.
        """
        prepared: list[Prepared] = []
        known = list(columns)
        taken = full = size = 0
        for number, c in enumerate(batch):
            try:
                version = c.file.version
                info = self._look_up(version.bucket, version.key, version.etag)
                self._require_current(c, info)
                if lost and not c.decision.asked:
                    said = target_lost(c.file.target, listed=c.file.listed)
                    raise HeldError(f"{c.file.version}: {said}")
                if c.file.kind is Kind.FULL:
                    full, size = full + 1, size + info.size_bytes
                if prepared and (full > PART_FULL_LOADS or size > PART_FULL_BYTES):
                    work.parts.append((list(batch[number:]), False))
                    break
                prepared.append(prepare(self._storage.open(info), c.file, info, known, self._room - taken))
                known += prepared[-1].plan.added  # what the next file meets, as if it came in a batch of its own
                rows = prepared[-1].rows
                taken += 0 if rows is None else rows.nbytes
            except OutageError as error:
                self._outage = error
                self._give_back(batch[number:], str(error), error.failure_class)
                break
            except CdcError as error:
                if isinstance(error, TooLargeError) and taken:
                    work.parts.append((list(batch[number:]), False))
                    break
                if len(batch) == 1:
                    raise
                if error.failure_class is FailureClass.TRANSIENT:
                    self._ledger.start_alone(c.file)
                self._fail(c.file, error)
        return prepared

    def _require_current(self, c: Claimed, info: ObjectInfo) -> None:
        """Stop a file that is of another generation than its table.

        Raises:
            SupersededError: it is older than the full load with which the generation began.
            HeldError: it is of a full load that is newer than the generation's first change: a reload.
        """
        if c.superseded_before is not None and info.last_modified < c.superseded_before:
            raise SupersededError(
                f"{c.file.version}: older ({info.last_modified}) than the reload with which the generation "
                f"{c.generation} of {c.file.target} began ({c.superseded_before}); its changes are part of that"
            )
        if c.file.kind is Kind.CHANGE or c.decision.asked:
            return
        first = self._first_change(c)
        if first is not None and first < info.last_modified:
            anew = self._holds(c.file.target, c.generation, [Kind.FULL])
            raise HeldError(
                f"{RELOADED if anew else 'A full load came after changes, and no other one is loaded'}: the full-load "
                f"file {c.file.file_key} ({info.last_modified}) is newer than the table's first change ({first}). "
                f"{way_out(c.file.target if c.file.listed else None, first=not anew)}"
            )

    def _first_change(self, c: Claimed) -> datetime | None:
        """When the first change of the table's generation was written, by what is applied and by what lies in S3."""
        rows = self.engine.query(
            "SELECT MIN(file_modified_at) FROM cdc_applied WHERE target_table = ? AND generation = ? AND kind = ?",
            [c.file.target, c.generation, Kind.CHANGE],
        )
        found = [rows[0][0]] if rows and rows[0][0] is not None else []
        source_table = c.file.source_table
        if source_table not in self._first_changes:
            self._first_changes[source_table] = [
                info.last_modified
                for info in self._storage.first_objects(files.folder(self._config, source_table))
                if files.is_change(self._config, info.version, source_table)
            ]
        after = self._config.source.start_after
        found += [
            m
            for m in self._first_changes[source_table]
            if (c.superseded_before is None or m >= c.superseded_before) and (after is None or m > after)
        ]
        return min(found, default=None)

    def _look_up(self, bucket: str, key: str, etag: str | None = None) -> ObjectInfo:
        """See `Storage.look_up`; once S3 has not answered, it is not asked again."""
        if self._outage is not None:
            raise OutageError(f"s3://{bucket}/{key}: not looked up after: {self._outage}")
        try:
            return self._storage.look_up(bucket, key, etag)
        except OutageError as error:
            self._outage = error
            raise

    def _apply(self, work: Work, prepared: Sequence[Prepared], columns: Sequence[Column]) -> None:
        release = work.last and not work.parts
        place = Place(work.turn, prepared[0].file.table, work.generation)
        loaded = self._applier.apply(prepared, columns, place, self._ledger.claim_id, release=release)
        if release:
            self._held.discard(work.turn)
        self._finish(prepared, loaded)

    def _finish(self, prepared: Sequence[Prepared], loaded: Loaded) -> None:
        for p in prepared:
            mine = loaded.of(p)
            logger.info(
                STEP_COMPLETE,
                step=STEP_COMPLETE,
                file_key=p.file.file_key,
                load_id=loaded.load_id,
                rows_read=mine.rows_read,
                rows_upserted=mine.rows_upserted,
                rows_deleted=mine.rows_deleted,
                rows_collapsed=mine.rows_collapsed,
                rows_dropped=mine.rows_dropped,
            )
            self._end(p.file.version, Ending.LOADED, counts=mine)
        self._announce(prepared, loaded)
        count("FilesLoaded", len(prepared))
        count("RowsApplied", sum(p.rows_read for p in prepared))
        try:
            self._ledger.complete(loaded.load_id)
        except CdcError as error:
            count("LedgerUnavailable")
            logger.warning(
                "loaded, but the ledger could not be told; the sweep mends it",
                load_id=loaded.load_id,
                error=str(error),
            )

    def _announce(self, prepared: Sequence[Prepared], loaded: Loaded) -> None:
        """Say once for each load which columns came, and which were left out.

        What some files merely lack stands in the ledger only: a source of partial rows would announce it all day.
        """
        target = prepared[0].file.target
        for change in loaded.changes:
            if change.column is None:
                logger.info("the target was created", table=target, ddl=change.ddl)
                continue
            logger.info("a column was added", table=target, column=change.column.name, ddl=change.ddl)
            if change.column.name not in RESERVED:
                count("SchemaDrift")
        left_out = {name: type_ for p in prepared for name, type_ in p.plan.ignored.items()}
        for name, type_ in left_out.items():
            ddl = None if type_ is None else add_column(target, Column(name, type_))
            logger.warning("a column was left out (schema_drift = ignore)", table=target, column=name, ddl=ddl)
            count("SchemaDrift")

    def _fail(self, file: SourceFile, failure: CdcError) -> None:
        """Record how a file that was tried alone failed, and decide whether it is tried again."""
        change = None
        if isinstance(failure, DriftError):
            change = redact(failure.change, CHANGE_LENGTH)
            count("SchemaDrift")
            logger.error(
                "a file does not fit its target",
                file_key=file.file_key,
                table=failure.table,
                column=failure.column,
                ddl=failure.ddl,
            )
        try:
            self._ledger.fail(file, failure, change)
        except CdcError as error:
            self._ledger_failed([file.version], error)
            return
        self._end(file.version, _ending(failure), str(failure), failure.failure_class)

    def _release(self) -> None:
        """Give back what is still held. A turn that its last load gave back costs nothing here."""
        if not self._held and not self._untried:
            return
        try:
            self._ledger.release(sorted(self._held))
        except CdcError as error:
            held = sorted(self._held)
            logger.error("the turns could not be given back; they end with their lease", turns=held, error=str(error))

    def _ledger_failed(self, versions: Sequence[FileVersion], error: CdcError) -> None:
        """No ledger, no load: the files wait."""
        count("LedgerUnavailable")
        self._untried = True
        for version in versions:
            key = files.file_key(self._config, version.key)
            logger.error("Error checking if file processed", file_key=key, error=str(error))
            self._end(version, Ending.WAITING, f"Error checking if file processed: {error}", error.failure_class)

    def _end(
        self,
        version: FileVersion,
        ending: Ending,
        reason: str = "",
        failure: FailureClass | None = None,
        counts: Counts | None = None,
    ) -> None:
        key = files.file_key(self._config, version.key)
        self._outcomes[version] = Outcome(ending, key, reason, failure, counts)
        if ending in (Ending.REJECTED, Ending.HELD):
            count("FilesFailed" if ending is Ending.REJECTED else "FilesHeld")
            logger.error(f"file {ending}", file_key=key, error_class=failure, error=reason)
        elif ending in (Ending.WAITING, Ending.SKIPPED):
            if ending is Ending.SKIPPED:
                count("FilesSkipped")
            logger.warning(f"file {ending}", file_key=key, error_class=failure, reason=reason)
        elif ending is Ending.DUPLICATE:
            logger.info("File already processed", file_key=key)


def _ending(failure: CdcError) -> Ending:
    """How a file's turn ends that failed so when it was tried alone; `Ledger.fail` writes the status that fits."""
    if failure.failure_class in (FailureClass.TRANSIENT, FailureClass.CONFLICT):
        return Ending.WAITING
    if failure.failure_class is FailureClass.HELD:
        return Ending.HELD
    return Ending.SKIPPED if isinstance(failure, SupersededError) else Ending.REJECTED


@functools.cache
def _config() -> Config:
    return configuration.load()


@functools.cache
def _client(service: str) -> Any:
    return aws.client(service)


@contextlib.contextmanager
def worker(config: Config, context: LambdaContext) -> Iterator[Worker]:
    """A worker for one invocation, with its connection closed afterwards."""
    deadline = Deadline.of(context)
    engine = Engine.of(config, deadline)
    ledger = Ledger(engine, config, deadline, context.aws_request_id, context.invoked_function_arn)
    try:
        memory_bytes = int(context.memory_limit_in_mb) * 2**20
        yield Worker(config, engine, ledger, Storage(_client("s3"), config), deadline, memory_bytes)
    finally:
        engine.close()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Lambda entry point; see the module's text for shapes and answers."""
    config = _config()
    if not config.deduplication_enabled:
        logger.append_keys(deduplication="disabled: loads are at least once")
    count("LoaderErrorsDueToDuplicates", 0)
    if events.is_batch(event):
        return _batch(event["Records"], config, context)
    return _by_hand(event, config, context)


def _batch(records: Sequence[Mapping[str, Any]], config: Config, context: LambdaContext) -> dict[str, Any]:
    queues = Queues(_client("sqs"), config.queue)
    now = datetime.now(UTC)
    deliveries: list[Delivery] = []
    failed: dict[str, None] = {}
    for record in records:
        try:
            deliveries += events.from_message(record, now)
        except PermanentError as error:
            count("FilesFailed")
            logger.error("unreadable message", error=str(error), message_id=record.get("messageId"))
            with _unacknowledged(failed, [str(record.get("messageId"))]):
                queues.send_dead_letter(str(record.get("body", "")), error.failure_class, str(error), None)
    if deliveries:
        with worker(config, context) as work:
            for outcome, announced in _outcomes(work, deliveries, config):
                with _unacknowledged(failed, [d.message_id or "" for d in announced]):
                    _dispose(queues, outcome, announced, now)
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _outcomes(work: Worker, deliveries: Sequence[Delivery], config: Config) -> list[tuple[Outcome, list[Delivery]]]:
    """Run the worker, unless the schema is not one that this version can work with: then everything waits."""
    try:
        migrations.require(work.engine)
    except CdcError as error:
        count("LedgerUnavailable")
        reason = f"Error checking if file processed: {error}"
        folded: dict[tuple[str, str, str | None], list[Delivery]] = {}
        for d in deliveries:
            folded.setdefault((d.bucket, d.key, d.etag), []).append(d)
        result = []
        for (_, key, _), announced in folded.items():
            name = files.file_key(config, key)
            logger.error("Error checking if file processed", file_key=name, error=str(error))
            result.append((Outcome(Ending.WAITING, name, reason, error.failure_class), announced))
        return result
    return work.run(deliveries)


@contextlib.contextmanager
def _unacknowledged(failed: dict[str, None], message_ids: Sequence[str]) -> Iterator[None]:
    """Leave messages on the queue if what was to be sent in their place could not be sent."""
    try:
        yield
    except CdcError as error:
        logger.error("could not send; the message stays on the queue", error=str(error), message_ids=message_ids)
        failed.update(dict.fromkeys(message_ids))


def _dispose(queues: Queues, outcome: Outcome, announced: Sequence[Delivery], now: datetime) -> None:
    """Send what must be sent before the deliveries of a file may be acknowledged."""
    if outcome.ending is Ending.DUPLICATE:
        count("DuplicateDeliveries", sum(d.origin is Origin.S3 for d in announced))
    elif outcome.ending is Ending.WAITING:
        oldest = min(announced, key=lambda d: d.first_seen)
        count("LongestWaitSeconds", oldest.age_seconds(now), MetricUnit.Seconds)
        queues.send_copy(oldest, outcome.reason)
    elif outcome.ending is Ending.REJECTED:
        queues.send_dead_letter(
            dead_letter_body(announced), outcome.failure or FailureClass.PERMANENT, outcome.reason, outcome.file_key
        )


def _by_hand(event: Mapping[str, Any], config: Config, context: LambdaContext) -> dict[str, Any]:
    """Answer as the guide says.

    Raises:
        PermanentError, GoneError, TransientError: the file was not loaded; the message says why.
    """
    now = datetime.now(UTC)
    deliveries = events.from_event(event, origin=Origin.S3, first_seen=now)
    if len(deliveries) != 1:
        raise PermanentError(f"the event announces {len(deliveries)} objects: by hand one at a time, more by the queue")
    with worker(config, context) as work:
        outcome, announced = _outcomes(work, deliveries, config)[0]
    key = outcome.file_key
    if outcome.ending is Ending.LOADED:
        rows = {} if outcome.counts is None else {"rows_read": outcome.counts.rows_read}
        return {"status": "success", "message": "File processed successfully", "file_key": key, **rows}
    if outcome.ending is Ending.DUPLICATE:
        count("DuplicateDeliveries")
        body = {"message": "File already processed", "file_key": key, "status": "completed"}
        return {"statusCode": 200, "body": json.dumps(body)}
    if outcome.ending is Ending.WAITING and outcome.failure is FailureClass.CONFLICT:
        Queues(_client("sqs"), config.queue).send_copy(announced[0], outcome.reason)
        return {"status": "queued", "message": outcome.reason, "file_key": key}
    if outcome.ending in (Ending.SKIPPED, Ending.HELD):
        return {"status": str(outcome.ending), "message": outcome.reason, "file_key": key}
    raise {
        FailureClass.PERMANENT: PermanentError,
        FailureClass.GONE: GoneError,
    }.get(outcome.failure or FailureClass.TRANSIENT, TransientError)(outcome.reason)
