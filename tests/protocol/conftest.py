"""A stand-in for each test, with a database of its own."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firebolt_cdc.telemetry import logger
from standin import StandIn
from support import Pipeline


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
