"""`python -m assumptions` against the stand-in: every assumption holds, and where one is broken the answer says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from assumptions.__main__ import main
from assumptions.questions import LOAD_STATEMENTS, QUESTIONS
from standin import StandIn
from standin.engine import Engine

RACE = "Two UPDATEs of one row"
Answers = dict[str, tuple[str, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Answers]]:
    """Asks an engine everything; the exit code, and by assumption the verdict and what was seen."""

    def run(engine: StandIn, *arguments: str) -> tuple[int, Answers]:
        code = main(["--core-url", engine.url, "--database", "firebolt", "--json", *arguments])
        answers = {a["assumption"]: (a["verdict"], a["seen"]) for a in json.loads(capsys.readouterr().out)}
        assert answers.keys() == QUESTIONS.keys()
        assert not engine.engine.relations, "scratch tables are left"
        return code, answers

    return run


def of(answers: Answers, beginning: str) -> tuple[str, str]:
    [answer] = [answer for assumption, answer in answers.items() if assumption.startswith(beginning)]
    return answer


def failing(answers: Answers) -> set[str]:
    return {assumption for assumption, (verdict, _) in answers.items() if verdict == "does not hold"}


def test_all_hold(make_engine: Any, ask: Any, connect_to: Any, s3_url: str, put: Any) -> None:
    put("assumed/one.parquet", {"k": [1, 2, 3]})
    engine = make_engine(s3_endpoint=s3_url)
    connect_to(engine)("CREATE LOCATION assumed WITH SOURCE = AMAZON_S3 URL = 's3://source/assumed/'")
    places = ("--parquet-url", "s3://source/assumed/one.parquet", "--location", "assumed", "--pattern", "one.parquet")
    code, answers = ask(engine, *places)
    assert code == 0, failing(answers)
    assert {a for a, (verdict, _) in answers.items() if verdict != "holds"} == {
        "UPDATEs of different rows in one partition"
    }
    assert of(answers, "UPDATEs of different rows")[1].startswith("per tablet: HTTP 400, code 9, ConflictError")
    assert "detected 1 conflicts with 1 transactions on transaction commit" in of(answers, RACE)[1]
    assert of(answers, "READ_PARQUET of one object by LOCATION")[1].startswith("3 rows")


def test_answers_that_differ_without_harm_are_reported(make_engine: Any, ask: Any) -> None:
    code, answers = ask(make_engine(conflicts="row", conflict_status=409))
    assert code == 0
    assert of(answers, "UPDATEs of different rows") == ("information", "per row: both committed")
    assert of(answers, RACE)[1].startswith("HTTP 409, code 9, ConflictError")
    assert of(answers, "READ_PARQUET of one object by URL") == ("could not be asked", "--parquet-url is not given")


def test_a_single_writer_is_reported_as_one(make_engine: Any, ask: Any) -> None:
    code, answers = ask(make_engine(single_writer=True))
    assert code == 0, failing(answers)
    verdict, seen = of(answers, "Several write transactions")
    assert verdict == "information"
    assert "another write transaction is active" in seen
    assert of(answers, RACE)[0] == of(answers, "Concurrent INSERTs")[0] == "could not be asked"


def test_an_engine_without_conflicts_fails(make_engine: Any, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_check_conflicts", lambda *_: None)
    code, answers = ask(make_engine())
    assert code == 1
    assert of(answers, RACE)[0] == "does not hold"
    assert of(answers, RACE)[1].startswith("both committed")


def test_a_stopped_clock_and_a_small_limit_fail(make_engine: Any, ask: Any) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    code, answers = ask(make_engine(clock=lambda: now, max_statements=LOAD_STATEMENTS - 1))
    assert code == 1
    assert failing(answers) == {
        "The engine's clock moves between transactions",
        f"A transaction may have {LOAD_STATEMENTS} statements",
    }


def test_no_engine_is_no_answer(make_engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn() as engine:
        gone = engine.url
    assert main(["--core-url", gone, "--database", "firebolt", "--json"]) == 2
    assert {a["verdict"] for a in json.loads(capsys.readouterr().out)} == {"could not be asked"}
