"""`firebolt-cdc status`: the numbers of a pipeline that has loaded, failed, held and reloaded; and where a file is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from firebolt_cdc import cli
from firebolt_cdc.errors import PermanentError, TransientError
from firebolt_cdc.reload import Reload
from support import PREFIX, Command, Pipeline, parquet, sessions

CHANGE = "fair/sessions/2024/11/24/20241124-{}.parquet"
EVENTS = "fair/events/20241124-{}.parquet"
LOAD = "fair/sessions/LOAD00000001.parquet"


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def test_the_numbers_of_a_day(pipeline: Pipeline, command: Command) -> None:
    first = pipeline.put(CHANGE.format(1), sessions(("I", 1, "ann"), ("I", 2, "bob")))
    second = pipeline.put(CHANGE.format(2), sessions(("D", 2, None)))
    assert pipeline.deliver(first) == []
    assert pipeline.deliver(second, first, first) == [], "two duplicates of one file"
    assert pipeline.deliver(pipeline.put(EVENTS.format(1), parquet({"id": [1, 2, 3]}))) == []
    assert pipeline.deliver(pipeline.put(EVENTS.format(2), b"no Parquet")) == []
    shown = command(cli.status)
    assert shown["today"] == [
        {"table": "events", "files": 1, "rows": 3},
        {"table": "sessions", "files": 2, "rows": 3},
    ]
    assert shown["days"] == [{"day": today(), "files": 4, "completed": 3, "failed": 1}]
    assert shown["duplicates"] == [{"day": today(), "deliveries": 2, "files": 1}]
    assert [(f["status"], f["error_class"], f["files"]) for f in shown["files"]] == [
        ("completed", None, 3),
        ("failed", "permanent", 1),
    ]
    assert {line["table"]: line["rows"] for line in shown["size"]} == {
        "cdc_applied": 3,
        "cdc_duplicate_deliveries": 2,
        "cdc_processed_files": 4,
        "cdc_tombstones": 1,
    }
    assert shown["queue_depth"] == 0
    pipeline.sql(
        "UPDATE cdc_processed_files SET processed_at = processed_at - INTERVAL '2' DAY WHERE status = 'failed'"
    )
    assert [(d["files"], d["completed"], d["failed"]) for d in command(cli.status)["days"]] == [(3, 3, 0), (1, 0, 1)]


def test_other_pipelines_are_not_counted(pipeline: Pipeline, command: Command) -> None:
    event = pipeline.put(CHANGE.format(1), sessions(("I", 1, "ann"), ("D", 2, None)))
    assert pipeline.deliver(event, event) == []
    assert [line["rows"] for line in command(cli.status)["size"]] == [1, 1, 1, 1]
    for table in ("cdc_processed_files", "cdc_applied", "cdc_duplicate_deliveries", "cdc_tables"):
        pipeline.sql(f"UPDATE {table} SET pipeline = 'another/'")
    shown = command(cli.status)
    assert shown["today"] == shown["days"] == shown["files"] == []
    assert {line["rows"] for line in shown["size"]} == {0}


def test_today_is_what_loads_wrote(pipeline: Pipeline, command: Command) -> None:
    """Neither what was adopted, nor what was settled by hand, counts as loaded."""
    assert pipeline.deliver(pipeline.put(EVENTS.format(1), parquet({"id": [1]}))) == []
    assert pipeline.deliver(pipeline.put(EVENTS.format(2), b"no Parquet")) == []
    command(cli.settle, [EVENTS.format(2)], reason="unwanted", yes=True)
    assert command(cli.status)["today"] == [{"table": "events", "files": 1, "rows": 1}]
    pipeline.sql("UPDATE cdc_applied SET load_id = 'adopted', rows_read = NULL WHERE load_id NOT LIKE 'settled-%'")
    assert command(cli.status)["today"] == []
    assert pipeline.sql("SELECT COUNT(*) FROM cdc_applied") == [[2]]


def test_today_is_of_the_tables_present_generation(
    pipeline: Pipeline, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a reload fills its shadow, the table is as it was; after the swap only the new generation counts."""
    assert pipeline.deliver(pipeline.put(CHANGE.format(1), sessions(("I", 1, "ann"), ("I", 2, "bob")))) == []
    pipeline.later()
    assert pipeline.deliver(pipeline.put(LOAD, sessions(("I", 1, "ann"), ("I", 2, "bob"), ("I", 3, "cy")))) == []
    [held] = command(cli.status)["failed"]
    assert (held["file"], held["class"], held["next"]) == (LOAD, "held", "waits for a decision")

    def interrupted(*_: Any, **__: Any) -> int:
        raise PermanentError("interrupted before the swap")

    with monkeypatch.context() as patch:
        patch.setattr(Reload, "_swap", interrupted)
        with pytest.raises(PermanentError, match="interrupted"):
            command(cli.reload, "sessions", same_task=True, max_duration="2m", yes=True)
    assert pipeline.sql("SELECT generation, rows_read FROM cdc_applied ORDER BY 1") == [[1, 2], [2, 3]]
    assert command(cli.status)["today"] == [{"table": "sessions", "files": 1, "rows": 2}]
    command(cli.reload, "sessions", same_task=True, max_duration="2m", yes=True)
    assert command(cli.status)["today"] == [{"table": "sessions", "files": 1, "rows": 3}]
    [superseded, loaded] = command(cli.status, [CHANGE.format(1), LOAD])
    assert superseded["next"].startswith("Superseded by a reload: it is older than the full load")
    assert (loaded["next"], loaded["table"]["generation"]) == ("It is in the target.", 2)


