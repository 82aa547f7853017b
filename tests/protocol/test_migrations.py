"""Migrations: order, checksums, two runs at once, ranges, turns, and the adoption of a ledger made by hand."""

from __future__ import annotations

import os
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from firebolt_cdc import aws, migrations
from firebolt_cdc import config as configuration
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import LedgerUnavailableError, PermanentError
from firebolt_cdc.ledger import ANEW
from firebolt_cdc.migrations import Applied, Migration, Runner, bundled, pending
from firebolt_cdc.reload import Reload
from standin import StandIn
from support import PREFIX, Context, Pipeline, repository, sessions, table_config

NAMES = [f"V{m.version:03}__{m.name}" for m in bundled()]


@pytest.fixture
def engine(new_engine: StandIn) -> StandIn:
    return new_engine


def engine_of(pipeline: Pipeline) -> Engine:
    return Engine(configuration.load().firebolt, Deadline(60))


def test_a_first_run_applies_all_and_a_second_nothing(engine: StandIn) -> None:
    pipeline = Pipeline(engine.url)
    assert pipeline.migrate(action="status")["pending"] == NAMES
    assert pipeline.migrate(action="dry_run")["statements"] == [s for m in bundled() for s in m.statements]
    first = pipeline.migrate()
    assert first["applied"] == NAMES
    assert set(first["seeded"]) == {"sessions", "events", f"*{pipeline.bucket}/firebolt_dms_job/"}
    again = pipeline.migrate()
    assert (again["applied"], again["seeded"]) == ([], [])
    assert pipeline.sql("SELECT * FROM cdc_processed_files LIMIT 10") == []


def test_runs_at_the_same_moment_apply_each_file_once(engine: StandIn) -> None:
    pipeline = Pipeline(engine.url)
    config = configuration.load()
    applied: list[int] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            runner = Runner(Engine(config.firebolt, Deadline(60)), Deadline(60))
            applied.extend(m.version for m in runner.run())
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(applied) == list(range(1, len(NAMES) + 1))
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_schema_migrations") == len(NAMES)
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_migration_lock") == 1


def migration(version: int, checksum: str = "c", compatible_from: int = 1) -> Migration:
    return Migration(version, "m", checksum, compatible_from, ())


def line(version: int, checksum: str = "c", compatible_from: int = 1) -> Applied:
    return Applied(version, "m", checksum, compatible_from)


def test_what_is_pending() -> None:
    files = [migration(1), migration(2)]
    assert pending(files, []) == files
    assert pending(files, [line(1)]) == files[1:]
    assert pending(files, [line(1), line(2), line(3)]) == [], "a newer schema that says it is compatible"
    for applied, complaint in (
        ([line(1, "other")], "was changed"),
        ([line(2)], "came after version 2"),
        ([line(1), line(2), line(3, compatible_from=3)], "deploy a newer version"),
    ):
        with pytest.raises(PermanentError, match=complaint):
            pending(files, applied)
    with pytest.raises(PermanentError, match="its file is missing"):
        pending([migration(1), migration(3)], [line(1), line(2)])


def test_a_failing_statement_leaves_nothing_of_its_file(pipeline: Pipeline) -> None:
    broken = Migration(len(NAMES) + 1, "broken", "c", 1, ("CREATE TABLE half (a INT)", "SELECT nonsense FROM nowhere"))
    runner = Runner(engine_of(pipeline), Deadline(60), [*bundled(), broken])
    with pytest.raises(Exception, match="nowhere"):
        runner.run()
    assert pipeline.sql("SELECT table_name FROM information_schema.tables WHERE table_name = 'half'") == []
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_schema_migrations") == len(NAMES)


