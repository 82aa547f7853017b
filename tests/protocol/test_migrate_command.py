"""`firebolt-cdc migrate`: shows what it would do, and does it only where that is said."""

from __future__ import annotations

import io
import json
from typing import Any

import boto3
import pytest

from firebolt_cdc import cli, migrations
from firebolt_cdc.errors import TransientError
from support import Command, Pipeline, table_config

NAMES = [f"V{m.version:03}__{m.name}" for m in migrations.bundled()]


class Invoked:
    """Lambda, which runs the migrate function in this process."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.actions: list[str] = []

    def invoke(self, FunctionName: str, Qualifier: str, Payload: bytes) -> dict[str, Any]:
        assert (FunctionName, Qualifier) == (f"{self._pipeline.config['name']}-migrate", "PROD")
        event = json.loads(Payload)
        self.actions.append(event["action"])
        return {"Payload": io.BytesIO(json.dumps(self._pipeline.migrate(**event)).encode())}


@pytest.fixture
def invoked(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Invoked:
    function, real = Invoked(pipeline), boto3.client
    monkeypatch.setattr(boto3, "client", lambda name, **kw: function if name == "lambda" else real(name, **kw))
    return function


def without_the_last_migration(pipeline: Pipeline) -> None:
    pipeline.sql("ALTER TABLE cdc_processed_files DROP COLUMN merge_asked")
    pipeline.sql("DELETE FROM cdc_schema_migrations WHERE version = 8")


def test_it_shows_first_and_migrates_when_told(pipeline: Pipeline, command: Command, invoked: Invoked) -> None:
    without_the_last_migration(pipeline)
    new = {"fair/new": table_config("new", ["sid"])}
    pipeline.configure(tables=pipeline.config["tables"] | new)
    shown = {
        "status": "dry_run",
        "applied": NAMES[:-1],
        "pending": NAMES[-1:],
        "to_seed": ["new"],
        "to_adopt": None,
        "statements": list(migrations.bundled()[-1].statements),
    }
    assert command(cli.migrate) == command(cli.migrate, dry_run=True) == shown
    assert command(cli.migrate, dry_run=True, yes=True) == shown
    assert command(cli.migrate, show_status=True) == shown | {"status": "status", "statements": []}
    assert pipeline.sql("SELECT MAX(version) FROM cdc_schema_migrations") == [[7]], "nothing was changed"
    assert pipeline.sql("SELECT COUNT(*) FROM cdc_tables WHERE turn = 'new'") == [[0]]
    done = command(cli.migrate, yes=True)
    assert (done["status"], done["applied"], done["seeded"]) == ("migrated", NAMES[-1:], ["new"])
    after = command(cli.migrate)
    assert (after["pending"], after["to_seed"], after["statements"]) == ([], [], [])
    assert invoked.actions == ["dry_run", "dry_run", "dry_run", "status", "migrate", "dry_run"]


def test_what_an_operator_reads(
    pipeline: Pipeline, command: Command, invoked: Invoked, capsys: pytest.CaptureFixture[str]
) -> None:
    without_the_last_migration(pipeline)
    ending = "Nothing was changed; add --yes to migrate."
    cli.migrate("loader")
    said = capsys.readouterr().out
    assert f"pending: {NAMES[-1]}" in said
    assert "ALTER TABLE cdc_processed_files ADD COLUMN IF NOT EXISTS merge_asked BOOLEAN NULL;" in said
    assert said.splitlines()[-1] == ending
    for options in ({"show_status": True}, {"yes": True}):
        cli.migrate("loader", **options)
        assert ending not in capsys.readouterr().out


def test_a_ledger_made_by_hand_is_announced(pipeline: Pipeline, command: Command, invoked: Invoked) -> None:
    for table in pipeline.sql("SELECT table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'"):
        pipeline.sql(f'DROP TABLE "{table[0]}" CASCADE')
    pipeline.sql(
        "CREATE TABLE cdc_processed_files (file_key TEXT, request_id TEXT, processed_at TIMESTAMP, status TEXT)"
    )
    shown = command(cli.migrate)
    assert (shown["to_adopt"], shown["applied"], len(shown["to_seed"])) == ("cdc_processed_files", [], 3)
    command(cli.migrate, yes=True)
    assert command(cli.migrate)["to_adopt"] is None


def test_a_function_that_fails(
    pipeline: Pipeline, command: Command, invoked: Invoked, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"FunctionError": "Unhandled", "Payload": io.BytesIO(b'{"errorMessage": "the reason"}')}
    monkeypatch.setattr(invoked, "invoke", lambda **_: answer)
    with pytest.raises(TransientError, match="the migrate function failed: the reason"):
        command(cli.migrate)
