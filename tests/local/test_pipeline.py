"""What needs the whole stack: real apply, real events, real processes.

Each test has files of its own, so that they may run in any order and on a stack that already holds data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack import data, local
from stack.pipeline import FINAL, Pipeline
from stack.service import StackError, wait_for

DUPLICATES = (
    'SELECT COUNT(*) AS total_rows, COUNT(DISTINCT "sid") AS unique_sids, '
    'COUNT(*) - COUNT(DISTINCT "sid") AS duplicates FROM sessions'
)
RETRY_FAILED = (
    "UPDATE cdc_processed_files SET status = 'pending', error_message = NULL "
    "WHERE status = 'failed' AND processed_at < CURRENT_TIMESTAMP - INTERVAL '1' HOUR"
)
RESET_STUCK = (
    "UPDATE cdc_processed_files SET status = 'failed', error_message = 'Timeout - processing took too long' "
    "WHERE status = 'processing'"
)
SWEEP_SECONDS = 300
"""The sweep runs each minute here; two of them and the load, on a machine that is busy with other tests."""

_stamps = iter(range(int(time.time()), int(time.time()) + 1_000_000))
_keys = iter(range(int(time.time() * 1000), int(time.time() * 1000) + 1_000_000_000))


def new_key(table: str = "sessions") -> str:
    """The key of a change file that no other test uses."""
    return f"fair/{table}/2024/11/24/20241124-{next(_stamps)}.parquet"


def session_file() -> tuple[bytes, int]:
    """A file with one new session, and its sid."""
    sid = next(_keys)
    return data.session_file([data.session(sid)]), sid


def event_file(rows: int) -> tuple[bytes, int]:
    """A file of that many events that nothing else counts, and the sid that they share."""
    sid = next(_keys)
    return data.event_file([{"event_id": number, "sid": sid, "name": "click"} for number in range(rows)]), sid


def sessions_of(pipeline: Pipeline, sid: int) -> int:
    return int(pipeline.value('SELECT COUNT(*) FROM sessions WHERE "sid" = ?', [sid]))


def events_of(pipeline: Pipeline, sid: int) -> int:
    return int(pipeline.value('SELECT COUNT(*) FROM events WHERE "sid" = ?', [sid]))


def announce(pipeline: Pipeline, key: str) -> dict[str, Any]:
    """The event that S3 sends for an object."""
    bucket, full = pipeline.env["SOURCE_BUCKET"], pipeline.env["SOURCE_PREFIX"] + key
    etag = pipeline.s3.head_object(Bucket=bucket, Key=full)["ETag"].strip('"')
    return {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": bucket}, "object": {"key": full, "etag": etag}},
    }


def cli(pipeline: Pipeline, *arguments: str) -> tuple[int, Any]:
    """Run `firebolt-cdc … --json` as an operator does; exit code and answer."""
    command = [sys.executable, "-m", "firebolt_cdc.cli", *arguments, "--json"]
    done = subprocess.run(
        command, env=os.environ | pipeline.env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_table_that_dms_loads_anew_is_swapped_in(pipeline: Pipeline) -> None:
    load, change = "fair/members/LOAD00000001.parquet", new_key("members")
    first, second, third, fourth = (next(_keys) for _ in range(4))

    def put_load(*sids: int) -> str:
        """Write the full load; its status once it has one (`pending`: it is another load than the last, and held)."""
        pipeline.put(load, data.session_file([data.session(sid) for sid in sids]))
        bucket, key = pipeline.env["SOURCE_BUCKET"], pipeline.env["SOURCE_PREFIX"] + load
        etag = pipeline.s3.head_object(Bucket=bucket, Key=key)["ETag"].strip('"')
        sql = "SELECT status FROM cdc_processed_files WHERE file_key = ? AND etag = ? AND claim_id IS NULL"
        return str(wait_for("the full load", lambda: pipeline.query(sql, [load, etag]) or None, 240)[0][0])

    def carry_out() -> Any:
        time.sleep(6)  # cleanup.reload_quiet_seconds
        return pipeline.cleanup("reload")["reload"]

    if put_load(first, second) == "pending":  # a stack that was left running has seen one before
        carry_out()
    time.sleep(1.1)
    pipeline.wait_for([pipeline.put(change, data.session_file([data.session(third)]))], 240)
    time.sleep(1.1)
    assert put_load(first, fourth) == "pending"
    code, answer = cli(pipeline, "reload", "fair/members")
    assert code == 0
    assert {name: answer["would_reload"][name] for name in ("full_load_files", "change_files")} == {
        "full_load_files": 1,
        "change_files": 0,
    }
    found = 'SELECT "sid" FROM members ORDER BY "sid"'
    assert pipeline.query(found) == [(first,), (second,), (third,)]
    assert carry_out()["reloaded"] == 1
    assert pipeline.query(found) == [(first,), (fourth,)]
    assert {status for status, *_ in pipeline.ledger([load, change]).values()} == {"completed"}


def test_the_guides_first_run(pipeline: Pipeline) -> None:
    body, sid = session_file()
    key = pipeline.put(new_key(), body)
    began = time.time() - 1
    pipeline.wait_for([key], 240)
    pipeline.query("SELECT * FROM cdc_processed_files LIMIT 10")
    columns = {
        row[0]
        for row in pipeline.query(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'cdc_processed_files'"
        )
    }
    assert columns >= {"file_key", "status", "processed_at", "request_id", "error_message", "attempt_count"}
    assert pipeline.load_by_hand(key) == {
        "statusCode": 200,
        "body": json.dumps({"message": "File already processed", "file_key": key, "status": "completed"}),
    }
    assert sessions_of(pipeline, sid) == 1
    assert pipeline.value("SELECT COUNT(*) FROM cdc_processed_files WHERE file_key = ?", [key]) == 1

    def steps() -> list[str] | None:
        lines = [
            json.loads(line)
            for line in pipeline.log_lines(pipeline.env["LOADER_FUNCTION"], began)
            if line.startswith("{")
        ]
        found = [line["step"] for line in lines if line.get("file_key") == key and "step" in line]
        return found if len(found) >= 4 else None

    assert wait_for("the log of the load", steps, 60)[:4] == [
        "STEP 1: CHECK IF FILE ALREADY PROCESSED",
        "STEP 2: MARK FILE AS PROCESSING",
        "STEP 3: PROCESS FILE",
        "STEP 4: MARK FILE AS COMPLETED",
    ]


def test_a_file_loaded_by_hand_before_its_event(pipeline: Pipeline) -> None:
    body, sid = session_file()
    with event_source_paused(pipeline):
        key = pipeline.put(new_key(), body)
        answer = pipeline.load_by_hand(key)
    assert (answer["status"], answer["message"]) == ("success", "File processed successfully")
    assert sessions_of(pipeline, sid) == 1
    duplicates = "SELECT COUNT(*) FROM cdc_duplicate_deliveries WHERE file_key = ?"
    wait_for("the event of the file", lambda: pipeline.value(duplicates, [key]) >= 1, 60)
    assert sessions_of(pipeline, sid) == 1


def event_source_paused(pipeline: Pipeline) -> Any:
    """While inside, the queue keeps its messages."""

    class Paused:
        def __enter__(self) -> None:
            self.switch(False)

        def __exit__(self, *_: object) -> None:
            self.switch(True)

        def switch(self, on: bool) -> None:
            name = pipeline.env["LOADER_FUNCTION"]
            [mapping] = [
                m
                for m in pipeline.functions.list_event_source_mappings()["EventSourceMappings"]
                if f":{name}" in m["FunctionArn"]
            ]
            pipeline.functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=on)
            state = "Enabled" if on else "Disabled"
            wait_for(
                f"the event source to be {state}",
                lambda: pipeline.functions.get_event_source_mapping(UUID=mapping["UUID"])["State"] == state,
                60,
            )

    return Paused()


def test_the_guides_queries(pipeline: Pipeline) -> None:
    body, _ = session_file()
    key = pipeline.put(new_key(), body)
    pipeline.wait_for([key], 240)
    for _ in range(3):
        pipeline.load_by_hand(key)
    newest = pipeline.query(
        "SELECT file_key, status, processed_at FROM cdc_processed_files ORDER BY processed_at DESC LIMIT 10"
    )
    assert newest
    assert dict(pipeline.query("SELECT status, COUNT(*) FROM cdc_processed_files GROUP BY status"))["completed"] >= 1
    pipeline.query("SELECT file_key, error_message, attempt_count FROM cdc_processed_files WHERE status = 'failed'")
    total, unique, duplicates = pipeline.query(DUPLICATES)[0]
    assert (total, duplicates) == (unique, 0)


def test_the_guides_clean_up_by_hand_loads_nothing_again(pipeline: Pipeline) -> None:
    body, sid = event_file(10)
    key = pipeline.put(new_key("events"), body)
    pipeline.wait_for([key], 240)
    pipeline.query(
        "UPDATE cdc_processed_files SET processed_at = processed_at - INTERVAL '31' DAY WHERE file_key = ?", [key]
    )
    pipeline.query("DELETE FROM cdc_processed_files WHERE processed_at < CURRENT_TIMESTAMP - INTERVAL '30' DAY")
    assert pipeline.ledger([key]) == {}
    assert json.loads(pipeline.load_by_hand(key)["body"])["message"] == "File already processed"
    in_flight = pipeline.queue_length()
    pipeline.cleanup("reconcile")
    pipeline.cleanup("sweep")
    wait_for("what they sent to be taken", lambda: pipeline.queue_length() <= in_flight, 240)
    assert events_of(pipeline, sid) == 10


def test_the_purge_deletes_old_completed_rows_only(pipeline: Pipeline) -> None:
    body, _ = session_file()
    good, bad = pipeline.put(new_key(), body), pipeline.put(new_key(), b"not parquet")
    pipeline.wait_for([good, bad], 240)
    for key in (good, bad):
        pipeline.query(
            "UPDATE cdc_processed_files SET processed_at = processed_at - INTERVAL '31' DAY WHERE file_key = ?", [key]
        )
    assert pipeline.cleanup("purge")["purge"]["ledger"] >= 1
    assert list(pipeline.ledger([good, bad])) == [bad]


def test_a_hand_typed_retry_loads_without_an_event(pipeline: Pipeline) -> None:
    """The load fails until its attempts are used up; then its cause goes, and a person types the guide's UPDATE."""
    body, sid = session_file()

    def given_up() -> bool:
        return bool(
            pipeline.query(
                "SELECT 1 FROM cdc_processed_files WHERE file_key = ? AND status = 'failed' AND alone_count >= 3", [key]
            )
        )

    with table_away(pipeline, "cdc_tombstones"):
        key = pipeline.put(new_key(), body)
        wait_for("the last attempt", given_up, 360)
    assert pipeline.cleanup("sweep")["sweep"]["requeued"] == 0, "nobody tries it again by itself"
    pipeline.query(
        "UPDATE cdc_processed_files SET processed_at = processed_at - INTERVAL '2' HOUR WHERE file_key = ?", [key]
    )
    pipeline.query(RETRY_FAILED)
    wait_for("the file's row", lambda: sessions_of(pipeline, sid) == 1, SWEEP_SECONDS)
    assert pipeline.wait_for([key], 240)[key][:2] == ("completed", 1), "with a fresh budget"