def test_the_loader_needs_a_schema_in_its_range(engine: StandIn) -> None:
    pipeline = Pipeline(engine.url)
    with pytest.raises(LedgerUnavailableError, match="could not be read"):
        migrations.require(engine_of(pipeline))
    pipeline.migrate()
    newest = len(NAMES)
    pipeline.sql("UPDATE cdc_schema_migrations SET version = version - 1 WHERE version = ?", newest)
    with pytest.raises(LedgerUnavailableError, match=f"at version {newest - 1}"):
        migrations.require(engine_of(pipeline))
    pipeline.sql(
        "UPDATE cdc_schema_migrations SET version = ?, compatible_from = ? WHERE name = ?",
        newest + 1,
        newest + 1,
        bundled()[-1].name,
    )
    with pytest.raises(LedgerUnavailableError, match="deploy a newer version"):
        migrations.require(engine_of(pipeline))
    pipeline.sql("UPDATE cdc_schema_migrations SET compatible_from = 1")
    migrations.require(engine_of(pipeline))


def test_a_function_that_was_rolled_back_runs_on_a_newer_schema_in_its_range(pipeline: Pipeline) -> None:
    newest = len(NAMES)
    pipeline.sql(
        "INSERT INTO cdc_schema_migrations (version, name, checksum, compatible_from, run_id, applied_at) "
        "VALUES (?, 'later', 'x', ?, 'r', CURRENT_TIMESTAMP)",
        newest + 1,
        newest,
    )
    migrations._checked.clear()
    assert Runner(engine_of(pipeline), Deadline(60)).run() == []
    migrations.require(engine_of(pipeline))
    assert pipeline.deliver(pipeline.put("fair/sessions/20241124-1.parquet", sessions(("I", 1, "a")))) == []
    assert pipeline.sql.value("SELECT COUNT(*) FROM sessions") == 1


def test_code_without_generations_stays_off_a_schema_that_has_them(pipeline: Pipeline) -> None:
    with pytest.raises(PermanentError, match="deploy a newer version"):
        Runner(engine_of(pipeline), Deadline(60), bundled()[:6]).run()


def test_what_came_to_tables_that_hold_rows_is_nullable(pipeline: Pipeline) -> None:
    nullable = dict(
        pipeline.sql(
            "SELECT table_name || '.' || column_name, is_nullable FROM information_schema.columns WHERE column_name IN "
            "('schema_change', 'rows_collapsed', 'rows_dropped')"
        )
    )
    assert nullable == {
        f"{table}.{column}": "YES"
        for table in ("cdc_processed_files", "cdc_applied")
        for column in ("schema_change", "rows_collapsed", "rows_dropped")
    }


def test_a_target_belongs_to_one_pipeline(pipeline: Pipeline, engine: StandIn) -> None:
    second = Pipeline(engine.url)
    with pytest.raises(PermanentError, match="belongs to the pipeline"):
        second.migrate()
    second.configure(tables={"fair/sessions": {"target": "other_sessions", "mode": "merge", "primary_key": ["sid"]}})
    second.migrate()
    assert second.deliver(second.put("fair/sessions/20241124-1.parquet", sessions(("I", 1, "a")))) == []
    assert second.sql.value("SELECT COUNT(*) FROM other_sessions") == 1


@pytest.mark.parametrize("delisted", [False, True])
def test_a_target_that_was_renamed_with_its_rows_is_refused(pipeline: Pipeline, delisted: bool) -> None:
    assert pipeline.deliver(pipeline.put("fair/sessions/20241124-1.parquet", sessions(("I", 1, "a")))) == []
    if delisted:
        pipeline.configure(tables={"fair/events": table_config("events")})
        pipeline.migrate()
        pipeline.sql("DELETE FROM cdc_processed_files")  # as a purge does, past the retention
    pipeline.sql("ALTER TABLE sessions RENAME TO visits")
    pipeline.configure(tables={"fair/sessions": table_config("visits", ["sid"])})
    with pytest.raises(PermanentError, match=r'into sessions, .* visits, which has rows.*set target = "sessions"'):
        pipeline.migrate()
    pipeline.sql("ALTER TABLE visits RENAME TO sessions")
    assert pipeline.migrate()["seeded"] == ["visits"], "it is missing, so it is filled from all files"
    pipeline.clean("reconcile")
    pipeline.drain()
    assert pipeline.sql('SELECT "sid" FROM visits') == [[1]]


