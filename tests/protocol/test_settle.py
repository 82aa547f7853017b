"""`firebolt-cdc settle` and what `retry` takes: files that wait for a decision end by one, and by nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from firebolt_cdc import cli
from firebolt_cdc.errors import ConflictError, FailureClass, HeldError, PermanentError
from support import Command, Pipeline, parquet, table_config

BAD, HELD, GOOD = (f"fair/events/2024112{day}-1.parquet" for day in (1, 2, 3))


@pytest.fixture
def waiting(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """A file that failed for good, and one that is held, as an adopted ledger's."""
    events = {BAD: pipeline.put(BAD, b"no Parquet"), HELD: pipeline.put(HELD, parquet({"id": [1]}))}
    pipeline.deliver(events[BAD])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("firebolt_cdc.loader.prepare", _hold)
        pipeline.deliver(events[HELD])
    assert pipeline.ledger() == {BAD: ("failed", "permanent"), HELD: ("pending", "held")}
    assert [m["MessageAttributes"]["file_key"]["StringValue"] for m in pipeline.take(pipeline.dlq)] == [BAD]
    return events


def _hold(*_: Any) -> None:
    raise HeldError("its rows may be in the target")


def test_a_settled_file_is_loaded_by_nothing(
    pipeline: Pipeline, command: Command, waiting: dict[str, dict[str, Any]]
) -> None:
    assert command(cli.settle, [BAD, HELD], reason="by hand") == {"would_settle": [BAD, HELD]}
    assert pipeline.ledger() == {BAD: ("failed", "permanent"), HELD: ("pending", "held")}
    assert command(cli.settle, [BAD, HELD], reason="by hand", yes=True) == {"settled": [BAD, HELD]}
    assert pipeline.ledger() == {BAD: ("completed", None), HELD: ("completed", None)}
    noted = pipeline.sql("SELECT error_message, load_id FROM cdc_processed_files ORDER BY file_key")
    assert noted == [["settled by hand: by hand", load_id] for load_id in ("settled-permanent", "settled-held")]
    pipeline.sql("DELETE FROM cdc_processed_files")  # as the guide's purge would
    pipeline.clean("reconcile")
    assert pipeline.deliver(*waiting.values(), *_announced(pipeline)) == []
    assert pipeline.sql("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'events'") == [[0]]