class table_away:
    """While inside, one of the ledger's tables has another name, as if somebody had dropped it."""

    def __init__(self, pipeline: Pipeline, table: str) -> None:
        self._pipeline, self._table = pipeline, table

    def __enter__(self) -> None:
        self._rename(self._table, f"{self._table}_away")

    def __exit__(self, *_: object) -> None:
        self._rename(f"{self._table}_away", self._table)

    def _rename(self, old: str, new: str) -> None:
        self._pipeline.query(f"ALTER TABLE {old} RENAME TO {new}")


def test_the_retry_command_shows_first_and_loads_at_once(pipeline: Pipeline) -> None:
    key = pipeline.put(new_key(), b"still not parquet")
    pipeline.wait_for([key], 240)
    code, dry = cli(pipeline, "retry", key)
    assert (code, dry) == (0, {"would_retry": [key]})
    before = pipeline.value("SELECT processed_at FROM cdc_processed_files WHERE file_key = ?", [key])
    assert cli(pipeline, "retry", key, "--yes") == (0, {"retried": [key]})

    def tried_again() -> bool:
        row = pipeline.query("SELECT status, processed_at FROM cdc_processed_files WHERE file_key = ?", [key])[0]
        return row[0] == "failed" and row[1] > before

    wait_for("the second failure", tried_again, 80)


