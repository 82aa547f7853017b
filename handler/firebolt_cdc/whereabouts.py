"""Where is a file? What S3, the table map, the ledger and `cdc_applied` say of it, and what happens to it next.

Reading is apart from deciding: `find` asks everybody, `next_step` is a pure function over the answers. It asks
`protocol.decide_claim` what a worker would do that took the file now, so that the two cannot say different things.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from firebolt_cdc import adopt, files, ledger, protocol, settle
from firebolt_cdc.config import Config
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import GoneError, PermanentError
from firebolt_cdc.files import FileVersion, Kind, SkippedError, SourceFile
from firebolt_cdc.protocol import Decision, LedgerRow, Status, Turn, Verdict
from firebolt_cdc.sql import marks
from firebolt_cdc.storage import ObjectInfo, Storage

RECONCILIATION = "the next reconciliation (hourly by default)"


@dataclass(frozen=True)
class Recorded:
    """A line of `cdc_processed_files`: one version of the file."""

    row: LedgerRow
    etag: str
    claims: int | None
    processed_at: datetime | None


@dataclass(frozen=True)
class Applied:
    """A line of `cdc_applied`: one version of the file in one generation of one target."""

    applied_id: str
    file_id: str
    etag: str
    target: str
    generation: int
    load_id: str
    applied_at: datetime
    rows_read: int | None
    note: str | None
    """What differed between file and target; for a file that was settled, why."""


@dataclass(frozen=True)
class Holding:
    """A turn, and how long its holder may keep it."""

    turn: Turn
    lease_until: datetime | None


@dataclass(frozen=True)
class Whereabouts:
    """Everything that is known of one key."""

    version: FileVersion
    """What S3 holds; where it holds nothing, what the ledger knew last."""
    file_key: str
    info: ObjectInfo | None
    source: SourceFile | None
    refusal: PermanentError | None
    """Why no table takes it, where `source` is None."""
    recorded: tuple[Recorded, ...]
    """Oldest first."""
    applied: tuple[Applied, ...]
    """Oldest first."""
    turns: Mapping[str, Holding]
    """Those of its target and of its table, and those that workers on it hold."""

    @property
    def row(self) -> LedgerRow | None:
        """The ledger's line of this version."""
        return next((r.row for r in self.recorded if r.row.file_id == self.version.file_id), None)

    @property
    def agrees(self) -> bool:
        """Whether its table's rows are ordered as the configuration says."""
        return (
            self.source is not None
            and self.turn is not None
            and self.turn.order_format == (self.source.table.order_format)
        )

    @property
    def turn(self) -> Turn | None:
        """The turn whose generation says what is applied: the target's own, else that of unlisted tables."""
        if self.source is None:
            return None
        held = self.turns.get(self.source.target) or self.turns.get(self.source.turn)
        return held.turn if held else None

    @property
    def generation(self) -> int:
        """The present generation of its target."""
        return self.turn.generation if self.turn else 1


# ---------------------------------------------------------------- asking


def find(engine: Engine, config: Config, storage: Storage, names: Sequence[str]) -> tuple[list[Whereabouts], list[str]]:
    """What is known of these files, and the names of which nobody knows anything.

    Args:
        engine: reads only.
        config: the pipeline's.
        storage: the source's objects.
        names: each a file_key, an object's key or its s3:// URL.

    Raises:
        PermanentError: a URL names another bucket.
        CdcError: S3 or the engine did not answer.
    """
    wanted = {name: keys(config, name) for name in names}
    versions = {key: FileVersion(config.source.bucket, key, "") for several in wanted.values() for key in several}
    recorded = _recorded(engine, versions)
    applied = _applied(engine, versions)
    found = {}
    for key, version in versions.items():
        info = _look_up(storage, version)
        if info or recorded[key] or applied[key]:
            found[key] = _about(config, version, info, recorded[key], applied[key])
    turns = _turns(engine, list(found.values()))
    return (
        [replace(known, turns=turns) for known in found.values()],
        [name for name, several in wanted.items() if not found.keys() & set(several)],
    )


