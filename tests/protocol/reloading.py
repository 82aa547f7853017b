"""Reloads of the sessions table, for the tests of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from firebolt_cdc import config as configuration
from firebolt_cdc import engine
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.plan import Plan
from firebolt_cdc.reload import Reload, Result
from support import Context, Pipeline, sessions

LOAD = "fair/sessions/LOAD0000000{}.parquet"
CHANGE = "fair/sessions/2024/11/24/20241124-{}.parquet"


def full(*rows: tuple[int, str]) -> bytes:
    return sessions(*(("I", sid, user) for sid, user in rows))


@contextlib.contextmanager
def at_work(pipeline: Pipeline) -> Iterator[Reload]:
    settings = configuration.load()
    deadline = Deadline(60.0)
    made = engine.Engine.of(settings, deadline)
    try:
        yield Reload.of(settings, made, deadline, Context())
    finally:
        made.close()


def planned(pipeline: Pipeline, name: str = "sessions") -> Plan:
    with at_work(pipeline) as work:
        return work.plan(name)


def carry_out(pipeline: Pipeline, **how: Any) -> Result:
    with at_work(pipeline) as work:
        plan = work.plan("sessions", everything=how.pop("everything", False))
        return work.run(plan, progress=lambda *_: None, **how)


def target(pipeline: Pipeline) -> list[list[object]]:
    return pipeline.sql('SELECT "sid", "user" FROM sessions ORDER BY "sid"')