def test_a_killed_load_is_loaded_once_after_all(pipeline: Pipeline) -> None:
    rows = 300_000
    body, sid = event_file(rows)
    key = pipeline.put(new_key("events"), body)
    assert pipeline.kill_in_mid_load(key)
    assert pipeline.wait_for([key], 500)[key][0] == "completed"
    assert events_of(pipeline, sid) == rows


def test_the_hand_typed_reset_is_safe_while_a_load_runs(pipeline: Pipeline) -> None:
    rows = 300_000
    body, sid = event_file(rows)
    key = pipeline.put(new_key("events"), body)

    def processing() -> bool:
        found = pipeline.query("SELECT status FROM cdc_processed_files WHERE file_key = ?", [key])
        status = found[0][0] if found else ""
        assert status not in FINAL, "it was over before it could be reset"
        return bool(status == "processing")

    wait_for("the claim", processing, 60, interval_s=0.02)
    pipeline.query(RESET_STUCK)
    pipeline.cleanup("sweep")
    wait_for("the load", lambda: pipeline.ledger([key])[key][0] == "completed", SWEEP_SECONDS)
    assert events_of(pipeline, sid) == rows


def test_the_doctor(pipeline: Pipeline) -> None:
    _, findings = cli(pipeline, "doctor")
    answers = {finding["question"]: finding["good"] for finding in findings}
    assert answers["The ledger can be read"]
    assert answers["The alias PROD points to a published version"]
    assert answers["The rule hands new objects to the queue"]
    assert answers["The loader takes messages from the queue"]
    assert answers["The cleanup function sweeps"]
    assert answers["The deduplication steps are called"]
    lines = pipeline.log_lines(pipeline.env["LOADER_FUNCTION"], time.time() - 24 * 3600)
    unread = any("Error checking if file processed" in line for line in lines)
    assert answers["No 'Error checking if file processed' in the last day"] is not unread, "other tests raise it"