def keys(config: Config, name: str) -> list[str]:
    """The keys that an operator may mean by a file_key, a key or a URL: a file_key may itself begin with the prefix.

    Raises:
        PermanentError: a URL of another bucket.
    """
    source = config.source
    if name.startswith("s3://"):
        bucket, _, key = name.removeprefix("s3://").partition("/")
        if bucket != source.bucket:
            raise PermanentError(f"{name}: this pipeline reads the bucket {source.bucket}")
        return [key]
    whole = [name] if source.prefix and name.startswith(source.prefix) else []
    return [*whole, source.prefix + name]


def _look_up(storage: Storage, version: FileVersion) -> ObjectInfo | None:
    try:
        return storage.look_up(version.bucket, version.key)
    except GoneError:
        return None


def _about(
    config: Config,
    version: FileVersion,
    info: ObjectInfo | None,
    recorded: Sequence[Recorded],
    applied: Sequence[Applied],
) -> Whereabouts:
    if info is None:
        etag = recorded[-1].etag if recorded else applied[-1].etag
        version = FileVersion(version.bucket, version.key, etag)
    else:
        version = info.version
    source, refusal = None, None
    try:
        source = files.identify(config, version)
    except PermanentError as error:
        refusal = error
    name = files.file_key(config, version.key)
    return Whereabouts(version, name, info, source, refusal, tuple(recorded), tuple(applied), {})


def _recorded(engine: Engine, versions: Mapping[str, FileVersion]) -> dict[str, list[Recorded]]:
    found: dict[str, list[Recorded]] = {key: [] for key in versions}
    bucket = next(iter(versions.values())).bucket
    rows = engine.query(
        f"SELECT object_key, etag, attempt_count, processed_at, {', '.join(ledger.ROW_COLUMNS)} "
        f"FROM cdc_processed_files WHERE bucket = ? AND object_key IN ({marks(list(versions))}) ORDER BY processed_at",
        [bucket, *versions],
    )
    for key, etag, claims, processed_at, *values in rows:
        line = Recorded(ledger.ledger_row(values), str(etag), None if claims is None else int(claims), processed_at)
        found[str(key)].append(line)
    return found


def _applied(engine: Engine, versions: Mapping[str, FileVersion]) -> dict[str, list[Applied]]:
    found: dict[str, list[Applied]] = {version.key_id: [] for version in versions.values()}
    rows = engine.query(
        "SELECT key_id, applied_id, file_id, etag, target_table, generation, load_id, applied_at, rows_read, "
        f"schema_change FROM cdc_applied WHERE key_id IN ({marks(list(found))}) ORDER BY applied_at",
        list(found),
    )
    for key_id, applied_id, file_id, etag, target, generation, load_id, applied_at, rows_read, note in rows:
        found[str(key_id)].append(
            Applied(
                str(applied_id),
                str(file_id),
                str(etag),
                str(target),
                int(generation),
                str(load_id),
                applied_at,
                None if rows_read is None else int(rows_read),
                note,
            )
        )
    return {key: found[version.key_id] for key, version in versions.items()}


def _turns(engine: Engine, found: Sequence[Whereabouts]) -> dict[str, Holding]:
    names = {name for f in found if f.source for name in (f.source.target, f.source.turn)}
    names |= {r.row.turn for f in found for r in f.recorded}
    claims = {r.row.claim_id for f in found for r in f.recorded if r.row.claim_id}
    if not names:
        return {}
    held = f" OR holder IN ({marks(list(claims))})" if claims else ""
    rows = engine.query(
        f"SELECT {ledger.TURN_COLUMNS}, lease_until FROM cdc_tables WHERE turn IN ({marks(list(names))}){held}",
        [*sorted(names), *sorted(claims)],
    )
    return {str(row[0]): Holding(ledger.turn_of(row[:-1]), row[-1]) for row in rows}


# ---------------------------------------------------------------- deciding


