"""What counts as an attempt, and what becomes of a file whose attempts are used up (found by the model checker)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from firebolt_cdc import aws, loader
from firebolt_cdc.engine import Transaction
from firebolt_cdc.errors import ConflictError, HeldError
from firebolt_cdc.loader import Worker
from support import PREFIX, KilledError, Pipeline, sessions, table_config

ONE = "fair/sessions/20241124-1.parquet"
EXPIRE = "UPDATE cdc_tables SET lease_until = CURRENT_TIMESTAMP - INTERVAL '1' SECOND WHERE holder IS NOT NULL"


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
        pipeline.later()
    assert {status for status, _ in pipeline.ledger().values()} == {"failed"}, "its table is not listed"
    pipeline.configure(tables=pipeline.config["tables"] | {"fair/sessions": table_config("sessions", ["sid"])})
    pipeline.migrate()
    pipeline.sql("UPDATE cdc_processed_files SET status = 'pending', error_message = NULL WHERE status = 'failed'")
    pipeline.clean("sweep")
    pipeline.drain()
    assert pipeline.ledger()[f"fair/sessions/{names[2]}.parquet"] == ("pending", "held")
    assert pipeline.sql('SELECT "sid", "user" FROM sessions ORDER BY 1') == [[1, "b"], [2, "gone in the source"]]


def updates_of_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements of transactions that change the ledger's rows, as they come."""
    statements: list[str] = []
    execute = Transaction.execute

    def noted(tx: Transaction, sql: str, *arguments: Any, **more: Any) -> Any:
        if sql.startswith("UPDATE cdc_processed_files"):
            statements.append(sql)
        return execute(tx, sql, *arguments, **more)

    monkeypatch.setattr(Transaction, "execute", noted)
    return statements


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
    statements = updates_of_files(monkeypatch)
    assert pipeline.deliver(*events) == []
    assert statements == []
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
    statements = updates_of_files(monkeypatch)
    assert pipeline.deliver(*events) == []
    assert len(statements) == 1
    found = pipeline.sql("SELECT file_key, status, error_class, error_message FROM cdc_processed_files ORDER BY 1")
    for key, status, error_class, message in found:
        assert (status, error_class) == ("failed", "transient")
        assert message == f"tried 3 times alone; last: said {key}"


def test_files_of_many_tables_that_are_held_are_written_by_one_statement(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("sessions", "users")
    pipeline.configure(tables={f"fair/{name}": table_config(name, ["sid"]) for name in names})
    pipeline.migrate()
    events = [pipeline.put(f"fair/{name}/20241124-1.parquet", sessions(("I", 1, "a"))) for name in names]
    with down("HeadObject", NO_CONNECTION):
        assert pipeline.deliver(*events) == []
    order = {"by": "number", "column": "sid"}
    pipeline.sql("UPDATE cdc_tables SET order_format = 'another'")
    pipeline.configure(tables={f"fair/{name}": table_config(name, ["sid"], order=order) for name in names})
    statements = updates_of_files(monkeypatch)
    assert pipeline.deliver(*events) == []
    assert set(pipeline.ledger().values()) == {("pending", "held")}
    assert len(statements) == 1
    reasons = pipeline.sql("SELECT COUNT(DISTINCT error_message) FROM cdc_processed_files")
    assert reasons == [[2]], "each names its table"


NO_CONNECTION = EndpointConnectionError(endpoint_url="https://s3.invalid")


def refusal(code: str, status: int) -> ClientError:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "S3")  # type: ignore[arg-type]


@contextlib.contextmanager
def down(operation: str, error: Exception, after: int = 0) -> Iterator[list[str]]:
    """S3 fails a call of the loader from the `after`th on; the keys that were asked for."""
    asked: list[str] = []

    def fail(params: dict[str, Any], **_: Any) -> None:
        asked.append(params["url_path"])
        if len(asked) > after:
            raise error

    hooks, name = loader._client("s3").meta.events, f"before-call.s3.{operation}"
    hooks.register(name, fail)
    try:
        yield asked
    finally:
        hooks.unregister(name, fail)


def attempts(pipeline: Pipeline) -> list[list[Any]]:
    return pipeline.sql("SELECT DISTINCT status, error_class, alone_count FROM cdc_processed_files")


