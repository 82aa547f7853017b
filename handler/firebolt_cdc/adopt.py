"""Taking over a `cdc_processed_files` that was made by hand after the deployment guide.

That table has one row per attempt, no etags, and `processed_at` with or without time zone. It is set aside before the
migrations create ours, and then read together with a listing of the source (its keys with the prefix or without):

| object in S3                                 | old ledger                    | becomes                               |
| -------------------------------------------- | ----------------------------- | ------------------------------------- |
| not modified after its `processed_at`        | `completed`                   | applied, `completed`                  |
| modified after it, or anything else recorded | `completed`, `failed`, …      | held for the operator                 |
| older than the ledger's oldest line          | not there                     | applied: loaded before there was one  |
| newer than that, of a merge table            | not there                     | nothing: it is loaded, harmlessly     |
| newer than that, of an append table          | not there                     | held for the operator                 |

Held is what nobody can know from outside: whether those rows are in the target.
"""

from __future__ import annotations

import io
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from firebolt_cdc import migrations
from firebolt_cdc.config import Config, Mode
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import identify
from firebolt_cdc.ledger import with_conflict_retries
from firebolt_cdc.migrations import Runner
from firebolt_cdc.sql import instant, read_parquet
from firebolt_cdc.storage import Storage

LEDGER, ASIDE, KEPT = "cdc_processed_files", "cdc_processed_files_guide", "cdc_processed_files_adopted"
LOAD_ID = "adopted"
"""What `cdc_applied` has instead of the name of a load."""
_HELD = (
    "The ledger that was adopted says {}, so its rows may or may not be in the target. Check, then run firebolt-cdc "
    "retry FILE --yes (loads it) or firebolt-cdc settle FILE --reason TEXT --yes (counts it as loaded)."
)


def is_guides(engine: Engine) -> bool:
    """Whether the ledger is a guide's.

    Raises:
        PermanentError: it is neither a guide's nor ours.
    """
    columns = _columns(engine, LEDGER)
    if not columns or "file_id" in columns:
        return False
    missing = {"file_key", "status", "processed_at"} - columns
    if missing:
        raise PermanentError(f"a table {LEDGER} exists that is not the guide's (it lacks {sorted(missing)}); rename it")
    return True


def set_aside(engine: Engine, runner: Runner, deadline: Deadline) -> bool:
    """Rename a guide's ledger out of the way; True where there was one."""
    if not is_guides(engine):
        return False

    def rename() -> None:
        with engine.transaction() as tx:
            tx.begin("SELECT 1")
            tx.execute(f"ALTER TABLE {LEDGER} RENAME TO {ASIDE}")
            tx.commit()

    with_conflict_retries(deadline, rename)
    return True


def _columns(engine: Engine, table: str) -> set[str]:
    sql = "SELECT column_name FROM information_schema.columns WHERE table_name = ?"
    return {str(row[0]) for row in engine.query(sql, [table])}


def adopt(
    engine: Engine, config: Config, storage: Storage, runner: Runner, deadline: Deadline, cut_off: datetime
) -> dict[str, int]:
    """Carry a ledger that was set aside into ours; counts of what became of the objects (empty where there is none)."""
    if ASIDE not in migrations.tables(engine):
        return {}
    rows = _listing(config, storage, cut_off)
    with storage.staged(f"adopt-{config.name}.parquet", _parquet_bytes(rows)) as staged:
        return with_conflict_retries(deadline, lambda: _copy(engine, config, runner, staged))


def _listing(config: Config, storage: Storage, cut_off: datetime) -> list[dict[str, Any]]:
    rows = []
    for info in storage.listing():
        if info.last_modified >= cut_off:
            continue
        try:
            file = identify(config, info.version)
        except PermanentError:
            continue  # of no table in the map; its row, if any, stays in the kept table
        version = info.version
        rows.append(
            {
                "file_key": file.file_key,
                "object_key": version.key,
                "etag": version.etag,
                "file_id": version.file_id,
                "key_id": version.key_id,
                "applied_id": file.applied_id(1),
                "turn": file.turn,
                "target_table": file.target,
                "source_table": file.source_table,
                "kind": str(file.kind),
                "mode": str(file.table.mode),
                "last_modified": instant(info.last_modified),
            }
        )
    return rows


def _parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    names = [
        "file_key",
        "object_key",
        "etag",
        "file_id",
        "key_id",
        "applied_id",
        "turn",
        "target_table",
        "source_table",
        "kind",
        "mode",
        "last_modified",
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in names])), buffer)
    return buffer.getvalue()


