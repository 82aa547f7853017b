"""The whole local stack, started once for all tests of this directory and stopped afterwards.

A stack that runs already (`make up`) is used as it is and left running: that saves two minutes while one writes a
test. Its handler is then the one that was packaged by that `make up`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.campaign import variables
from stack import local
from stack.pipeline import Pipeline

CHAOS_TABLES = 5  # of test_chaos


@pytest.fixture(scope="session")
def pipeline() -> Iterator[Pipeline]:
    found_running = local.ENV.exists() and local.EMULATOR.running() and local.STANDIN.running()
    try:
        if not found_running:
            local.up(variables=variables(CHAOS_TABLES))
        with Pipeline() as pipeline:
            yield pipeline
    finally:
        if not found_running:
            local.down(keep_logs=True)