def test_a_renamed_target_of_a_table_without_a_path_is_refused(pipeline: Pipeline) -> None:
    everywhere = {"path": "", "changes": "(?P<stamp>[0-9]+-[0-9]+)"}
    pipeline.configure(tables={"fair/visits": table_config("sessions", ["sid"], files=everywhere)})
    pipeline.migrate()
    assert pipeline.deliver(pipeline.put("20241124-1.parquet", sessions(("I", 1, "a")))) == []
    assert pipeline.sql('SELECT "sid" FROM sessions') == [[1]]
    pipeline.configure(tables={"fair/events": table_config("events")})
    pipeline.migrate()
    pipeline.sql("ALTER TABLE sessions RENAME TO renamed")
    pipeline.configure(tables={"fair/visits": table_config("renamed", ["sid"], files=everywhere)})
    with pytest.raises(PermanentError, match="fair/visits was loaded into sessions"):
        pipeline.migrate()


def test_a_pipeline_moves_to_another_bucket(pipeline: Pipeline) -> None:
    """As docs/upgrade.md says, "To another bucket or prefix"."""
    text = (repository() / "docs" / "upgrade.md").read_text(encoding="utf-8")
    [guide] = re.findall(r"## To another bucket or prefix\n.*?```sql\n(.*?)```", text, re.DOTALL)
    tables = pipeline.config["tables"]
    pipeline.configure(unlisted_tables="append")
    before = [
        pipeline.put("fair/sessions/LOAD00000001.parquet", sessions(("I", 1, "a"), ("I", 2, "b"))),
        pipeline.put("fair/sessions/20241124-1.parquet", sessions(("U", 2, "c"))),
        pipeline.put("sales/orders/20241124-1.parquet", sessions(("I", 1, "x"))),
    ]
    assert pipeline.deliver(*before) == []
    old = pipeline.bucket
    pipeline.bucket = f"{old}-new"
    pipeline.s3.create_bucket(
        Bucket=pipeline.bucket, CreateBucketConfiguration={"LocationConstraint": os.environ["AWS_DEFAULT_REGION"]}
    )
    listed = {"sales/orders": table_config("sales__orders")}
    pipeline.configure(source={"bucket": pipeline.bucket, "prefix": "new_prefix/"}, tables=tables | listed)
    with pytest.raises(PermanentError, match="belongs to the pipeline"):
        pipeline.migrate()
    new = f"{pipeline.bucket}/new_prefix/"
    for statement in (
        guide.replace("old-bucket/old_prefix/", f"{old}/{PREFIX}")
        .replace("new-bucket/new_prefix/", new)
        .split(";\n")[:-1]
    ):
        pipeline.sql(statement)
    assert set(pipeline.migrate()["seeded"]) == {"sales__orders", f"*{new}"}

    def put(key: str, body: bytes) -> dict[str, object]:
        etag = pipeline.s3.put_object(Bucket=pipeline.bucket, Key=f"new_prefix/{key}", Body=body)["ETag"].strip('"')
        return {"detail": {"bucket": {"name": pipeline.bucket}, "object": {"key": f"new_prefix/{key}", "etag": etag}}}

    after = [
        put("fair/sessions/20241125-1.parquet", sessions(("D", 1, "a"), ("U", 2, "d"))),
        put("sales/orders/20241125-1.parquet", sessions(("I", 2, "y"))),
    ]
    assert pipeline.deliver(*after, *after) == []
    assert pipeline.sql('SELECT "sid", "user" FROM sessions') == [[2, "d"]], "changes go on where they stopped"
    assert pipeline.sql('SELECT "sid" FROM sales__orders ORDER BY "sid"') == [[1], [2]]
    assert pipeline.clean("reconcile")["reconcile"] == {"listed": 2, "missing": 0, "sent": 0}
    assert pipeline.deliver(*before) == [], "a late event of the old bucket"
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_processed_files WHERE status <> 'completed'") == 0
    time.sleep(1.1)  # S3 keeps whole seconds
    assert pipeline.deliver(put("fair/sessions/LOAD00000001.parquet", sessions(("I", 2, "d"), ("I", 3, "e")))) == []
    assert pipeline.ledger()["fair/sessions/LOAD00000001.parquet"] == ("pending", "held"), "DMS loaded it anew"
    config = configuration.load()
    deadline = Deadline(60)
    work = Reload.of(config, Engine(config.firebolt, deadline), deadline, Context())
    with pytest.raises(PermanentError, match="without --everything"):
        work.plan("sessions", everything=True)
    assert work.run(work.plan("sessions"), progress=lambda *_: None).files == 1
    assert pipeline.sql('SELECT "sid", "user" FROM sessions ORDER BY "sid"') == [[2, "d"], [3, "e"]]
    with pytest.raises(PermanentError, match="no longer in S3"):
        work.run(work.plan("sales__orders", everything=True), progress=lambda *_: None)