def test_without_the_ledger_nothing_is_loaded_and_the_log_says_so(pipeline: Pipeline) -> None:
    body, sid = session_file()
    began = time.time() - 1
    with table_away(pipeline, "cdc_applied"):
        key = pipeline.put(new_key(), body)

        def logged() -> bool:
            lines = pipeline.log_lines(pipeline.env["LOADER_FUNCTION"], began)
            return any("Error checking if file processed" in line and key in line for line in lines)

        wait_for("the message in the log", logged, 120)
        with pytest.raises(StackError, match="Error checking if file processed"):
            pipeline.load_by_hand(key)
        assert sessions_of(pipeline, sid) == 0
    assert pipeline.wait_for([key], SWEEP_SECONDS)[key][0] == "completed"
    assert sessions_of(pipeline, sid) == 1
    code, findings = cli(pipeline, "doctor")
    assert code == 1
    assert not {f["question"]: f["good"] for f in findings}["No 'Error checking if file processed' in the last day"]


def test_a_key_with_newlines_is_loaded_by_its_event(pipeline: Pipeline) -> None:
    body, sid = session_file()
    key = pipeline.put(new_key().replace("2024/", "new\nline\r\n\t/", 1), body)
    assert "\n" in key
    pipeline.wait_for([key], 240)
    assert sessions_of(pipeline, sid) == 1
    known = pipeline.load_by_hand(key)
    assert json.loads(known["body"]) == {"message": "File already processed", "file_key": key, "status": "completed"}