def test_an_outage_of_s3_costs_a_batch_no_attempt_and_is_met_once(pipeline: Pipeline) -> None:
    events = [pipeline.put(f"fair/sessions/20241124-{n}.parquet", sessions(("I", n, "a"))) for n in range(5)]
    events += [pipeline.put(f"fair/events/20241124-{n}.parquet", sessions(("I", n, "a"))) for n in range(2)]
    for _ in range(4):
        with down("HeadObject", NO_CONNECTION) as asked:
            assert pipeline.deliver(*events) == []
        assert len(asked) == 1, "of a dead S3 no more is asked in this invocation"
    assert attempts(pipeline) == [["pending", None, 0]]
    assert pipeline.take(pipeline.dlq) == []
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_tables WHERE holder IS NOT NULL") == 0
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 0, "their copies go round"
    pipeline.sql("UPDATE cdc_processed_files SET enqueued_at = enqueued_at - INTERVAL '1' HOUR")
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 7, "unless they are lost"
    pipeline.drain()
    assert set(pipeline.ledger().values()) == {("completed", None)}
    assert pipeline.sql('SELECT "sid" FROM sessions ORDER BY 1') == [[n] for n in range(5)]


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        ("HeadObject", refusal("503", 503)),
        ("GetObject", refusal("SlowDown", 503)),
        ("PutObject", NO_CONNECTION),
    ],
)
def test_an_outage_of_s3_gives_a_file_that_was_claimed_alone_its_attempt_back(
    pipeline: Pipeline, operation: str, error: Exception
) -> None:
    event = pipeline.put(ONE, sessions(("I", 1, "a")))
    with down(operation, error):
        for _ in range(4):
            assert pipeline.deliver(event) == []
            assert attempts(pipeline) == [["pending", None, 0]]
    assert pipeline.take(pipeline.dlq) == []
    pipeline.drain()
    assert pipeline.ledger() == {ONE: ("completed", None)}


def test_what_was_read_before_an_outage_is_loaded(pipeline: Pipeline) -> None:
    events = [pipeline.put(f"fair/sessions/20241124-{n}.parquet", sessions(("I", n, "a"))) for n in range(4)]
    with down("HeadObject", NO_CONNECTION, after=2):
        assert pipeline.deliver(*events) == []
    assert pipeline.sql('SELECT "sid" FROM sessions ORDER BY 1') == [[0], [1]]
    assert [status for status, _ in pipeline.ledger().values()].count("pending") == 2
    pipeline.drain()
    assert set(pipeline.ledger().values()) == {("completed", None)}


def test_deliveries_without_an_etag_meet_an_outage_once(pipeline: Pipeline) -> None:
    events = []
    for n in range(3):
        event = pipeline.put(f"fair/sessions/20241124-{n}.parquet", sessions(("I", n, "a")))
        del event["detail"]["object"]["etag"]
        events.append(event)
    with down("HeadObject", NO_CONNECTION) as asked:
        assert pipeline.deliver(*events) == []
    assert len(asked) == 1
    pipeline.drain()
    assert pipeline.sql('SELECT "sid" FROM sessions ORDER BY 1') == [[0], [1], [2]]


def test_a_refusal_by_s3_is_counted_and_ends(pipeline: Pipeline) -> None:
    events = [pipeline.put(f"fair/sessions/20241124-{n}.parquet", sessions(("I", n, "a"))) for n in range(2)]
    with down("HeadObject", refusal("403", 403)) as asked:
        for _ in range(3):
            assert pipeline.deliver(*events) == []
        assert len(asked) == 6, "it may be of one file only"
        assert attempts(pipeline) == [["failed", "transient", 3]]
        assert pipeline.deliver(*events) == []
    assert len(pipeline.take(pipeline.dlq)) == 2


def test_aws_that_says_nothing_is_given_up_within_the_invocation(pipeline: Pipeline) -> None:
    """Else Lambda ends it, and that counts as an attempt of a file that was claimed alone."""
    for service in ("s3", "sqs", "secretsmanager"):
        config = aws.client(service).meta.config
        longest = max(config.connect_timeout, config.read_timeout) * config.retries["total_max_attempts"]
        assert longest <= 300 / 2, "half of loader.timeout_seconds"
