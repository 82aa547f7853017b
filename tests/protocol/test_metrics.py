"""Each metric that an own alarm watches (modules/observability/alarms.tf), in the situation that it names."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from firebolt_cdc import loader
from firebolt_cdc.apply import Applier
from support import Pipeline, as_record, repository, sessions

ONE = "fair/sessions/20241124-1.parquet"
TWO = "fair/sessions/20241124-2.parquet"
Emitted = Callable[[], dict[str, float]]


def test_every_metric_that_an_alarm_watches_has_a_test_here() -> None:
    alarms = (repository() / "modules" / "observability" / "alarms.tf").read_text()
    own = alarms[alarms.index("own_alarms = {") :]
    watched = set(re.findall(r'metric\s+= "(\w+)"', own))
    assert len(watched) >= 9
    asserted = set(re.findall(r'emitted\(\)(?:\["|\.get\(")(\w+)"', Path(__file__).read_text()))
    assert watched == asserted


def test_rows_that_share_a_key(pipeline: Pipeline, emitted: Emitted) -> None:
    pipeline.deliver(pipeline.put(ONE, sessions(("I", 1, "a"), ("I", 2, "b"))))
    pipeline.clean("audit")
    assert emitted()["DuplicateRows"] == 0
    pipeline.sql('INSERT INTO sessions ("sid") VALUES (1), (1), (2)')
    pipeline.clean("audit")
    assert emitted()["DuplicateRows"] == 3


def test_files_that_were_applied_twice_lately(pipeline: Pipeline, emitted: Emitted) -> None:
    pipeline.configure(deduplication_enabled=False)
    event = pipeline.put(ONE, sessions(("I", 1, "a")))
    for put in (event, event, pipeline.put(TWO, sessions(("I", 2, "a")))):
        pipeline.deliver(put)
    pipeline.clean("audit")
    assert emitted()["DuplicateFilesPercent"] == 50
    pipeline.sql("UPDATE cdc_applied SET applied_at = applied_at - INTERVAL '31' DAY")
    pipeline.deliver(pipeline.put("fair/sessions/20241124-3.parquet", sessions(("I", 3, "a"))))
    assert pipeline.clean("audit")["audit"]["duplicate_files"] == 0, "older than the retention"
    assert emitted()["DuplicateFilesPercent"] == 0


def test_files_that_failed_for_good_and_wait_for_a_person(pipeline: Pipeline, emitted: Emitted) -> None:
    pipeline.deliver(pipeline.put(ONE, b"junk"))
    assert emitted()["FilesFailed"] == 1
    pipeline.clean("sweep")
    assert emitted()["FilesNeedingOperator"] == 1
    pipeline.sql("UPDATE cdc_processed_files SET status = 'skipped', recorded_status = 'skipped'")
    pipeline.clean("sweep")
    assert emitted()["FilesNeedingOperator"] == 0


def test_a_message_that_nobody_can_read_counts_as_failed(pipeline: Pipeline, emitted: Emitted) -> None:
    pipeline.deliver("not json")
    assert emitted()["FilesFailed"] == 1


def test_a_full_load_that_dms_wrote_anew_is_held(pipeline: Pipeline, emitted: Emitted) -> None:
    pipeline.deliver(pipeline.put("fair/sessions/LOAD00000001.parquet", sessions(("I", 1, "a"))))
    assert emitted().get("FilesHeld", 0) == 0
    pipeline.deliver(pipeline.put("fair/sessions/LOAD00000001.parquet", sessions(("I", 1, "b"))))
    assert emitted()["FilesHeld"] == 1


def test_files_that_are_missing_are_those_that_the_queue_cannot_hold(pipeline: Pipeline, emitted: Emitted) -> None:
    pipeline.put(ONE, sessions(("I", 1, "a")))
    pipeline.put(TWO, sessions(("I", 2, "a")))
    pipeline.clean("reconcile")
    assert emitted()["MissingFiles"] == 2
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 2
    assert emitted()["MissingFiles"] == 0, "their two messages are on the queue"
    assert len(pipeline.take(pipeline.queue)) == 4
    pipeline.sqs.send_message(QueueUrl=pipeline.queue, MessageBody="one of them")
    pipeline.put("fair/sessions/20241124-3.parquet", sessions(("I", 3, "a")))
    pipeline.clean("reconcile")
    assert emitted()["MissingFiles"] == 2


def test_a_ledger_that_cannot_be_read(pipeline: Pipeline, emitted: Emitted) -> None:
    pipeline.sql("ALTER TABLE cdc_applied RENAME TO cdc_applied_away")
    pipeline.deliver(pipeline.put(ONE, sessions(("I", 1, "a"))))
    assert emitted()["LedgerUnavailable"] == 1


def test_how_long_a_file_has_waited(pipeline: Pipeline, emitted: Emitted) -> None:
    pipeline.sql(
        "UPDATE cdc_tables SET holder = 'another', lease_until = CURRENT_TIMESTAMP + INTERVAL '1' HOUR "
        "WHERE turn = 'sessions'"
    )
    pipeline.deliver(pipeline.put(ONE, sessions(("I", 1, "a"))))
    emitted()
    time.sleep(1.1)
    [copy] = pipeline.take(pipeline.queue, wait=True)
    pipeline.deliver_records([as_record(copy)])
    assert emitted()["LongestWaitSeconds"] >= 1


@pytest.mark.parametrize("repeated", [True, False])
def test_an_invocation_that_raises_and_had_a_duplicate_in_it(
    pipeline: Pipeline, emitted: Emitted, monkeypatch: pytest.MonkeyPatch, repeated: bool
) -> None:
    first = pipeline.put(ONE, sessions(("I", 1, "a")))
    assert pipeline.deliver(first) == []
    assert emitted()["LoaderErrorsDueToDuplicates"] == 0

    def raises(*_: object, **__: object) -> None:
        raise RuntimeError("no rule knows this")

    monkeypatch.setattr(loader.Worker, "_release", raises)
    monkeypatch.setattr(Applier, "apply", raises)
    second = pipeline.put(TWO, sessions(("I", 2, "a")))
    with pytest.raises(RuntimeError):
        pipeline.deliver(*([first] if repeated else []), second)
    assert emitted().get("LoaderErrorsDueToDuplicates", 0) == (1 if repeated else 0)
