"""What the command line prints, whatever the ledger holds."""

from __future__ import annotations

import os
import sys

import pytest

from firebolt_cdc import cli


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "console", cli.Console(width=200))


def test_names_that_look_like_markup_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    cli._print([["a[/b]c[red]/x.parquet", None]], "Files", ["file", "class"])
    assert "a[/b]c[red]/x.parquet" in capsys.readouterr().out


def test_long_keys_are_folded_not_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    key = "fair/sessions/2024/11/24/" + "0123456789" * 12 + ".parquet"
    monkeypatch.setattr(cli, "console", cli.Console(width=60))
    cli._print([[key, "permanent"]], "Files", ["file", "class"])
    lines = capsys.readouterr().out.splitlines()
    assert "".join(line.split("│")[1].strip() for line in lines if line.startswith("│")) == key


def test_control_characters_are_spelt_out(capsys: pytest.CaptureFixture[str]) -> None:
    cli._print([["one\ntwo\r\t\x1b[31m\u2028é 日本🎉", None]], "Files", ["file", "class"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == [r"one\ntwo\r\t\x1b[31m\u2028é 日本🎉"]


def test_nothing_is_said_to_be_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    cli._print([], "Failed", ["file"])
    assert capsys.readouterr().out == "Failed: none\n"


def test_the_region_may_be_named_as_lambda_and_the_aws_cli_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["firebolt-cdc", "--version"])
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert os.environ["AWS_DEFAULT_REGION"] == "eu-north-1"
