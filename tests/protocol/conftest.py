"""A stand-in for each test, with a database of its own."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firebolt_cdc import cli, telemetry
from firebolt_cdc import config as configuration
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
from firebolt_cdc.telemetry import logger
from standin import StandIn
from support import Command, Pipeline


@pytest.fixture
def engine(aws: str, tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path / "standin", s3_endpoint=aws) as running:
        yield running


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