@pytest.mark.parametrize("moment", ["TIMESTAMP", "TIMESTAMPTZ"])
def test_a_ledger_made_by_hand_is_adopted(engine: StandIn, moment: str) -> None:
    pipeline = Pipeline(engine.url)
    pipeline.s3_time = None
    keys = {
        name: f"fair/sessions/20241124-{n}.parquet"
        for n, name in enumerate(("done", "twice", "failed", "stuck", "unknown", "changed"), 1)
    }
    events = {name: pipeline.put(key, sessions(("I", n, name))) for n, (name, key) in enumerate(keys.items())}
    pipeline.sql(
        f"CREATE TABLE cdc_processed_files (file_key TEXT, request_id TEXT, processed_at {moment}, status TEXT, "
        "lambda_arn TEXT, attempt_count INT, error_message TEXT)"
    )
    later = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%d %H:%M:%S")
    earlier = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d %H:%M:%S")
    for name, status, processed_at in (
        ("done", "completed", later), ("twice", "failed", earlier), ("twice", "completed", later),
        ("failed", "failed", later), ("stuck", "processing", later), ("changed", "completed", earlier),
    ):  # fmt: skip
        pipeline.sql(
            f"INSERT INTO cdc_processed_files VALUES (?, 'r', CAST(? AS {moment}), ?, 'arn', 1, NULL)",
            keys[name],
            processed_at,
            status,
        )
    adopted = pipeline.migrate()["adopted"]
    assert adopted == {"applied": 2, "held": 3}
    ledger = pipeline.ledger()
    assert {name: ledger.get(key) for name, key in keys.items()} == {
        "done": ("completed", None), "twice": ("completed", None), "unknown": None,
        "failed": ("pending", "held"), "stuck": ("pending", "held"), "changed": ("pending", "held"),
    }  # fmt: skip
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_processed_files") == 5, "one row per file version"
    assert pipeline.migrate()["adopted"] == {}
    assert pipeline.deliver(events["unknown"]) == []
    assert pipeline.ledger()[keys["unknown"]] == ("pending", "held"), "what was loaded before lies in another table"
    pipeline.sql('CREATE TABLE sessions ("sid" BIGINT, "user" TEXT, "amount" NUMERIC(10, 2))')
    pipeline.sql(f"UPDATE cdc_processed_files SET {ANEW} WHERE file_key = '{keys['unknown']}'")
    for event in events.values():
        assert pipeline.deliver(event) == []
    assert pipeline.sql('SELECT "sid", "user" FROM sessions') == [[4, "unknown"]], "newer than the ledger"
    assert pipeline.deliver(pipeline.put(keys["done"], sessions(("I", 9, "new")))) == []
    assert pipeline.sql('SELECT "sid" FROM sessions ORDER BY "sid"') == [[4], [9]], "a new version of an adopted file"