def test_the_alias_moves_back_by_hand_and_by_live_version(
    pipeline: Pipeline, applied: dict[str, str], tmp_path: Path
) -> None:
    lambda_: Any = local.client("lambda")
    name = pipeline.env["LOADER_FUNCTION"]

    def live() -> str:
        return str(lambda_.get_alias(FunctionName=name, Name="PROD")["FunctionVersion"])

    def terraform(*arguments: str, allowed: tuple[int, ...] = (0,), **more: str) -> int:
        tool = local.terraform(applied | more)
        return tool.run(*arguments, "-input=false", "-no-color", log=tmp_path / "terraform.log", allowed=allowed)

    older, memory = live(), {"loader_memory_mb": "2112"}
    try:
        terraform("apply", "-auto-approve", **memory)
        assert int(live()) > int(older)

        lambda_.update_alias(FunctionName=name, Name="PROD", FunctionVersion=older)  # the guide's command
        plan = tmp_path / "plan"
        assert terraform("plan", "-detailed-exitcode", f"-out={plan}", allowed=(0, 2), **memory) == 2
        tool = local.terraform()
        shown = subprocess.run(
            ["terraform", "show", "-json", str(plan)], cwd=tool.directory, env=tool.env, check=True, capture_output=True
        )
        changes = json.loads(shown.stdout)["resource_changes"]
        changed = [c["address"] for c in changes if c["change"]["actions"] != ["no-op"]]
        assert changed == ["module.firebolt_cdc.module.loader.aws_lambda_alias.prod"]

        asked = {**memory, "live_version": older}
        assert terraform("plan", "-detailed-exitcode", allowed=(0, 2), **asked) == 0
        assert lambda_.get_function_configuration(FunctionName=name, Qualifier="PROD")["MemorySize"] == 2048
        body, sid = session_file()
        key = pipeline.put(new_key(), body)
        assert pipeline.wait_for([key], 240)[key][0] == "completed"
        assert sessions_of(pipeline, sid) == 1
    finally:
        terraform("apply", "-auto-approve")
    assert live() != older


def test_the_log_group_has_the_guides_name_and_a_retention(pipeline: Pipeline) -> None:
    name = f"/aws/lambda/{pipeline.env['LOADER_FUNCTION']}"
    groups = pipeline.logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    assert [group.get("retentionInDays") for group in groups if group["logGroupName"] == name] == [30]


def test_deliveries_at_the_same_instant_load_once(pipeline: Pipeline) -> None:
    body, sid = event_file(50)
    in_flight = pipeline.queue_length()  # a killed loader's message is, until its visibility timeout ends
    with event_source_paused(pipeline):
        key = pipeline.put(new_key("events"), body)
    event = announce(pipeline, key)
    answers: list[Any] = []

    def invoke() -> None:
        answers.append(pipeline.invoke(pipeline.env["LOADER_FUNCTION"], event))

    threads = [threading.Thread(target=invoke) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipeline.wait_for([key], 240)
    wait_for("the copies to be taken", lambda: pipeline.queue_length() <= in_flight, 240)
    assert events_of(pipeline, sid) == 50
    assert pipeline.value("SELECT COUNT(*) FROM cdc_processed_files WHERE file_key = ?", [key]) == 1
    assert sum(answer.get("status") == "success" for answer in answers) <= 1


def test_a_lost_event_is_found(pipeline: Pipeline) -> None:
    body, sid = session_file()
    bucket, full = pipeline.env["SOURCE_BUCKET"], pipeline.env["SOURCE_PREFIX"]
    key = new_key()
    in_flight = pipeline.queue_length()
    configuration = pipeline.s3.get_bucket_notification_configuration(Bucket=bucket)
    configuration.pop("ResponseMetadata", None)
    pipeline.s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    try:
        pipeline.s3.put_object(Bucket=bucket, Key=full + key, Body=body)
    finally:
        pipeline.s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=configuration)
    wait_for("the queue to be taken", lambda: pipeline.queue_length() <= in_flight, 240)
    assert pipeline.ledger([key]) == {}
    wait_for(
        "reconciliation past its grace period", lambda: pipeline.cleanup("reconcile")["reconcile"]["missing"] >= 1, 120
    )
    assert pipeline.wait_for([key], 240)[key][0] == "completed"
    assert sessions_of(pipeline, sid) == 1


@pytest.fixture(autouse=True)
def _settled(pipeline: Pipeline) -> Iterator[None]:
    """Each test leaves no turn held behind it."""
    yield
    wait_for(
        "all turns given back",
        lambda: not pipeline.value("SELECT COUNT(*) FROM cdc_tables WHERE holder IS NOT NULL"),
        120,
    )