def _copy(engine: Engine, config: Config, runner: Runner, staged: str) -> dict[str, int]:
    reading, where = read_parquet(config, staged=staged)
    request_id = "o.request_id" if "request_id" in _columns(engine, ASIDE) else "CAST(NULL AS TEXT)"
    old = (  # one line for each object, whether its lines name it with the prefix, without it, or in both ways
        "SELECT s.file_id, MAX(CASE WHEN o.status = 'completed' THEN 1 ELSE 0 END) AS done, "
        "MAX(CAST(o.processed_at AS TIMESTAMPTZ)) AS processed_at, COUNT(*) AS attempts, "
        f"MAX({request_id}) AS request_id FROM {reading} AS s INNER JOIN {ASIDE} AS o "
        "ON o.file_key = s.file_key OR o.file_key = s.object_key GROUP BY s.file_id"
    )
    modified = "CAST(l.last_modified AS TIMESTAMPTZ)"
    doubtful = f"(g.file_id IS NOT NULL AND (g.done = 0 OR COALESCE({modified} > g.processed_at, TRUE)))"
    unknown = f"(g.file_id IS NULL AND {modified} >= CAST(? AS TIMESTAMPTZ))"
    joined = (  # what stands in our ledger already is not the guide's any more
        f"FROM {reading} AS l LEFT JOIN ({old}) AS g ON g.file_id = l.file_id "
        f"LEFT JOIN (SELECT DISTINCT file_id FROM {LEDGER}) AS k ON k.file_id = l.file_id WHERE k.file_id IS NULL AND"
    )
    pipeline, bucket = config.source.pipeline, config.source.bucket
    with engine.transaction() as tx:
        runner.guarded(tx)
        oldest = tx.execute(f"SELECT MIN(CAST(processed_at AS TIMESTAMPTZ)) FROM {ASIDE}")[0][0]
        since = instant(oldest) if oldest is not None else "1970-01-01 00:00:00+00"
        tx.execute(
            "INSERT INTO cdc_applied (applied_id, file_id, key_id, pipeline, target_table, generation, file_key, etag, "
            "kind, file_modified_at, load_id, rows_read, rows_upserted, rows_deleted, applied_at) "
            f"SELECT l.applied_id, l.file_id, l.key_id, ?, l.target_table, 1, l.file_key, l.etag, l.kind, "
            f"{modified}, '{LOAD_ID}', NULL, NULL, NULL, CURRENT_TIMESTAMP {joined} "
            f"NOT {doubtful} AND NOT {unknown}",
            [pipeline, *where, *where, since],
        )
        shared = (
            "INSERT INTO cdc_processed_files (file_key, status, processed_at, request_id, error_message, "
            "attempt_count, lambda_arn, file_id, pipeline, turn, bucket, object_key, etag, source_table, "
            "target_table, kind, recorded_status, claim_id, alone_count, error_class, file_modified_at, first_seen_at) "
        )
        tx.execute(
            shared
            + "SELECT l.file_key, 'completed', g.processed_at, g.request_id, NULL, CAST(g.attempts AS INT), NULL, "
            f"l.file_id, ?, l.turn, ?, l.object_key, l.etag, l.source_table, l.target_table, l.kind, 'completed', "
            f"NULL, 0, NULL, {modified}, g.processed_at {joined} g.file_id IS NOT NULL AND NOT {doubtful}",
            [pipeline, bucket, *where, *where],
        )
        tx.execute(
            shared + "SELECT l.file_key, 'pending', CURRENT_TIMESTAMP, g.request_id, "
            "CASE WHEN g.file_id IS NULL THEN ? WHEN g.done = 0 THEN ? ELSE ? END, "
            "CAST(COALESCE(g.attempts, 0) AS INT), NULL, l.file_id, ?, l.turn, ?, l.object_key, l.etag, "
            "l.source_table, l.target_table, l.kind, 'pending', NULL, 0, 'held', "
            f"{modified}, g.processed_at {joined} "
            f"({doubtful} OR ({unknown} AND l.mode = '{Mode.APPEND}'))",
            [
                _HELD.format("nothing of it"),
                _HELD.format("failed or unfinished"),
                _HELD.format("completed before the object was modified"),
                pipeline,
                bucket,
                *where,
                *where,
                since,
            ],
        )
        tx.execute(f"ALTER TABLE {ASIDE} RENAME TO {KEPT}")
        counted = {
            "applied": f"SELECT COUNT(*) FROM cdc_applied WHERE load_id = '{LOAD_ID}' AND pipeline = ?",
            "held": "SELECT COUNT(*) FROM cdc_processed_files WHERE error_class = 'held' AND pipeline = ?",
        }
        counts = {name: int(tx.execute(sql, [pipeline])[0][0]) for name, sql in counted.items()}
        tx.commit()
    return counts
