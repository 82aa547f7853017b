"""The stand-in and moto's server, started once; every test gets a database of its own."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from firebolt_cdc.telemetry import logger
from standin import StandIn
from support import Pipeline, use_aws


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    use_aws(url)
    yield url
    server.stop()


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