def test_a_staged_file_that_cannot_be_deleted_fails_no_adoption(
    engine: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(engine.url, {"fair/sessions": table_config("sessions", ["sid"])})
    pipeline.sql("CREATE TABLE cdc_processed_files (file_key TEXT, status TEXT, processed_at TIMESTAMPTZ)")
    denied = ClientError(
        {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "DeleteObject"
    )

    def refuse(*_: Any, **__: Any) -> None:
        raise denied

    made = aws.client

    def client(service: str) -> Any:
        found = made(service)
        found.meta.events.register("before-call.s3.DeleteObject", refuse)
        return found

    monkeypatch.setattr(aws, "client", client)
    assert pipeline.migrate()["adopted"] == {"applied": 0, "held": 0}
    staged = pipeline.s3.list_objects_v2(Bucket=pipeline.config["staging"]["bucket"]).get("Contents", [])
    assert any("adopt-" in one["Key"] for one in staged)


def test_an_adopted_ledger_that_names_a_file_in_two_ways_gives_one_row(engine: StandIn) -> None:
    pipeline = Pipeline(engine.url)
    pipeline.s3_time = None
    keys = [f"fair/sessions/20241124-{n}.parquet" for n in (1, 2)]
    for n, key in enumerate(keys):
        pipeline.put(key, sessions(("I", n, "a")))
    pipeline.sql(
        "CREATE TABLE cdc_processed_files (file_key TEXT, processed_at TIMESTAMPTZ, status TEXT, request_id TEXT)"
    )
    for key, status in (
        (keys[0], "completed"), (PREFIX + keys[0], "failed"), (keys[1], "processing"), (PREFIX + keys[1], "failed"),
    ):  # fmt: skip
        pipeline.sql(
            "INSERT INTO cdc_processed_files VALUES (?, CURRENT_TIMESTAMP + INTERVAL '1' MINUTE, ?, 'r')", key, status
        )
    assert pipeline.migrate()["adopted"] == {"applied": 1, "held": 1}
    rows = pipeline.sql("SELECT file_key, status, attempt_count FROM cdc_processed_files ORDER BY file_key")
    assert rows == [[keys[0], "completed", 2], [keys[1], "pending", 2]]
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_applied") == 1


def test_what_the_adopted_ledger_does_not_know(engine: StandIn) -> None:
    pipeline = Pipeline(engine.url)
    pipeline.s3_time = None
    before = pipeline.put("fair/events/20241124-1.parquet", sessions(("I", 1, "before the ledger")))
    pipeline.later()
    pipeline.sql(
        "CREATE TABLE cdc_processed_files (file_key TEXT, processed_at TIMESTAMPTZ, status TEXT, request_id TEXT)"
    )
    pipeline.sql(
        "INSERT INTO cdc_processed_files VALUES ('fair/events/other.parquet', CURRENT_TIMESTAMP, 'completed', 'r')"
    )
    pipeline.later()
    after = pipeline.put("fair/events/20241124-2.parquet", sessions(("I", 2, "dropped by the old pipeline")))
    pipeline.later()
    assert pipeline.migrate()["adopted"] == {"applied": 1, "held": 1}
    assert pipeline.deliver(before, after) == []
    assert pipeline.ledger() == {"fair/events/20241124-2.parquet": ("pending", "held")}, "kept, and named"


def test_a_foreign_table_of_that_name_is_refused(engine: StandIn) -> None:
    pipeline = Pipeline(engine.url)
    pipeline.sql("CREATE TABLE cdc_processed_files (something TEXT)")
    with pytest.raises(PermanentError, match="is not the guide's"):
        pipeline.migrate()


def test_unknown_actions_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(PermanentError, match="unknown action 'drop'"):
        pipeline.migrate(action="drop")