def next_step(file: Whereabouts, config: Config, waiting: int) -> str:
    """What happens to a file next, in one sentence.

    Args:
        file: what is known of it.
        config: the pipeline's.
        waiting: about how many messages the queue holds.
    """
    row = file.row
    if file.source is None:
        return _unplaced(file, config, waiting)
    for line in file.applied:
        if line.applied_id == file.source.applied_id(file.generation):
            return _in_target(line, row, config)
    if (superseded := _superseded(file)) is not None:
        return superseded
    if row is not None and (resting := _resting(file, row, config)) is not None:
        return resting
    if file.info is None:
        return "Its object is gone from S3: the next try ends as failed, class gone."
    if row is None:
        return _unknown(file, config, waiting)
    if row.status == Status.PROCESSING:
        return _processing(file, row)
    if row.status == Status.COMPLETED:
        said = "The ledger says completed, but cdc_applied does not have it for the table as it is"
        return f"{said}: {_reconciled(file, config)}."
    if row.status == Status.SKIPPED:
        return f"It was skipped, but a table takes it now: {_reconciled(file, config)}."
    return _tried(file, file.source, row, config)


def _in_target(line: Applied, row: LedgerRow | None, config: Config) -> str:
    if line.load_id.startswith(ledger.SETTLED_LOAD):
        return f"It was {line.note or 'settled by hand'}; it counts as applied, so nothing loads it."
    if line.load_id == adopt.LOAD_ID:
        return "It counts as applied since a ledger made by hand was adopted, so nothing loads it."
    more = ""
    if not config.deduplication_enabled:
        more = "; deduplication is off, so each further delivery loads it again"
    elif row is not None and row.status not in (Status.COMPLETED, Status.SKIPPED):
        more = "; the next sweep corrects its line in the ledger"
    return f"It is in the target{more}."


def _superseded(file: Whereabouts) -> str | None:
    """An object that is older than its table's generation, or that is gone and was in an earlier one."""
    assert file.source is not None
    target = file.source.target
    earlier = any(
        a.file_id == file.version.file_id and a.target == target and a.generation < file.generation
        for a in file.applied
    )
    if file.info is not None and protocol.superseded(file.turn, file.info.last_modified):
        return f"Superseded by a reload: it is older than the full load with which {target} began anew."
    if file.info is None and earlier:
        return f"Superseded by a reload of {target}, which began without it: its object is gone from S3."
    return None


def _resting(file: Whereabouts, row: LedgerRow, config: Config) -> str | None:
    """What nothing but a person moves."""
    if _asked(row):
        return None
    if row.held_for_order and file.agrees:
        return "Held while its table's order was another than the configured one: the next sweep sends it to the queue."
    if row.held:
        return f"Held: {row.error_message or 'it needs a decision: firebolt-cdc retry, settle or reload'}"
    if not protocol.needs_operator(row, config.loader.max_attempts):
        return None
    name = shlex.quote(file.file_key)
    if file.info is None:
        return (
            "Given up, and its object is gone from S3: have it written again, or count it as dealt with: "
            f"firebolt-cdc settle {name} --reason TEXT --yes"
        )
    tries = "" if row.final else f" after {row.alone_count} of {config.loader.max_attempts} attempts"
    return f"Given up{tries}: mend the cause (the ledger's message), then firebolt-cdc retry {name} --yes"


def _asked(row: LedgerRow) -> bool:
    """Whether a person asked for it since code last wrote its line: by `retry`, or the guide's UPDATE."""
    return row.typed and row.status == Status.PENDING


def _unplaced(file: Whereabouts, config: Config, waiting: int) -> str:
    """A file that no table of the map takes."""
    row, refusal = file.row, file.refusal
    mine = [a for a in file.applied if a.file_id == file.version.file_id]
    if any(a.target == settle.NO_TARGET for a in mine):
        return f"It was {mine[-1].note or 'settled by hand'}; it counts as dealt with until a table takes it."
    if targets := sorted({a.target for a in mine}):
        return f"It was applied to {', '.join(targets)}; no table of the map takes it now, so nothing more happens."
    if row is not None and (resting := _resting(file, row, config)) is not None:
        return resting
    if not file.version.key.endswith(config.source.suffix) or not file.version.key.startswith(config.source.prefix):
        return f"This pipeline leaves it alone: {refusal}"
    if isinstance(refusal, SkippedError):
        return f"Skipped: {refusal}"
    if row is None:
        return f"{_announced(file, config, waiting)}; it fails then: {refusal}"
    return f"The next try fails: {refusal}"


