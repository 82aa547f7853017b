"""What cleans up after crashes and people: the guide's hand-typed SQL, sweep, reconcile, audit, purge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from firebolt_cdc import cleanup, cli, loader
from firebolt_cdc.apply import Applier
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.storage import Storage
from support import PREFIX, Command, KilledError, Pipeline, parquet, sessions, table_config

ONE = "fair/sessions/20241124-1.parquet"
TWO = "fair/sessions/20241124-2.parquet"
NO_GRACE = {"reconcile_grace_seconds": 0}
RETRY = (  # verbatim from the deployment guide, less its age condition, which the second one has
    "UPDATE cdc_processed_files SET status = 'pending', error_message = NULL WHERE status = 'failed'"
)
RETRY_OLD = RETRY + " AND processed_at < CURRENT_TIMESTAMP - INTERVAL '1' HOUR"
STUCK = (
    "UPDATE cdc_processed_files SET status = 'failed', error_message = 'Timeout or crash' WHERE status = 'processing'"
)


@pytest.fixture
def dies_in_load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Workers of this test die between claim and load, without giving anything back."""

    def arm() -> None:
        def die(*_: Any, **__: Any) -> None:
            raise KilledError

        monkeypatch.setattr(Applier, "load", die)
        monkeypatch.setattr(loader.Worker, "_release", lambda *_: None)

    return arm


def crash(
    pipeline: Pipeline, event: dict[str, Any], arm: Any, monkeypatch: pytest.MonkeyPatch, lease: float = 40
) -> None:
    with monkeypatch.context():
        arm()
        with pytest.raises(KilledError):
            pipeline.deliver(event, timeout_seconds=lease)
    monkeypatch.undo()


