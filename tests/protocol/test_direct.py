"""`firebolt-cdc load`: what is too large for Lambda is loaded from the operator's machine, by the same rules."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from firebolt_cdc import cli, direct, loader
from firebolt_cdc.apply import Applier
from firebolt_cdc.errors import GoneError, PermanentError
from support import Command, Pipeline, parquet, sessions

KEY = "fair/sessions/20241124-1.parquet"


def too_large(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loader, "room_bytes", lambda _: 100)
        assert pipeline.deliver(pipeline.put(KEY, sessions(("I", 1, "a"), ("D", 2, None)))) == []
    assert pipeline.ledger() == {KEY: ("failed", "permanent")}


def test_a_dry_run_shows_the_files_and_changes_nothing(
    pipeline: Pipeline, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_large(pipeline, monkeypatch)
    [shown] = command(cli.load, [KEY], "2m")["would_load"]
    assert (shown["file"], shown["status"]) == (KEY, "failed")
    assert "firebolt-cdc load" in shown["message"]
    assert pipeline.ledger() == {KEY: ("failed", "permanent")}


@pytest.mark.parametrize("name", [KEY, "s3://{bucket}/firebolt_dms_job/" + KEY])
def test_what_was_too_large_is_loaded_once_under_a_lease_as_long_as_the_command(
    pipeline: Pipeline, command: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    too_large(pipeline, monkeypatch)
    leases: list[Any] = []
    whole = Applier.load

    def watched(self: Applier, *given: Any, **more: Any) -> None:
        sql = "SELECT lease_until > CURRENT_TIMESTAMP + INTERVAL '115' MINUTE FROM cdc_tables WHERE holder IS NOT NULL"
        leases.append(pipeline.sql.value(sql))
        whole(self, *given, **more)

    monkeypatch.setattr(Applier, "load", watched)
    name = name.format(bucket=pipeline.bucket)
    [loaded] = command(cli.load, [name], "2h", True)
    assert (loaded["file"], loaded["ending"], loaded["rows_read"]) == (KEY, "loaded", 2)
    assert leases == [True]
    assert pipeline.sql('SELECT "sid" FROM sessions') == [[1]]
    assert pipeline.sql("SELECT status, lambda_arn FROM cdc_processed_files") == [["completed", "firebolt-cdc load"]]
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_tables WHERE holder IS NOT NULL") == 0
    [again] = command(cli.load, [name], "2h", True)
    assert again["ending"] == "duplicate"
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_applied") == 1


def test_it_waits_for_a_table_that_is_being_loaded(
    pipeline: Pipeline, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.put(KEY, sessions(("I", 1, "a")))
    pipeline.sql(
        "UPDATE cdc_tables SET holder = 'other', lease_until = CURRENT_TIMESTAMP + INTERVAL '1' HOUR "
        "WHERE turn = 'sessions'"
    )
    waits: list[float] = []

    def free(seconds: float) -> None:
        waits.append(seconds)
        pipeline.sql("UPDATE cdc_tables SET holder = NULL WHERE turn = 'sessions'")

    monkeypatch.setattr(direct.time, "sleep", free)
    [loaded] = command(cli.load, [KEY], "2m", True)
    assert loaded["ending"] == "loaded"
    assert waits == [direct.BUSY_SECONDS]


def test_a_file_that_is_still_not_loaded_makes_the_command_fail(pipeline: Pipeline, command: Command) -> None:
    pipeline.put(KEY, b"junk")
    with pytest.raises(typer.Exit):
        command(cli.load, [KEY], "2m", True)
    assert pipeline.ledger() == {KEY: ("failed", "permanent")}


def test_what_is_no_file_of_the_pipeline_is_refused_before_anything(pipeline: Pipeline, command: Command) -> None:
    pipeline.put("fair/unlisted/20241124-1.parquet", sessions())
    for name, error in ((KEY, GoneError), ("fair/unlisted/20241124-1.parquet", PermanentError)):
        with pytest.raises(error):
            command(cli.load, [name], "2m", True)
    assert pipeline.ledger() == {}


def test_durations() -> None:
    assert [direct.duration_seconds(text) for text in ("90s", "1.5m", "2h")] == [90.0, 90.0, 7200.0]
    for text in ("", "2", "2d", "h", "10s", "13h", "-1h", "1h30m"):
        with pytest.raises(PermanentError, match="is no duration"):
            direct.duration_seconds(text)


def test_status_tells_what_changed_in_the_schema(pipeline: Pipeline, command: Command) -> None:
    for number, columns in enumerate(({"sid": [1], "a": [1]}, {"sid": [2]}, {"sid": [3]}), 1):
        assert pipeline.deliver(pipeline.put(f"fair/sessions/20241124-{number}.parquet", parquet(columns))) == []
    said = {line["change"]: line["files"] for line in command(cli.status)["schema_changes"]}
    assert said.pop('absent from the file: "a" (NULL in the rows that it writes)') == 2
    [created] = said
    assert created.startswith("created the table (CREATE TABLE")