def test_what_is_tried_again_and_what_is_given_up(
    pipeline: Pipeline, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of failures says whether anybody must do something, and so does the file's own answer."""
    key = CHANGE.format(1)
    event = pipeline.put(key, sessions(("I", 1, "ann")))

    def out_of_order(*_: Any) -> None:
        raise TransientError("the engine is out of order")

    said = []
    with monkeypatch.context() as patch:
        patch.setattr("firebolt_cdc.loader.prepare", out_of_order)
        for _ in range(3):
            assert pipeline.deliver(event) == []
            [failed] = command(cli.status)["failed"]
            [where] = command(cli.status, [key])
            said.append((failed["class"], failed["tries"], failed["next"], where["next"].partition(":")[0]))
    assert said == [
        ("transient", "1 of 3", "retried by itself", "It is tried again by itself (1 of 3 attempts)."),
        ("transient", "2 of 3", "retried by itself", "It is tried again by itself (2 of 3 attempts)."),
        ("transient", "3 of 3", "given up", "Given up after 3 of 3 attempts"),
    ]
    pipeline.sql("UPDATE cdc_processed_files SET attempt_count = 9")  # as after some batches
    [failed] = command(cli.status)["failed"]
    assert (failed["tries"], failed["claims"]) == ("3 of 3", 9)
    command(cli.retry, [key], yes=True)
    assert command(cli.status)["failed"] == []
    assert command(cli.status, [key])[0]["next"].startswith("A person asked for it again")
    pipeline.take(pipeline.queue, wait=True)
    assert pipeline.deliver(event) == []
    assert command(cli.status, [key])[0]["next"] == "It is in the target."


def test_where_a_loaded_file_is(pipeline: Pipeline, command: Command) -> None:
    key = CHANGE.format(1)
    event = pipeline.put(key, sessions(("I", 1, "ann"), ("I", 2, "bob")))
    assert pipeline.deliver(event) == []
    thing = event["detail"]["object"]
    names = (key, PREFIX + key, f"s3://{pipeline.bucket}/{PREFIX}{key}")
    [[where], *others] = [command(cli.status, [name]) for name in names]
    assert others == [[where], [where]]
    assert (where["file"], where["object"]) == (key, f"s3://{pipeline.bucket}/{PREFIX}{key}")
    assert (where["etag"], where["bytes"]) == (thing["etag"], thing["size"])
    assert where["table"] == {
        "source": "fair/sessions",
        "target": "sessions",
        "generation": 1,
        "mode": "merge",
        "kind": "change",
    }
    assert where["turn"] == {"of": "sessions", "is": "free"}
    [recorded], [applied] = where["ledger"], where["applied"]
    assert [recorded[name] for name in ("etag", "status", "class", "tries", "claims", "message")] == [
        *(thing["etag"], "completed", None, "1 of 3", 1, None),
    ]
    assert [applied[name] for name in ("etag", "target", "generation", "rows")] == [thing["etag"], "sessions", 1, 2]
    assert [[applied["load"]]] == pipeline.sql("SELECT load_id FROM cdc_applied")
    assert where["next"] == "It is in the target."


def test_where_files_are_on_their_way(pipeline: Pipeline, command: Command) -> None:
    """Of a file that was loaded, written again, and announced while its table was busy; of one whose object is gone."""
    key = CHANGE.format(1)
    assert pipeline.deliver(pipeline.put(key, sessions(("I", 1, "ann")))) == []
    event = pipeline.put(key, sessions(("I", 1, "bea")))
    pipeline.sql(
        "UPDATE cdc_tables SET holder = 'w', lease_until = CURRENT_TIMESTAMP + INTERVAL '1' HOUR "
        "WHERE turn = 'sessions'"
    )
    assert pipeline.deliver(event) == []
    [where] = command(cli.status, [key])
    assert where["next"].startswith("It waits on the queue for the turn of sessions")
    assert (where["turn"]["is"], where["turn"]["by"]) == ("held", "w")
    assert [line["etag"] for line in where["ledger"]] == [line["etag"] for line in where["applied"]]
    assert where["ledger"][0]["etag"] != where["etag"]
    gone = pipeline.put(EVENTS.format(1), b"no Parquet")
    pipeline.s3.delete_object(Bucket=pipeline.bucket, Key=gone["detail"]["object"]["key"])
    assert pipeline.deliver(gone) == []
    [where] = command(cli.status, [EVENTS.format(1)])
    assert (where["object"], where["ledger"][0]["class"]) == (None, "gone")
    assert where["next"].startswith("Given up, and its object is gone from S3")


def test_files_that_nobody_knows(pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.put(CHANGE.format(1), sessions(("I", 1, "ann")))
    with pytest.raises(PermanentError, match=r"\['fair/sessions/nothing.parquet'\]: neither in S3 nor in the ledger"):
        command(cli.status, [CHANGE.format(1), "fair/sessions/nothing.parquet"])
    assert '"next": "No event has announced it yet' in capsys.readouterr().out, "what is known is told all the same"
    with pytest.raises(PermanentError, match="reads the bucket"):
        command(cli.status, ["s3://another/x.parquet"])


def test_what_an_operator_reads(
    pipeline: Pipeline, command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "console", cli.Console(width=200))
    bad = "fair/events/[b]/20241124-1.parquet"
    assert pipeline.deliver(pipeline.put(bad, b"no Parquet")) == []
    cli.status("loader", [bad])
    lines = [" ".join(part.strip() for part in line.split("│")) for line in capsys.readouterr().out.splitlines()]
    text = "\n".join(line.strip() for line in lines)
    for said in (
        bad,
        "table source fair/events, target events, generation 1, mode append, kind change",
        "turn of events, is free",
        "In cdc_applied: none",
        f"Given up: mend the cause (the ledger's message), then firebolt-cdc retry '{bad}' --yes",
    ):
        assert said in text
    cli.status("loader")
    text = capsys.readouterr().out
    assert [title in text for title in ("Size of the ledger", "Failed and held files", "given up")] == [True] * 3