def _processing(file: Whereabouts, row: LedgerRow) -> str:
    for held in file.turns.values():
        if held.turn.live and held.turn.holder is not None and held.turn.holder == row.claim_id:
            return f"A worker is loading it now, until {held.lease_until} at the latest."
    return "Its worker is gone without a word: the next sweep sends it to the queue again."


def _unknown(file: Whereabouts, config: Config, waiting: int) -> str:
    """A file without a line in the ledger: no worker has taken it yet."""
    assert file.source is not None
    decision = _decide(file, file.source, None, config)
    if decision.verdict is Verdict.CLAIM:
        return f"{_announced(file, config, waiting)}."
    if decision.verdict is Verdict.WAIT and _busy(file, file.source):
        return (
            f"It waits on the queue for the turn of {file.source.turn}; if no event has announced it, "
            f"{_reconciled(file, config)}."
        )
    return f"{_announced(file, config, waiting)}; {_otherwise(decision)}"


def _announced(file: Whereabouts, config: Config, waiting: int) -> str:
    if waiting:
        return (
            f"No worker has taken it yet: it may be among the {waiting} messages of the queue; if no event has "
            f"announced it, {_reconciled(file, config)}"
        )
    return f"No event has announced it yet: {_reconciled(file, config)}"


def _reconciled(file: Whereabouts, config: Config) -> str:
    """What the comparison of S3 with `cdc_applied` does for it."""
    after = config.source.start_after
    if after is not None and file.info is not None and file.info.last_modified <= after:
        return (
            f"the reconciliation leaves it out, for it is older than source_bucket.start_after ({after}); "
            f"firebolt-cdc load {shlex.quote(file.file_key)} --yes loads it"
        )
    return f"{RECONCILIATION} sends it to the queue"


def _tried(file: Whereabouts, source: SourceFile, row: LedgerRow, config: Config) -> str:
    """A file that is tried again: given back, reset, failed with attempts left, or asked for by a person."""
    decision = _decide(file, source, row, config)
    if decision.verdict is Verdict.WAIT and _busy(file, source):
        when = f"when the turn of {source.turn} is free"
        on_queue = f"It waits on the queue for the turn of {source.turn}"
    elif decision.verdict is Verdict.CLAIM:
        when, on_queue = "", "It is on the queue, or goes there with the next sweep"
    else:
        return f"When it is tried again, {_otherwise(decision)}"
    if _asked(row):
        return f"A person asked for it again, with a fresh budget of attempts. {on_queue}."
    if row.status == Status.FAILED:
        tries = f"({row.alone_count} of {config.loader.max_attempts} attempts)"
        return f"It is tried again by itself {tries}{', ' if when else ''}{when}."
    return f"{on_queue}."


def _decide(file: Whereabouts, source: SourceFile, row: LedgerRow | None, config: Config) -> Decision:
    """What a claim would decide about it now."""
    if not source.listed and (own := file.turns.get(source.target)) is not None:
        return protocol.decide_own_turn(own.turn, source.source_table)
    held = file.turns.get(source.turn)
    reloaded = source.kind is Kind.FULL and any(
        (a.target, a.generation) == (source.target, file.generation)
        and a.file_id != file.version.file_id
        and a.load_id not in ledger.UNWANTED
        for a in file.applied
    )
    return protocol.decide_claim(
        applied=False,
        turn=held.turn if held else None,
        row=row,
        pipeline=config.source.pipeline,
        order_format=source.table.order_format,
        max_attempts=config.loader.max_attempts,
        reloaded=reloaded,
        listed=source.listed,
    )


def _busy(file: Whereabouts, source: SourceFile) -> bool:
    held = file.turns.get(source.turn)
    return held is not None and held.turn.holder is not None and held.turn.live


def _otherwise(decision: Decision) -> str:
    """What a claim does that does not take it."""
    verdict = {
        Verdict.WAIT: "it waits",
        Verdict.HOLD: "it is held",
        Verdict.REJECT: "it is refused",
        Verdict.DUPLICATE: "it is a duplicate",
    }.get(decision.verdict, "it is loaded")
    return f"{verdict}: {decision.reason}"