def test_what_is_loaded_or_being_loaded_is_not_settled(
    pipeline: Pipeline, command: Command, waiting: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.deliver(pipeline.put(GOOD, parquet({"id": [2]})))
    with pytest.raises(PermanentError, match="neither failed nor held"):
        command(cli.settle, [GOOD], reason="x", yes=True)
    monkeypatch.setattr("firebolt_cdc.settle.with_conflict_retries", lambda _, action: action())
    pipeline.sql("UPDATE cdc_tables SET holder = 'w', lease_until = CURRENT_TIMESTAMP + INTERVAL '60' SECOND")
    with pytest.raises(ConflictError, match="is being loaded"):
        command(cli.settle, [HELD], reason="x", yes=True)
    pipeline.sql("UPDATE cdc_tables SET holder = NULL")
    found = cli.settling.find(cli._pipeline("loader").engine, cli._pipeline("loader").config, [HELD])
    command(cli.retry, [HELD], yes=True)
    pipeline.deliver(*_announced(pipeline))
    assert pipeline.sql('SELECT "id" FROM events ORDER BY 1') == [[1], [2]]
    opened = cli._pipeline("loader")
    with pytest.raises(PermanentError, match="loaded meanwhile"):
        cli.settling.settle(opened.engine, opened.config, opened.deadline, found, "x")
    assert pipeline.ledger()[HELD] == ("completed", None)


def test_a_reload_loads_what_was_held_and_leaves_out_what_had_failed(
    pipeline: Pipeline, command: Command, waiting: dict[str, dict[str, Any]]
) -> None:
    gone = pipeline.put(GOOD, parquet({"id": [9]}))
    pipeline.s3.delete_object(Bucket=pipeline.bucket, Key=gone["detail"]["object"]["key"])
    pipeline.deliver(gone)
    command(cli.settle, [BAD, HELD, GOOD], reason="by hand", yes=True)
    planned = command(cli.reload, "events", everything=True)["would_reload"]
    assert (planned["change_files"], planned["left_out"]) == (1, {BAD: "settled by hand: by hand"})
    command(cli.reload, "events", everything=True, max_duration="2m", yes=True)
    assert pipeline.sql('SELECT "id" FROM events') == [[1]]
    pipeline.sql("DELETE FROM cdc_processed_files")
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0
    assert command(cli.reload, "events", everything=True)["would_reload"]["left_out"].keys() == {BAD}


@pytest.mark.parametrize("key", ["fair/events/stray.parquet", "fair/new/20241124-1.parquet"])
def test_a_file_that_no_table_takes_is_dealt_with_until_one_does(
    pipeline: Pipeline, command: Command, key: str
) -> None:
    event = pipeline.put(key, parquet({"id": [7]}))
    pipeline.deliver(event)
    assert pipeline.ledger() == {key: ("failed", "permanent")}
    assert command(cli.settle, [key], reason="a stray", yes=True) == {"settled": [key]}
    [said] = command(cli.status, [key])
    assert said["next"] == "It was settled by hand: a stray; it counts as dealt with until a table takes it."
    for _ in range(2):
        assert pipeline.ledger() == {key: ("completed", None)}
        assert pipeline.clean("sweep")["sweep"]["left"] == 0
        assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0
        assert pipeline.deliver(event) == []
    assert len(pipeline.take(pipeline.dlq)) == 1, "the one from before"
    pipeline.sql("DELETE FROM cdc_processed_files")  # as the guide's purge would
    assert pipeline.deliver(event) == []
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0
    assert pipeline.ledger() == {}

    strays = {"fair/events": table_config("events", files={"changes": r"\d{8}-\d+|stray"})}
    pipeline.configure(tables=pipeline.config["tables"] | strays | {"fair/new": table_config("new")})
    pipeline.migrate()
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 1
    pipeline.drain()
    assert pipeline.ledger() == {key: ("completed", None)}
    assert pipeline.sql(f'SELECT "id" FROM {"new" if "new" in key else "events"}') == [[7]]


def test_retry_takes_held_files_only_if_they_are_named(
    pipeline: Pipeline, command: Command, waiting: dict[str, dict[str, Any]]
) -> None:
    def would(*named: str, **options: Any) -> list[str]:
        return command(cli.retry, list(named), **options)["would_retry"]

    assert would() == would(table="events") == would(table="fair/events") == [BAD]
    assert would(table="sessions") == would(error_class=FailureClass.GONE) == []
    assert would(error_class=FailureClass.HELD) == would(HELD) == [HELD]
    assert would(BAD, HELD) == [BAD, HELD]


def _announced(pipeline: Pipeline) -> list[str]:
    return [message["Body"] for message in pipeline.take(pipeline.queue)]


def test_a_file_of_a_reloaded_table_that_left_the_map_is_settled_for_good(pipeline: Pipeline, command: Command) -> None:
    """Its target has a turn of its own still, whose generation says what counts as applied."""
    name = "fair/new/20241124-1.parquet"
    listed = pipeline.config["tables"] | {"fair/new": table_config("fair__new")}
    pipeline.configure(tables=listed)
    pipeline.migrate()
    pipeline.sql(
        "UPDATE cdc_tables SET generation = 2, generation_started_at = CURRENT_TIMESTAMP - INTERVAL '1' DAY "
        "WHERE turn = 'fair__new'"
    )
    pipeline.configure(
        unlisted_tables="append", tables={name: table for name, table in listed.items() if name != "fair/new"}
    )
    pipeline.migrate()
    event = pipeline.put(name, parquet({"id": [1]}))
    assert pipeline.deliver(event) == []
    assert pipeline.ledger() == {name: ("failed", "permanent")}
    command(cli.settle, [name], reason="by hand", yes=True)
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0
    pipeline.configure(tables=listed)
    pipeline.migrate()
    assert pipeline.deliver(event) == []
    assert pipeline.sql("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'fair__new'") == [[0]]
