"""The migrate Lambda: brings the schema, the turns and the LOCATION objects to what this version needs.

Run by `terraform apply` whenever a migration or the table map changes; it raises on failure, so that the apply fails
with the engine's message. Everything it does may be done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from typing import Any

from firebolt_cdc import adopt, aws, migrations
from firebolt_cdc import config as configuration
from firebolt_cdc.config import Config
from firebolt_cdc.deadline import Deadline, LambdaContext
from firebolt_cdc.engine import Engine, Transaction
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import folder
from firebolt_cdc.ledger import with_conflict_retries
from firebolt_cdc.migrations import Runner
from firebolt_cdc.sql import ident, marks
from firebolt_cdc.storage import Storage
from firebolt_cdc.telemetry import logger


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Lambda entry point: `{"action": "migrate" | "status" | "dry_run"}`; without an action it migrates.

    Raises:
        CdcError: it failed; the message says at what, and how to go on.
    """
    action = str(event.get("action", "migrate") if isinstance(event, dict) else event)
    if action not in {"migrate", "status", "dry_run"}:
        raise PermanentError(f"unknown action {action!r}: expected migrate, status or dry_run")
    config = configuration.load()
    deadline = Deadline.of(context)
    engine = Engine.of(config, deadline)
    try:
        if action == "migrate":
            return migrate(engine, config, Storage(aws.client("s3"), config), deadline)
        applied, pending = Runner(engine, deadline).status()
        return {
            "status": action,
            "applied": [f"V{a.version:03}__{a.name}" for a in applied],
            "pending": [f"V{p.version:03}__{p.name}" for p in pending],
            "to_seed": unseeded(engine, config),
            "to_adopt": adopt.LEDGER if adopt.is_guides(engine) or adopt.ASIDE in migrations.tables(engine) else None,
            "statements": [s for p in pending for s in p.statements] if action == "dry_run" else [],
        }
    finally:
        engine.close()


def migrate(engine: Engine, config: Config, storage: Storage, deadline: Deadline) -> dict[str, Any]:
    """Do everything that is to be done; returns what was done."""
    cut_off = datetime.now(UTC)
    runner = Runner(engine, deadline)
    adopt.set_aside(engine, runner, deadline)
    done = runner.run()
    for migration in done:
        logger.info("migration applied", version=migration.version, migration=migration.name)
    adopted = adopt.adopt(engine, config, storage, runner, deadline, cut_off)
    seeded = with_conflict_retries(deadline, lambda: seed(engine, config, runner))  # from here on files are loaded
    return {
        "status": "migrated",
        "applied": [f"V{m.version:03}__{m.name}" for m in done],
        "seeded": seeded,
        "locations": create_locations(engine, config),
        "adopted": adopted,
    }


def unseeded(engine: Engine, config: Config) -> list[str]:
    """The turns that `seed` would make; writes nothing."""
    known = set()
    if "cdc_tables" in migrations.tables(engine):
        known = {str(row[0]) for row in engine.query("SELECT turn FROM cdc_tables")}
    return [turn for turn in config.turns if turn not in known]


def seed(engine: Engine, config: Config, runner: Runner) -> list[str]:
    """Give each target of the table map its row in `cdc_tables`; returns the new ones.

    The order of a table that holds nothing yet follows the configuration. A row says its source table; that of a target
    that has left the map says none.

    Raises:
        PermanentError: a target belongs to another pipeline, or was filled under another name; or another pipeline
            reads some of the same objects.
    """
    present = migrations.tables(engine)
    with engine.transaction() as tx:
        runner.guarded(tx)
        known = tx.execute("SELECT turn, pipeline, order_format, source_table FROM cdc_tables")
        owners = {str(r[0]): str(r[1]) for r in known}
        formats = {str(r[0]): str(r[2]) for r in known}
        loaded = {str(r[0]) for r in tx.execute("SELECT DISTINCT target_table FROM cdc_applied")}
        pipeline = config.source.pipeline
        foreign = {turn: owners[turn] for turn in config.turns if owners.get(turn, pipeline) != pipeline}
        if foreign:
            turn, owner = next(iter(foreign.items()))
            raise PermanentError(
                f"the target table {turn} belongs to the pipeline {owner}; two pipelines cannot fill "
                f"one table: give it another target, or remove it from one of them"
            )
        _require_apart(pipeline, set(owners.values()))
        sources = {table.target: source for source, table in config.tables.items()}
        _note_sources(tx, {str(r[0]): r[3] for r in known if str(r[1]) == pipeline}, sources)
        changed: dict[str, list[str]] = {}
        for turn, order_format in config.turns.items():
            if formats.get(turn, order_format) != order_format and turn not in loaded:
                changed.setdefault(order_format, []).append(turn)
        for order_format, turns in changed.items():
            tx.execute(f"UPDATE cdc_tables SET order_format = ? WHERE turn IN ({marks(turns)})", [order_format, *turns])
        new = [turn for turn in config.turns if turn not in owners]
        filled = {(str(source), str(turn)) for turn, owner, _, source in known if owner == pipeline}
        for target in (turn for turn in new if turn in present and turn in sources):
            gone = loaded - config.turns.keys()
            into = {turn for source, turn in filled if source == sources[target]}
            former = sorted((into | _filled_from(tx, config, sources[target])) & gone)
            if former and tx.execute(f"SELECT 1 FROM {ident(target)} LIMIT 1"):
                raise PermanentError(
                    f"{sources[target]} was loaded into {former[0]}, and is now to go to {target}, which has rows: "
                    f"all its files would be loaded again beside them. If {target} is {former[0]} renamed, rename it "
                    f'back and set target = "{former[0]}"; to begin anew, name a table that is empty or missing'
                )
        if new:
            values: list[object] = []
            for turn in new:
                values += [turn, pipeline, sources.get(turn), config.turns[turn]]
            rows = ", ".join(["(?, ?, ?, NULL, NULL, 0, NULL, 1, CURRENT_TIMESTAMP, ?, CURRENT_TIMESTAMP)"] * len(new))
            tx.execute(
                "INSERT INTO cdc_tables (turn, pipeline, source_table, holder, lease_until, version, load_id, "
                f"generation, generation_started_at, order_format, updated_at) VALUES {rows}",
                values,
            )
            # A load under the shared turn of unlisted tables that is under way must not commit beside this.
            tx.execute("UPDATE cdc_tables SET version = version + 1 WHERE turn = ?", [config.unlisted_turn])
        tx.commit()
    return new