def test_a_crashed_load_is_loaded_by_the_sweep(
    pipeline: Pipeline, dies_in_load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(pipeline, pipeline.put(ONE, sessions(("I", 1, "a"))), dies_in_load, monkeypatch)
    assert pipeline.ledger() == {ONE: ("processing", None)}
    assert pipeline.clean("sweep")["sweep"] == {"turns_freed": 0, "mended": 0, "reset": 0, "requeued": 0, "left": 1}, (
        "its lease is alive"
    )
    pipeline.sql("UPDATE cdc_tables SET lease_until = CURRENT_TIMESTAMP - INTERVAL '1' SECOND WHERE turn = 'sessions'")
    swept = pipeline.clean("sweep")["sweep"]
    assert (swept["turns_freed"], swept["reset"], swept["requeued"]) == (1, 1, 1)
    pipeline.drain()
    assert pipeline.sql('SELECT "sid", "user" FROM sessions') == [[1, "a"]]
    assert pipeline.sql("SELECT status, attempt_count, alone_count FROM cdc_processed_files") == [["completed", 2, 2]]


def test_a_busy_table_lets_the_file_wait_as_a_copy(
    pipeline: Pipeline, dies_in_load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(pipeline, pipeline.put(ONE, sessions(("I", 1, "a"))), dies_in_load, monkeypatch)
    second = pipeline.put(TWO, sessions(("I", 2, "b")))
    assert pipeline.deliver(second) == []
    assert pipeline.by_hand(TWO)["status"] == "queued"
    assert pipeline.ledger() == {ONE: ("processing", None)}
    copies = pipeline.take(pipeline.queue, wait=True)
    copies += pipeline.take(pipeline.queue, wait=True)
    assert {c["MessageAttributes"]["cdc_waits"]["StringValue"] for c in copies} == {"1"}
    assert len(copies) == 2


def test_the_guides_update_of_a_stuck_file_is_safe_and_it_loads(
    pipeline: Pipeline, dies_in_load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(pipeline, pipeline.put(ONE, sessions(("I", 1, "a"))), dies_in_load, monkeypatch)
    pipeline.sql(STUCK)
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 0, "a live worker may still have it"
    pipeline.sql("UPDATE cdc_tables SET lease_until = CURRENT_TIMESTAMP - INTERVAL '1' SECOND WHERE turn = 'sessions'")
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 1
    pipeline.drain()
    assert pipeline.ledger() == {ONE: ("completed", None)}
    assert pipeline.sql.value("SELECT COUNT(*) FROM sessions") == 1


def test_the_guides_retry_of_failed_files_loads_them_without_an_event(pipeline: Pipeline) -> None:
    event = pipeline.put(ONE, sessions(("I", None, "a")))  # type: ignore[arg-type]
    assert pipeline.deliver(event) == []
    assert pipeline.ledger() == {ONE: ("failed", "permanent")}
    assert pipeline.clean("sweep")["sweep"]["left"] == 1
    pipeline.sql(RETRY_OLD)
    assert pipeline.ledger()[ONE][0] == "failed", "younger than an hour"
    pipeline.sql("UPDATE cdc_processed_files SET processed_at = processed_at - INTERVAL '2' HOUR")
    pipeline.sql(RETRY_OLD)
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 1
    pipeline.drain()
    assert pipeline.ledger() == {ONE: ("failed", "permanent")}, "tried again, and failed again"
    assert pipeline.sql.value("SELECT attempt_count FROM cdc_processed_files") == 1, "with a fresh budget"


def test_typed_rows_go_however_long_the_queue_is(pipeline: Pipeline) -> None:
    pipeline.configure(cleanup={"queue_limit": 1})
    for number in range(3):
        assert pipeline.deliver(pipeline.put(f"fair/sessions/20241124-{number}.parquet", b"junk")) == []
    pipeline.sql(RETRY)
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 3
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 0, "once per interval"


def test_files_of_a_busy_table_are_not_sent_again_and_again(pipeline: Pipeline) -> None:
    def requeued(sent_seconds_ago: int) -> int:
        ago = f"CURRENT_TIMESTAMP - INTERVAL '{sent_seconds_ago}' SECOND"
        pipeline.sql(f"UPDATE cdc_processed_files SET enqueued_at = {ago}")
        sent: int = pipeline.clean("sweep")["sweep"]["requeued"]
        return sent

    pipeline.configure(cleanup={"sweep_interval_seconds": 60})
    keys = [f"fair/sessions/20241124-{number}.parquet" for number in range(2)]
    pipeline.deliver(*(pipeline.put(key, b"junk") for key in keys))
    pipeline.sql("UPDATE cdc_processed_files SET status = 'pending'")
    pipeline.sql(
        f"UPDATE cdc_processed_files SET recorded_status = 'pending', error_class = NULL WHERE file_key = '{keys[0]}'"
    )
    pipeline.sql(
        "UPDATE cdc_tables SET holder = 'w', lease_until = CURRENT_TIMESTAMP + INTERVAL '1' HOUR "
        "WHERE turn = 'sessions'"
    )
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 2, "not sent yet"
    assert requeued(sent_seconds_ago=100) == 0, "their messages go round"
    assert requeued(sent_seconds_ago=60 * cleanup.BUSY_INTERVALS + 10) == 2, "unless they are lost"
    pipeline.sql("UPDATE cdc_tables SET holder = NULL")
    assert requeued(sent_seconds_ago=100) == 2, "nobody loads the table"


def test_hand_edits_never_load_a_file_twice(pipeline: Pipeline) -> None:
    event = pipeline.put("fair/events/20241124-1.parquet", sessions(("I", 1, "a")))
    assert pipeline.deliver(event) == []
    for statement in (
        "UPDATE cdc_processed_files SET status = 'pending'",
        "UPDATE cdc_processed_files SET status = 'failed'",
        "UPDATE cdc_processed_files SET status = 'processing'",
        "DELETE FROM cdc_processed_files WHERE processed_at < CURRENT_TIMESTAMP + INTERVAL '30' DAY",
    ):
        pipeline.sql(statement)
        pipeline.clean("sweep")
        pipeline.clean("reconcile")
        pipeline.drain()
        assert pipeline.deliver(event) == []
    assert pipeline.sql.value("SELECT COUNT(*) FROM events") == 1


@pytest.fixture(params=[1, cleanup.LISTED])
def listed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing in parts, and in one."""
    monkeypatch.setattr(cleanup, "LISTED", request.param)


@pytest.mark.usefixtures("listed")
def test_reconcile_finds_what_no_event_announced(pipeline: Pipeline) -> None:
    pipeline.put(ONE, sessions(("I", 1, "a")))
    assert pipeline.deliver(pipeline.put(TWO, sessions(("I", 2, "b")))) == []
    assert pipeline.clean("reconcile")["reconcile"] == {"listed": 2, "missing": 1, "sent": 1}
    pipeline.drain()
    assert pipeline.sql('SELECT "sid" FROM sessions ORDER BY "sid"') == [[1], [2]]
    assert pipeline.clean("reconcile")["reconcile"] == {"listed": 2, "missing": 0, "sent": 0}
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_duplicate_deliveries") == 0, "our own copies do not count"


def test_reconcile_announces_a_file_that_nobody_can_place_once(pipeline: Pipeline) -> None:
    pipeline.put("fair/sessions/notes.parquet", b"x")
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 1
    pipeline.drain()
    assert pipeline.ledger() == {"fair/sessions/notes.parquet": ("failed", "permanent")}
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0


def test_audit_counts_doubled_keys(pipeline: Pipeline) -> None:
    assert pipeline.deliver(pipeline.put(ONE, sessions(("I", 1, "a"), ("I", 2, "b")))) == []
    counts = {"tables": 1, "duplicate_rows": 0, "duplicate_files": 0, "ledger_lines_folded": 0}
    assert pipeline.clean("audit")["audit"] == counts
    pipeline.sql('INSERT INTO sessions ("sid") VALUES (1), (1), (2)')
    assert pipeline.clean("audit")["audit"] == counts | {"duplicate_rows": 3}


def test_audit_spares_the_line_that_alone_says_what_a_person_must_decide(pipeline: Pipeline) -> None:
    pipeline.deliver(pipeline.put(ONE, b"junk"))
    columns = "file_key, file_id, pipeline, bucket, object_key, etag, alone_count, recorded_status"
    pipeline.sql(
        f"INSERT INTO cdc_processed_files ({columns}, turn, status, error_class, processed_at, first_seen_at) "
        f"SELECT {columns}, 'shared', 'pending', 'held', processed_at - INTERVAL '1' DAY, "
        "first_seen_at - INTERVAL '1' DAY FROM cdc_processed_files"
    )
    assert pipeline.clean("audit")["audit"]["ledger_lines_folded"] == 1
    assert pipeline.ledger() == {ONE: ("pending", "held")}


@pytest.mark.parametrize("second", ["failed", "processing"])
def test_audit_leaves_one_line_to_each_file_version(pipeline: Pipeline, second: str) -> None:
    pipeline.deliver(pipeline.put(ONE, sessions(("I", 1, "a"))), pipeline.put(TWO, sessions(("I", 2, "b"))))
    shared = pipeline.sql.value("SELECT turn FROM cdc_tables WHERE turn NOT IN ('sessions', 'events')")
    columns = "file_key, processed_at, file_id, pipeline, bucket, object_key, etag, alone_count"
    pipeline.sql(  # what a loader whose configuration did not list the table yet wrote in the same moment
        f"INSERT INTO cdc_processed_files ({columns}, first_seen_at, turn, status, recorded_status) SELECT {columns}, "
        f"first_seen_at + INTERVAL '1' SECOND, '{shared}', '{second}', '{second}' FROM cdc_processed_files "
        f"WHERE file_key = '{ONE}'"
    )
    folded = 1 if second == "failed" else 0
    assert pipeline.clean("audit")["audit"]["ledger_lines_folded"] == folded
    lines = pipeline.sql("SELECT file_key, status FROM cdc_processed_files ORDER BY 1, 2")
    assert lines == [[ONE, "completed"], *([] if folded else [[ONE, second]]), [TWO, "completed"]]


def test_purge_deletes_only_what_is_settled(pipeline: Pipeline) -> None:
    assert pipeline.deliver(pipeline.put(ONE, sessions(("I", 1, "a"), ("D", 2, None)))) == []
    assert pipeline.deliver(pipeline.put(TWO, b"junk")) == []
    pipeline.sql("UPDATE cdc_processed_files SET processed_at = processed_at - INTERVAL '40' DAY")
    pipeline.sql("UPDATE cdc_tombstones SET file_modified_at = file_modified_at - INTERVAL '40' DAY")
    assert pipeline.clean("purge")["purge"] == {"ledger": 1, "duplicate_lines": 0, "tombstones": 1, "shadows": 0}
    assert pipeline.ledger() == {TWO: ("failed", "permanent")}
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_applied") == 1


def test_purge_deletes_what_was_skipped_and_nothing_brings_it_back(pipeline: Pipeline) -> None:
    pipeline.configure(unlisted_tables="skip")
    unlisted = pipeline.put("fair/other/20241124-1.parquet", sessions(("I", 1, "a")))
    assert pipeline.deliver(unlisted) == []
    assert set(pipeline.ledger().values()) == {("skipped", "permanent")}
    pipeline.sql("UPDATE cdc_processed_files SET processed_at = processed_at - INTERVAL '40' DAY")
    pipeline.sql("UPDATE cdc_processed_files SET status = 'pending'")
    assert pipeline.clean("purge")["purge"]["ledger"] == 0, "a person has asked for it"
    pipeline.sql("UPDATE cdc_processed_files SET status = 'skipped'")
    assert pipeline.clean("purge")["purge"]["ledger"] == 1
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0


@pytest.mark.usefixtures("listed")
def test_reconcile_announces_no_more_than_the_queue_has_room_for(pipeline: Pipeline) -> None:
    pipeline.configure(cleanup=pipeline.config["cleanup"] | {"queue_limit": 2})
    for number in range(4):
        pipeline.put(f"fair/sessions/2024112{number}-1.parquet", sessions(("I", number, "a")))
    assert pipeline.clean("reconcile")["reconcile"] == {"listed": 4, "missing": 4, "sent": 2}
    assert pipeline.clean("reconcile")["reconcile"] == {"listed": 4, "missing": 4, "sent": 0}


@pytest.mark.usefixtures("listed")
def test_a_tombstone_stays_while_an_older_object_is_not_applied(pipeline: Pipeline) -> None:
    pipeline.put(TWO, sessions(("I", 2, "late")))
    assert pipeline.deliver(pipeline.put(ONE, sessions(("D", 2, None)))) == []
    pipeline.configure(cleanup={"retention_days": 1})
    before = pipeline.sql.value("SELECT COUNT(*) FROM cdc_tombstones")
    assert pipeline.clean("purge")["purge"]["tombstones"] == 0
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_tombstones") == before == 1


@pytest.fixture
def forty_days_later(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Purges as if 40 days had passed since the loads, and 41 since S3 got what lies there; how many tombstones."""

    def purge() -> int:
        listing = Storage._listing
        with monkeypatch.context() as patch:
            patch.setattr(
                Storage,
                "_listing",
                lambda *a: (replace(i, last_modified=i.last_modified - timedelta(days=41)) for i in listing(*a)),
            )
            pipeline.sql("UPDATE cdc_tombstones SET file_modified_at = CURRENT_TIMESTAMP - INTERVAL '40' DAY")
            purged: int = pipeline.clean("purge")["purge"]["tombstones"]
            return purged

    return purge


@pytest.mark.usefixtures("listed")
def test_a_tombstone_stays_while_an_older_object_of_its_table_has_no_place(
    pipeline: Pipeline, command: Command, forty_days_later: Callable[[], int]
) -> None:
    snapshot = pipeline.put("fair/sessions/snapshot-1.parquet", sessions(("I", 1, "old"), ("I", 2, "b")))
    pipeline.later()
    assert pipeline.deliver(snapshot, pipeline.put(ONE, sessions(("D", 1, None)))) == []
    assert forty_days_later() == 0
    named = table_config("sessions", ["sid"], files={"full_load": "snapshot-[0-9]+"})
    pipeline.configure(tables=pipeline.config["tables"] | {"fair/sessions": named})
    pipeline.migrate()
    pipeline.sql(RETRY)
    pipeline.deliver(snapshot)
    assert pipeline.sql('SELECT "sid" FROM sessions') == [[2]], "what was deleted later does not come back"
    assert forty_days_later() == 1


@pytest.mark.usefixtures("listed")
def test_a_settled_object_and_one_of_an_unlisted_table_let_tombstones_go(
    pipeline: Pipeline, command: Command, forty_days_later: Callable[[], int]
) -> None:
    notes, astray = "fair/sessions/notes.parquet", "fair/moved/20241124-1.parquet"
    pipeline.configure(
        tables=pipeline.config["tables"] | {"fair/moved": table_config("m", files={"path": "elsewhere/"})}
    )
    pipeline.migrate()
    keys = (notes, astray, "fair/other/20241124-1.parquet", "fair/other/notes.parquet", "stray.parquet")
    assert pipeline.deliver(*(pipeline.put(key, b"x") for key in keys)) == []
    assert pipeline.deliver(pipeline.put(ONE, sessions(("D", 1, None)))) == []
    for key in (notes, astray):
        assert forty_days_later() == 0, f"{key} may still come"
        command(cli.settle, [key], reason="no file of the table", yes=True)
    assert forty_days_later() == 1


@pytest.mark.usefixtures("listed")
def test_an_object_that_start_after_leaves_out_lets_tombstones_go(
    pipeline: Pipeline, forty_days_later: Callable[[], int]
) -> None:
    pipeline.put(TWO, sessions(("I", 2, "of another pipeline")))
    assert pipeline.deliver(pipeline.put(ONE, sessions(("D", 1, None)))) == []
    assert forty_days_later() == 0
    start = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    pipeline.configure(source=pipeline.config["source"] | {"start_after": start})
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 1, "newer than that"
    pipeline.sql("DELETE FROM cdc_processed_files")
    assert forty_days_later() == 1


@pytest.mark.usefixtures("listed")
def test_a_failed_file_that_start_after_leaves_out_keeps_tombstones(
    pipeline: Pipeline, command: Command, forty_days_later: Callable[[], int]
) -> None:
    assert pipeline.deliver(pipeline.put(TWO, b"junk")) == []
    assert pipeline.deliver(pipeline.put(ONE, sessions(("D", 1, None)))) == []
    start = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    pipeline.configure(source=pipeline.config["source"] | {"start_after": start})
    assert forty_days_later() == 0, "retry may still load it"
    command(cli.settle, [TWO], reason="junk", yes=True)
    assert forty_days_later() == 1


def test_without_a_task_all_run(pipeline: Pipeline) -> None:
    assert list(pipeline.clean()) == ["sweep", "reconcile", "audit", "purge", "reload"]
    with pytest.raises(PermanentError, match="unknown task 'x'"):
        pipeline.clean("x")


def test_a_table_that_leaves_the_map_stays_quiet(pipeline: Pipeline) -> None:
    assert pipeline.deliver(pipeline.put(ONE, sessions(("I", 1, "a")))) == []
    pipeline.configure(tables={"fair/events": {"target": "events", "mode": "append"}})
    pipeline.migrate()
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0
    pipeline.sql("DELETE FROM cdc_processed_files")
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0
    assert pipeline.deliver(pipeline.put(ONE, sessions(("I", 1, "a")))) == []
    assert pipeline.take(pipeline.dlq) == [], "applied already"


def test_a_skipped_file_is_found_when_its_table_is_listed(pipeline: Pipeline) -> None:
    key = "fair/new/20241124-1.parquet"
    pipeline.configure(unlisted_tables="skip")
    assert pipeline.deliver(pipeline.put(key, sessions(("I", 1, "a")))) == []
    assert pipeline.ledger() == {key: ("skipped", "permanent")}
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0
    listed = {"fair/new": {"target": "new", "mode": "merge", "primary_key": ["sid"]}}
    pipeline.configure(tables=pipeline.config["tables"] | listed)
    pipeline.migrate()
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 1
    pipeline.drain()
    assert pipeline.ledger() == {key: ("completed", None)}


def test_a_status_that_nobody_knows_is_tried_again(pipeline: Pipeline) -> None:
    assert pipeline.deliver(pipeline.put(ONE, b"junk")) == []
    pipeline.sql("UPDATE cdc_processed_files SET status = 'PENDING'")
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 1


def test_a_file_that_fails_in_its_new_target_stays_failed_though_another_has_it(pipeline: Pipeline) -> None:
    key = "fair/new/20241124-1.parquet"
    pipeline.configure(unlisted_tables="append")
    pipeline.deliver(pipeline.put(key, parquet({"Op": ["I"], "sid": pa.array([None], pa.int64())})))
    assert pipeline.ledger() == {key: ("completed", None)}, "an append table takes a row without key"
    pipeline.configure(tables=pipeline.config["tables"] | {"fair/new": table_config("new", ["sid"])})
    pipeline.migrate()
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 1
    pipeline.drain()
    assert pipeline.ledger() == {key: ("failed", "permanent")}
    assert len(pipeline.take(pipeline.dlq)) == 1
    assert pipeline.clean("sweep")["sweep"]["mended"] == 0
    assert pipeline.ledger() == {key: ("failed", "permanent")}
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0


def test_a_row_that_differs_from_what_is_applied_is_mended_also_of_a_table_that_left_the_map(
    pipeline: Pipeline,
) -> None:
    pipeline.deliver(pipeline.put(ONE, sessions(("I", 1, "a"))))
    failed = "UPDATE cdc_processed_files SET status = 'failed', recorded_status = 'failed', error_class = 'permanent'"
    pipeline.sql(failed)
    assert pipeline.clean("sweep")["sweep"]["mended"] == 1
    pipeline.sql(failed)
    pipeline.configure(tables={"fair/events": table_config("events")})
    assert pipeline.clean("sweep")["sweep"]["mended"] == 1
    assert pipeline.ledger() == {ONE: ("completed", None)}


def test_a_sweep_costs_no_more_for_the_rows_that_only_a_person_moves(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    counted: dict[str, float] = {}
    query = Engine.query

    def counting(engine: Engine, sql: str, parameters: Any = ()) -> Any:
        statements.append(sql)
        return query(engine, sql, parameters)

    monkeypatch.setattr(cleanup, "count", lambda name, value=1, *_: counted.update({name: value}))
    monkeypatch.setattr(Engine, "query", counting)

    def sweep() -> tuple[dict[str, int], int]:
        statements.clear()
        return pipeline.clean("sweep")["sweep"], len(statements)

    pipeline.deliver(pipeline.put(ONE, sessions(("I", 1, "a"))))
    pipeline.deliver(pipeline.put(TWO, b"junk"))
    _, few = sweep()
    ways = [("failed", "permanent", 0), ("failed", "gone", 0), ("failed", "transient", 3), ("pending", "held", 0)]
    for status, error_class, alone in ways:
        values = ", ".join(
            f"('{n}', '{status}', '{error_class}{n}', '{pipeline.bucket}/{PREFIX}', 'sessions', '{pipeline.bucket}', "
            f"'k', 'e', '{status}', {alone}, '{error_class}')"
            for n in range(150)
        )
        pipeline.sql(
            "INSERT INTO cdc_processed_files (file_key, status, file_id, pipeline, turn, bucket, object_key, etag, "
            f"recorded_status, alone_count, error_class) VALUES {values}"
        )
    counts, many = sweep()
    assert (counts["left"], counts["requeued"], counted["FilesNeedingOperator"]) == (601, 0, 601)
    assert many == few
    pipeline.sql(
        f"UPDATE cdc_processed_files SET status = 'failed', recorded_status = 'failed', error_class = 'gone' "
        f"WHERE file_key = '{ONE}'"
    )
    assert sweep()[0]["mended"] == 1, "it is applied"
    assert pipeline.ledger()[ONE] == ("completed", None)
    pipeline.sql("UPDATE cdc_processed_files SET status = 'pending' WHERE error_class = 'transient'")
    counts, _ = sweep()
    assert (counts["left"], counts["requeued"]) == (451, 150)


def test_rows_of_a_table_that_is_listed_later_say_where_their_files_go(pipeline: Pipeline, command: Command) -> None:
    names = {"full": "LOAD00000001", "change": "20241124-1", "again": "LOAD00000002", "bad": "20241124-2"}
    keys = {name: f"fair/new/{stem}.parquet" for name, stem in names.items()}
    pipeline.configure(unlisted_tables="skip")
    pipeline.deliver(
        pipeline.put(keys["full"], sessions(("I", 1, "old"), ("I", 9, "gone"))),
        pipeline.put(keys["change"], sessions(("I", 2, "a"))),
        pipeline.put(keys["bad"], b"junk"),
    )
    pipeline.later()
    pipeline.deliver(pipeline.put(keys["again"], sessions(("I", 1, "new"))))
    listed = {"fair/new": table_config("new", ["sid"], reload="auto")}
    pipeline.configure(tables=pipeline.config["tables"] | listed, cleanup={"reload_quiet_seconds": 0} | NO_GRACE)
    pipeline.migrate()
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 4
    pipeline.drain()
    assert {key: (status, *rest) for key, status, *rest in pipeline.sql(
        "SELECT file_key, status, error_class, turn, source_table, target_table, kind FROM cdc_processed_files"
    )} == {
        keys["full"]: ("completed", None, "new", "fair/new", "new", "full"),
        keys["change"]: ("completed", None, "new", "fair/new", "new", "change"),
        keys["again"]: ("pending", "held", "new", "fair/new", "new", "full"),
        keys["bad"]: ("failed", "permanent", "new", "fair/new", "new", "change"),
    }  # fmt: skip
    assert command(cli.retry, table="fair/new")["would_retry"] == [keys["bad"]]
    assert pipeline.clean("reload")["reload"]["undecided"] == 1, "the other one may be of the same full load"
    command(cli.reload, "new", drop_older_full_load=True, max_duration="2m", yes=True)
    assert pipeline.sql('SELECT "sid", "user" FROM new') == [[1, "new"]]


def test_what_was_held_or_failed_before_its_table_was_listed_is_found_by_the_table(
    pipeline: Pipeline, command: Command
) -> None:
    pipeline.configure(unlisted_tables="append")
    pipeline.deliver(pipeline.put("fair/new/20241124-1.parquet", sessions(("I", 2, "a"))))
    pipeline.later()
    pipeline.deliver(pipeline.put("fair/new/LOAD00000002.parquet", sessions(("I", 1, "new"))))
    pipeline.configure(unlisted_tables="fail")
    pipeline.deliver(pipeline.put("fair/new/20241124-2.parquet", sessions(("U", 1, "b"))))
    listed = {"fair/new": table_config("new", ["sid"], reload="auto")}
    pipeline.configure(tables=pipeline.config["tables"] | listed, cleanup={"reload_quiet_seconds": 0} | NO_GRACE)
    pipeline.migrate()
    assert command(cli.retry, table="fair/new")["would_retry"] == ["fair/new/20241124-2.parquet"]
    assert command(cli.retry, table="new")["would_retry"] == ["fair/new/20241124-2.parquet"]
    assert command(cli.retry, table="sessions")["would_retry"] == []
    assert pipeline.clean("reload")["reload"]["undecided"] == 1, "it may be the table's first full load"
    command(cli.reload, "fair/new", same_task=True, max_duration="2m", yes=True)
    assert pipeline.sql('SELECT "sid", "user" FROM new') == [[1, "b"]]


def test_a_reloaded_table_that_leaves_the_map_is_not_announced_again(pipeline: Pipeline) -> None:
    without = pipeline.config["tables"]
    listed = {"fair/new": table_config("fair__new", ["sid"], reload="auto")}
    pipeline.configure(
        tables=without | listed, unlisted_tables="append", cleanup={"reload_quiet_seconds": 0} | NO_GRACE
    )
    pipeline.migrate()
    pipeline.deliver(pipeline.put("fair/new/LOAD00000001.parquet", sessions(("I", 1, "old"))))
    pipeline.deliver(pipeline.put("fair/new/20241124-1.parquet", sessions(("I", 2, "gone"))))
    pipeline.later()
    pipeline.deliver(pipeline.put("fair/new/LOAD00000001.parquet", sessions(("I", 1, "new"))))
    assert pipeline.clean("reload")["reload"]["reloaded"] == 1
    pipeline.configure(tables=without)
    pipeline.migrate()
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0
