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
def found_running() -> bool:
    """Whether somebody had started the stack before the tests."""
    return local.ENV.exists() and local.EMULATOR.running() and local.STANDIN.running()


@pytest.fixture(scope="session")
def applied(found_running: bool) -> dict[str, str]:
    """The variables of examples/local with which the stack was applied."""
    return {} if found_running else variables(CHAOS_TABLES)


@pytest.fixture(scope="session")
def pipeline(found_running: bool, applied: dict[str, str]) -> Iterator[Pipeline]:
    try:
        if not found_running:
            local.up(variables=applied)
        with Pipeline() as pipeline:
            yield pipeline
    finally:
        if not found_running:
            local.down(keep_logs=True)
