"""What `firebolt-cdc status` shows of a whole pipeline: one query for each section, all of them reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from firebolt_cdc import adopt, ledger, protocol
from firebolt_cdc.config import Config
from firebolt_cdc.engine import Engine
from firebolt_cdc.protocol import LedgerRow


@dataclass(frozen=True)
class Section:
    """One table of the answer."""

    title: str
    columns: tuple[str, ...]
    sql: str
    """Each of its parameters is the pipeline."""


SECTIONS: dict[str, Section] = {
    "files": Section(
        "Files by status",
        ("status", "error_class", "files", "oldest"),
        "SELECT status, error_class, COUNT(*), MIN(processed_at) FROM cdc_processed_files WHERE pipeline = ? "
        "GROUP BY status, error_class ORDER BY status, error_class",
    ),
    # Left out is what no load wrote (adopted, settled by hand), and what is in another generation than the table:
    # superseded, or in the shadow of a reload that has not been swapped in.
    "today": Section(
        "Loaded today, by table",
        ("table", "files", "rows"),
        "SELECT a.target_table, COUNT(*), SUM(a.rows_read) FROM cdc_applied AS a "
        "LEFT JOIN cdc_tables AS t ON t.turn = a.target_table "
        "WHERE a.pipeline = ? AND DATE(a.applied_at) = CURRENT_DATE AND a.generation = COALESCE(t.generation, 1) "
        f"AND a.load_id <> '{adopt.LOAD_ID}' AND NOT (a.load_id LIKE '{ledger.SETTLED_LOAD}%') "
        "GROUP BY a.target_table ORDER BY a.target_table",
    ),
    "days": Section(
        "The last 7 days",
        ("day", "files", "completed", "failed"),
        "SELECT DATE(processed_at) AS day, COUNT(*), COUNT(CASE WHEN status = 'completed' THEN 1 END), "
        "COUNT(CASE WHEN status = 'failed' THEN 1 END) FROM cdc_processed_files WHERE pipeline = ? "
        "AND processed_at >= CURRENT_TIMESTAMP - INTERVAL '7' DAY GROUP BY DATE(processed_at) ORDER BY day DESC",
    ),
    "schema_changes": Section(
        "Schema changes, the last 7 days",
        ("table", "files", "failed", "newest", "change"),
        "SELECT target_table, COUNT(*), COUNT(CASE WHEN status = 'failed' THEN 1 END), MAX(processed_at), "
        "schema_change FROM cdc_processed_files WHERE pipeline = ? AND schema_change IS NOT NULL "
        "AND processed_at >= CURRENT_TIMESTAMP - INTERVAL '7' DAY GROUP BY target_table, schema_change "
        "ORDER BY MAX(processed_at) DESC LIMIT 50",
    ),
    "duplicates": Section(
        "Duplicate deliveries prevented, the last 7 days",
        ("day", "deliveries", "files"),
        "SELECT DATE(delivered_at) AS day, COUNT(*), COUNT(DISTINCT file_id) FROM cdc_duplicate_deliveries "
        "WHERE pipeline = ? AND delivered_at >= CURRENT_TIMESTAMP - INTERVAL '7' DAY "
        "GROUP BY DATE(delivered_at) ORDER BY day DESC",
    ),
    "turns": Section(
        "Tables being loaded now",
        ("table", "holder", "lease until"),
        "SELECT turn, holder, lease_until FROM cdc_tables WHERE pipeline = ? AND holder IS NOT NULL ORDER BY turn",
    ),
    "failed": Section(
        "Failed and held files (newest 20)",
        ("file", "class", "tries", "next", "claims", "message"),
        f"SELECT file_key, attempt_count, {', '.join(ledger.ROW_COLUMNS)} FROM cdc_processed_files "
        "WHERE pipeline = ? AND (status = 'failed' OR error_class = 'held') ORDER BY processed_at DESC LIMIT 20",
    ),
    "size": Section(
        "Size of the ledger",
        ("table", "rows"),
        "SELECT 'cdc_processed_files' AS name, COUNT(*) FROM cdc_processed_files WHERE pipeline = ? "
        "UNION ALL SELECT 'cdc_applied', COUNT(*) FROM cdc_applied WHERE pipeline = ? "
        "UNION ALL SELECT 'cdc_duplicate_deliveries', COUNT(*) FROM cdc_duplicate_deliveries WHERE pipeline = ? "
        "UNION ALL SELECT 'cdc_tombstones', COUNT(*) FROM cdc_tombstones AS d INNER JOIN cdc_tables AS t "
        "ON t.turn = d.target_table WHERE t.pipeline = ? ORDER BY name",
    ),
}


def overview(engine: Engine, config: Config) -> dict[str, list[Sequence[Any]]]:
    """The rows of each section, in the order of its columns."""
    pipeline = config.source.pipeline
    found: dict[str, list[Sequence[Any]]] = {
        name: list(engine.query(section.sql, [pipeline] * section.sql.count("?"))) for name, section in SECTIONS.items()
    }
    found["failed"] = [_unfinished(row, config.loader.max_attempts) for row in found["failed"]]
    return found


def _unfinished(values: Sequence[Any], max_attempts: int) -> Sequence[Any]:
    """A line of `failed`: its tries alone, which the limit counts, beside its claims, which nothing limits."""
    row = ledger.ledger_row(values[2:])
    tries = f"{row.alone_count} of {max_attempts}"
    return values[0], row.error_class, tries, outlook(row, max_attempts), values[1], row.error_message


def outlook(row: LedgerRow, max_attempts: int) -> str:
    """What happens to a failed or held file, in the words of the list."""
    if row.held:
        return "waits for a decision"
    return "given up" if protocol.needs_operator(row, max_attempts) else "retried by itself"