def _filled_from(tx: Transaction, config: Config, source: str) -> set[str]:
    """The targets that a table's files were applied to: the turn of one that left the map says no source.

    Files below its path say it for good; where it has no path of its own, the ledger does until the purge.
    """
    path, pipeline = folder(config, source).removeprefix(config.source.prefix), config.source.pipeline
    if path:
        rows = tx.execute(
            "SELECT DISTINCT target_table FROM cdc_applied WHERE pipeline = ? AND SUBSTR(file_key, 1, ?) = ?",
            [pipeline, len(path), path],
        )
    else:
        rows = tx.execute(
            "SELECT DISTINCT target_table FROM cdc_processed_files WHERE pipeline = ? AND status = 'completed' "
            "AND source_table = ?",
            [pipeline, source],
        )
    return {str(row[0]) for row in rows}


def _require_apart(pipeline: str, pipelines: Set[str]) -> None:
    """Stop a pipeline that would share objects, and so lines of the ledger, with another.

    Raises:
        PermanentError: one of the two prefixes lies within the other.
    """
    for other in sorted(pipelines - {pipeline}):
        if other.startswith(pipeline) or pipeline.startswith(other):
            raise PermanentError(
                f"the pipeline {other} reads some of the objects of {pipeline}, and they would share lines in the "
                "ledger: give one of them another prefix, or a database of its own. If that pipeline is no more: "
                f"DELETE FROM cdc_tables WHERE pipeline = '{other}' (hand its targets over first: docs/upgrade.md)"
            )


def _note_sources(tx: Transaction, known: Mapping[str, str | None], sources: Mapping[str, str]) -> None:
    """Write which source table fills each of this pipeline's turns, where that has changed; None: none any more."""
    changed = {turn: sources.get(turn) for turn, source in known.items() if source != sources.get(turn)}
    if left := [turn for turn, source in changed.items() if source is None]:
        tx.execute(f"UPDATE cdc_tables SET source_table = NULL WHERE turn IN ({marks(left)})", left)
    if come := [(turn, source) for turn, source in changed.items() if source is not None]:
        lines = " UNION ALL ".join(["SELECT ? AS turn, ? AS source_table", *["SELECT ?, ?"] * (len(come) - 1)])
        tx.execute(
            f"UPDATE cdc_tables SET source_table = s.source_table FROM ({lines}) AS s WHERE cdc_tables.turn = s.turn",
            [value for line in come for value in line],
        )


def create_locations(engine: Engine, config: Config) -> Sequence[str]:
    """Create the LOCATION objects through which the engine reads source and staging, where a role for it is named.

    Not in a transaction: Firebolt does not allow LOCATION statements there.
    """
    firebolt = config.firebolt
    if firebolt.s3_role_arn is None or firebolt.source_location is not None or config.locations is None:
        return []
    external = " AWS_ROLE_EXTERNAL_ID = ?" if firebolt.s3_role_external_id else ""
    places = (f"s3://{config.source.pipeline}", f"s3://{config.staging.bucket}/{config.staging.prefix}")
    for name, url in zip(config.locations, places, strict=True):
        engine.query(
            f"CREATE LOCATION IF NOT EXISTS {ident(name)} WITH SOURCE = AMAZON_S3 "
            f"CREDENTIALS = (AWS_ROLE_ARN = ?{external}) URL = ?",
            [v for v in (firebolt.s3_role_arn, firebolt.s3_role_external_id, url) if v],
        )
    return list(config.locations)
