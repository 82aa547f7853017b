"""Settling a file by hand: it counts as applied from now on, although no loader has applied it.

For what an operator has dealt with: a held file whose rows are in the target already, a failed one that nobody wants.
It stands in `cdc_applied` as a loaded file does, so neither its event nor the reconciliation nor an edit of the ledger
loads it. A reload begins from the files: it loads what was held, and leaves out changes that had failed, as before.
A file that no table takes has no target: it counts as dealt with until one takes it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from firebolt_cdc import ledger
from firebolt_cdc.config import Config
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import ConflictError, FailureClass, PermanentError, redact
from firebolt_cdc.files import FileVersion, Kind, SourceFile, identify
from firebolt_cdc.ledger import with_conflict_retries
from firebolt_cdc.sql import marks

NO_TARGET = ""
"""What `cdc_applied` has as the target of a file that no table takes."""


@dataclass(frozen=True)
class Unsettled:
    """A version of a file that waits for a decision, as the ledger has it."""

    version: FileVersion
    file_key: str
    file: SourceFile | None
    """What the table map says of it; None where no table takes it."""
    error_class: str
    message: str | None


def find(engine: Engine, config: Config, file_keys: Sequence[str]) -> list[Unsettled]:
    """The failed and held versions of these files.

    Raises:
        PermanentError: there is none of one of them.
    """
    rows = engine.query(
        "SELECT file_key, bucket, object_key, etag, error_class, error_message FROM cdc_processed_files "
        "WHERE pipeline = ? AND (status = 'failed' OR error_class = 'held') "
        f"AND file_key IN ({marks(file_keys)}) ORDER BY file_key, processed_at",
        [config.source.pipeline, *file_keys],
    )
    if missing := sorted(set(file_keys) - {str(row[0]) for row in rows}):
        raise PermanentError(f"{missing} are neither failed nor held: see the ledger, or `firebolt-cdc status`")
    return [
        Unsettled(
            version := FileVersion(str(bucket), str(key), str(etag)),
            str(file_key),
            _placed(config, version),
            str(error_class or FailureClass.TRANSIENT),  # none: a person typed `failed`
            message,
        )
        for file_key, bucket, key, etag, error_class, message in rows
    ]


def _placed(config: Config, version: FileVersion) -> SourceFile | None:
    try:
        return identify(config, version)
    except PermanentError:
        return None


def settle(engine: Engine, config: Config, deadline: Deadline, found: Sequence[Unsettled], reason: str) -> None:
    """Record these versions as applied, each in a transaction of its own.

    Raises:
        ConflictError: a worker is loading the table; those before are settled.
        PermanentError: it has been loaded meanwhile, or the table's turn is not this pipeline's.
    """
    for one in found:
        note = redact(f"settled by hand: {reason}", 500)
        with_conflict_retries(deadline, functools.partial(_settle, engine, config, one, note))


def _settle(engine: Engine, config: Config, one: Unsettled, note: str) -> None:
    file, load_id = one.file, f"{ledger.SETTLED_LOAD}{one.error_class}"
    version, pipeline = one.version, config.source.pipeline
    shared = config.unlisted_turn
    target, kind = (file.target, file.kind) if file else (NO_TARGET, Kind.CHANGE)
    with engine.transaction() as tx:
        turns = ledger.read_turns(tx, {file.turn, file.target} if file else {shared}, first=True)
        turn = ledger.own_turn(turns, file) if file else turns.get(shared)
        name = turn.name if turn else shared
        if turn is None or turn.pipeline != pipeline:
            raise PermanentError(f"{version}: {name} is no turn of this pipeline: run firebolt-cdc migrate --yes")
        if turn.holder is not None and turn.live:
            raise ConflictError(f"{version}: {name} is being loaded by a worker; nothing was settled, try again")
        ledger.touch_turns(tx, {name})
        generation = turn.generation if file else 0
        applied_id = version.applied_id(target, generation)
        if ledger.read_applied(tx, [applied_id]):
            raise PermanentError(f"{version} has been loaded meanwhile: there is nothing to settle")
        tx.execute(
            "INSERT INTO cdc_applied (applied_id, file_id, key_id, pipeline, target_table, generation, file_key, etag, "
            "kind, file_modified_at, load_id, schema_change, applied_at) SELECT ?, f.file_id, f.key_id, ?, ?, ?, "
            "?, ?, ?, CAST(f.modified AS TIMESTAMPTZ), ?, ?, CURRENT_TIMESTAMP FROM (SELECT ? AS file_id, ? AS key_id, "
            "MAX(file_modified_at) AS modified FROM cdc_processed_files WHERE file_id = ?) AS f",
            [
                applied_id,
                pipeline,
                target,
                generation,
                one.file_key,
                version.etag,
                kind,
                load_id,
                note,
                version.file_id,
                version.key_id,
                version.file_id,
            ],
        )
        tx.execute(
            "UPDATE cdc_processed_files SET status = 'completed', recorded_status = 'completed', claim_id = NULL, "
            "error_class = NULL, error_message = ?, load_id = ?, processed_at = CURRENT_TIMESTAMP WHERE file_id = ?",
            [note, load_id, version.file_id],
        )
        tx.commit()
