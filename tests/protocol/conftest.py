"""A stand-in for each test, with a database of its own."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firebolt_cdc import cli, queues, telemetry
from firebolt_cdc import config as configuration
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
from firebolt_cdc.migrations import Runner
from firebolt_cdc.telemetry import logger
from protocol.reloading import CHANGE, LOAD, full, target
from standin import StandIn
from support import Command, Pipeline, sessions, table_config


@pytest.fixture(scope="session")
def migrated(aws: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of an engine to which the migrations are applied, to be copied."""
    state = tmp_path_factory.mktemp("migrated")
    with StandIn(state, s3_endpoint=aws) as running:
        settings = configuration.Firebolt(database="firebolt", core_url=running.url)
        engine = Engine(settings, Deadline(60.0))
        Runner(engine, Deadline(60.0)).run()
        engine.close()
    return state


@pytest.fixture
def new_engine(aws: str, tmp_path: Path) -> Iterator[StandIn]:
    """One without any table."""
    with StandIn(tmp_path / "standin", s3_endpoint=aws) as running:
        yield running


@pytest.fixture
def engine(aws: str, migrated: Path, tmp_path: Path) -> Iterator[StandIn]:
    shutil.copytree(migrated, tmp_path / "standin")
    with StandIn(tmp_path / "standin", s3_endpoint=aws) as running:
        yield running


@pytest.fixture(autouse=True)
def _copies_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a delayed copy, and none overlooks one."""
    monkeypatch.setattr(queues, "delay_seconds", lambda _: 0)


@pytest.fixture
def pipeline(engine: StandIn) -> Iterator[Pipeline]:
    made = Pipeline(engine.url)
    made.migrate()
    yield made
    made.sql.close()


@pytest.fixture
def logs() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the handlers logged in this test, line by line."""
    stream = io.StringIO()
    [handler] = logger.handlers
    assert isinstance(handler, logging.StreamHandler)
    before = handler.setStream(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    handler.setStream(before)


@pytest.fixture
def emitted(capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, float]]:
    """Each metric's sum over the EMF lines that the handlers printed since the last call."""

    def read() -> dict[str, float]:
        sums: dict[str, float] = {}
        for line in capsys.readouterr().out.splitlines():
            if '"_aws"' in line:
                emf = json.loads(line)
                for name in (m["Name"] for d in emf["_aws"]["CloudWatchMetrics"] for m in d["Metrics"]):
                    sums[name] = sums.get(name, 0) + sum(emf[name])
        return sums

    return read


@pytest.fixture
def command(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs a command on the pipeline of the test and returns what it printed as JSON."""
    engines: list[Engine] = []

    def found(function: str, seconds: float = 60.0) -> cli.Pipeline:
        config, deadline = configuration.load(), Deadline(seconds)
        engines.append(Engine.of(config, deadline))
        return cli.Pipeline(function, config, engines[-1], deadline)

    def run(what: Callable[..., None], *arguments: Any, **options: Any) -> Any:
        [handler] = telemetry.logger.handlers
        assert isinstance(handler, logging.StreamHandler)
        before = handler.stream
        capsys.readouterr()
        try:
            what("loader", *arguments, as_json=True, **options)
        finally:
            handler.setStream(before)
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(cli, "_pipeline", found)
    yield run
    telemetry._outside_lambda.clear()
    for engine in engines:
        engine.close()


@pytest.fixture
def reloaded(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """A table with a full load and changes, of which DMS then wrote another full load and more changes."""
    events = {"load 1": pipeline.put(LOAD.format(1), full((1, "ann"), (2, "bob"), (3, "cy")))}
    pipeline.later()
    events["change 1"] = pipeline.put(CHANGE.format("100000"), sessions(("U", 1, "ann2"), ("I", 4, "dan")))
    assert pipeline.deliver(*events.values()) == []
    assert target(pipeline) == [[1, "ann2"], [2, "bob"], [3, "cy"], [4, "dan"]]
    pipeline.later()
    events["load 2"] = pipeline.put(LOAD.format(1), full((1, "ann3"), (4, "dan2"), (5, "eve")))
    pipeline.later()
    events["change 2"] = pipeline.put(CHANGE.format("120000"), sessions(("U", 5, "eve2"), ("D", 4, None)))
    assert pipeline.deliver(events["load 2"], events["change 2"]) == []
    return events


@pytest.fixture
def automatic(pipeline: Pipeline) -> Pipeline:
    """Reloads are carried out by themselves."""
    tables = {"fair/sessions": table_config("sessions", ["sid"], reload="auto")}
    pipeline.configure(tables=tables, cleanup={"reload_quiet_seconds": 0, "reconcile_grace_seconds": 0})
    return pipeline
