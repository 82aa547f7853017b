"""What counts as an attempt, and what becomes of a file whose attempts are used up (found by the model checker)."""

from __future__ import annotations

import time
from typing import Any

import pytest

from firebolt_cdc import loader
from firebolt_cdc.engine import Transaction
from firebolt_cdc.errors import ConflictError, HeldError
from firebolt_cdc.loader import Worker
from support import PREFIX, Pipeline, sessions, table_config

ONE = "fair/sessions/20241124-1.parquet"
EXPIRE = "UPDATE cdc_tables SET lease_until = CURRENT_TIMESTAMP - INTERVAL '1' SECOND WHERE holder IS NOT NULL"


class KilledError(BaseException):
    """Stands for SIGKILL in one process: nothing of the worker runs after it."""


def killed(*_: Any, **__: Any) -> None:
    raise KilledError


def test_a_file_that_kills_every_worker_ends_failed_and_can_be_retried(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = pipeline.put(ONE, sessions(("I", 1, "a")))
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_load_part", killed)
        patch.setattr(Worker, "_release", lambda *_: None)
        for attempt in range(3):
            with pytest.raises(KilledError):
                pipeline.deliver(event)
            if attempt == 2:
                assert pipeline.deliver(event) == [], "while the last attempt is under way the file waits"
                assert pipeline.take(pipeline.dlq) == []
            pipeline.sql(EXPIRE)
    pipeline.clean("sweep")
    pipeline.drain()
    assert pipeline.ledger() == {ONE: ("failed", "transient")}
    classes = [m["MessageAttributes"]["error_class"]["StringValue"] for m in pipeline.take(pipeline.dlq)]
    assert set(classes) == {"transient"}, "as in the ledger, so that `retry --class` finds it"
    pipeline.sql("UPDATE cdc_processed_files SET enqueued_at = NULL")
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 0
    pipeline.sql("UPDATE cdc_processed_files SET status = 'pending', error_message = NULL WHERE status = 'failed'")
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 1
    pipeline.drain()
    assert pipeline.ledger() == {ONE: ("completed", None)}


def test_a_file_for_which_there_was_no_time_loses_no_attempt(pipeline: Pipeline) -> None:
    event = pipeline.put(ONE, sessions(("I", 1, "a")))
    for _ in range(4):
        assert pipeline.deliver(event, timeout_seconds=11) == []
    assert pipeline.sql("SELECT status, alone_count FROM cdc_processed_files") == [["pending", 0]]
    pipeline.drain()
    assert pipeline.ledger() == {ONE: ("completed", None)}


def test_a_request_typed_while_the_load_fails_is_kept(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = loader.prepare

    def typed_meanwhile(*arguments: Any) -> Any:
        pipeline.sql("UPDATE cdc_processed_files SET status = 'pending', error_message = NULL")
        return prepare(*arguments)

    monkeypatch.setattr(loader, "prepare", typed_meanwhile)
    assert pipeline.deliver(pipeline.put("fair/sessions/20241124-7.parquet", b"junk")) == []
    assert pipeline.sql("SELECT status, recorded_status FROM cdc_processed_files") == [["pending", "failed"]]
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 1


def test_a_file_of_another_pipelines_table_has_its_line(pipeline: Pipeline) -> None:
    pipeline.sql("UPDATE cdc_tables SET pipeline = 'other/dms/' WHERE turn = 'sessions'")
    assert pipeline.deliver(pipeline.put("fair/sessions/20241124-8.parquet", sessions(("I", 1, "a")))) == []
    assert pipeline.ledger() == {"fair/sessions/20241124-8.parquet": ("failed", "permanent")}
    assert len(pipeline.take(pipeline.dlq)) == 1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_file_of_another_pipelines_table_that_is_tried_again_is_refused_once(
    pipeline: Pipeline, elsewhere: bool
) -> None:
    event = pipeline.put("fair/sessions/20241124-8.parquet", sessions(("I", 1, "a")))
    pipeline.sql("UPDATE cdc_tables SET pipeline = 'other/dms/' WHERE turn = 'sessions'")
    if elsewhere:
        pipeline.configure(tables={"fair/sessions": table_config("older", ["sid"])})
        pipeline.migrate()
        assert pipeline.deliver(event) == []
        pipeline.configure(tables={"fair/sessions": table_config("sessions", ["sid"])})
        pipeline.sql("UPDATE cdc_processed_files SET status = 'failed', recorded_status = 'failed'")
    else:
        assert pipeline.deliver(event) == []
        assert len(pipeline.take(pipeline.dlq)) == 1
    pipeline.sql("UPDATE cdc_processed_files SET status = 'pending', error_message = NULL WHERE status = 'failed'")
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 1
    pipeline.drain()
    assert pipeline.ledger() == {"fair/sessions/20241124-8.parquet": ("failed", "permanent")}
    assert len(pipeline.take(pipeline.dlq)) == 1
    pipeline.sql("UPDATE cdc_processed_files SET enqueued_at = NULL")
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 0
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0


def test_a_load_that_others_keep_from_committing_costs_no_attempt(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise ConflictError("detected 1 conflicts with 1 transactions on transaction commit")

    event = pipeline.put("fair/sessions/20241124-9.parquet", sessions(("I", 1, "a")))
    with monkeypatch.context() as patch:
        patch.setattr(loader.Applier, "load", lost)
        assert pipeline.deliver(event, timeout_seconds=loader.START_SECONDS + 4) == []
    assert pipeline.sql("SELECT status, error_class, alone_count FROM cdc_processed_files") == [["pending", None, 0]]
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_tables WHERE holder IS NOT NULL") == 0
    pipeline.drain()
    assert pipeline.sql('SELECT "sid" FROM sessions') == [[1]]


def test_a_file_that_was_gone_is_loaded_when_s3_announces_it_again(pipeline: Pipeline) -> None:
    body = sessions(("I", 1, "a"))
    event = pipeline.put(ONE, body)
    pipeline.s3.delete_object(Bucket=pipeline.bucket, Key=PREFIX + ONE)
    for _ in range(5):
        assert pipeline.deliver(event) == []
    assert pipeline.ledger() == {ONE: ("failed", "gone")}
    assert len(pipeline.take(pipeline.dlq)) == 5
    assert pipeline.put(ONE, body) == event, "the same content is the same version"
    assert pipeline.deliver(event) == []
    assert pipeline.ledger() == {ONE: ("completed", None)}
    assert pipeline.sql.value('SELECT COUNT(*) FROM sessions WHERE "sid" = 1') == 1


def test_a_reload_that_failed_for_another_reason_is_held_also_after_the_guides_retry(pipeline: Pipeline) -> None:
    pipeline.configure(tables={"fair/events": table_config("events")}, unlisted_tables="fail")
    names = ["LOAD00000001", "20241124-1", "LOAD00000002"]
    rows = [(("I", 1, "a"), ("I", 2, "gone in the source")), (("U", 1, "b"),), (("I", 1, "c"),)]
    for name, content in zip(names, rows, strict=True):
        pipeline.deliver(pipeline.put(f"fair/sessions/{name}.parquet", sessions(*content)))
        time.sleep(1.1)
    assert {status for status, _ in pipeline.ledger().values()} == {"failed"}, "its table is not listed"
    pipeline.configure(tables=pipeline.config["tables"] | {"fair/sessions": table_config("sessions", ["sid"])})
    pipeline.migrate()
    pipeline.sql("UPDATE cdc_processed_files SET status = 'pending', error_message = NULL WHERE status = 'failed'")
    pipeline.clean("sweep")
    pipeline.drain()
    assert pipeline.ledger()[f"fair/sessions/{names[2]}.parquet"] == ("pending", "held")
    assert pipeline.sql('SELECT "sid", "user" FROM sessions ORDER BY 1') == [[1, "b"], [2, "gone in the source"]]


def test_many_held_files_that_are_announced_again_cost_no_statements(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [pipeline.put(f"fair/sessions/2024112{n}-1.parquet", sessions(("I", 1, "a"))) for n in range(4)]

    def hold(*arguments: Any) -> None:
        raise HeldError(f"{arguments[1].file_key}: a reason of its own")

    with monkeypatch.context() as patch:
        patch.setattr(loader, "prepare", hold)
        assert pipeline.deliver(*events) == []
    assert set(pipeline.ledger().values()) == {("pending", "held")}
    statements: list[str] = []
    execute = Transaction.execute

    def noted(tx: Transaction, sql: str, *arguments: Any, **more: Any) -> Any:
        statements.append(sql)
        return execute(tx, sql, *arguments, **more)

    monkeypatch.setattr(Transaction, "execute", noted)
    assert pipeline.deliver(*events) == []
    assert [sql for sql in statements if sql.startswith("UPDATE cdc_processed_files")] == []
    assert set(pipeline.ledger().values()) == {("pending", "held")}


def test_many_files_whose_attempts_are_used_up_are_given_up_by_one_statement(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [pipeline.put(f"fair/sessions/2024112{n}-1.parquet", sessions(("I", 1, "a"))) for n in range(4)]
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_load_part", killed)
        patch.setattr(Worker, "_release", lambda *_: None)
        with pytest.raises(KilledError):
            pipeline.deliver(*events)
    pipeline.sql(EXPIRE)
    pipeline.sql("UPDATE cdc_processed_files SET alone_count = 3, error_message = 'said ' || file_key")
    statements: list[str] = []
    execute = Transaction.execute

    def noted(tx: Transaction, sql: str, *arguments: Any, **more: Any) -> Any:
        statements.append(sql)
        return execute(tx, sql, *arguments, **more)

    monkeypatch.setattr(Transaction, "execute", noted)
    assert pipeline.deliver(*events) == []
    assert len([sql for sql in statements if sql.startswith("UPDATE cdc_processed_files")]) == 1
    found = pipeline.sql("SELECT file_key, status, error_class, error_message FROM cdc_processed_files ORDER BY 1")
    for key, status, error_class, message in found:
        assert (status, error_class) == ("failed", "transient")
        assert message == f"tried 3 times alone; last: said {key}"
