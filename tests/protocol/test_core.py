"""Firebolt Core allows one write transaction at a time: a second waits, and a dead writer's is ended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from faults import Fault, FaultProxy, matching
from firebolt_cdc import core, loader
from firebolt_cdc.apply import Applier
from firebolt_cdc.engine import Transaction
from firebolt_cdc.errors import ConflictError
from standin import StandIn
from support import KilledError, Pipeline, sessions

ONE = "fair/sessions/20241124-1.parquet"


@pytest.fixture
def ahead() -> list[timedelta]:
    """How far the engine's clock is ahead; a test sets the last entry."""
    return [timedelta()]


@pytest.fixture
def single(aws: str, tmp_path: Path, ahead: list[timedelta]) -> Iterator[Pipeline]:
    def clock() -> datetime:
        return datetime.now(UTC) + ahead[-1]

    with StandIn(tmp_path / "core", s3_endpoint=aws, single_writer=True, clock=clock) as running:
        made = Pipeline(running.url)
        made.migrate()
        yield made
        made.sql.close()


def notes(pipeline: Pipeline) -> list[str]:
    listing = pipeline.s3.list_objects_v2(Bucket=pipeline.module_bucket, Prefix="staging/writers/")
    return [thing["Key"] for thing in listing.get("Contents", [])]


def test_loads_leave_no_note(single: Pipeline) -> None:
    assert single.deliver(single.put(ONE, sessions(("I", 1, "a")))) == []
    assert single.ledger() == {ONE: ("completed", None)}
    assert notes(single) == []


def test_a_dead_writers_transaction_is_ended_when_its_time_is_up(
    single: Pipeline, monkeypatch: pytest.MonkeyPatch, ahead: list[timedelta]
) -> None:
    event = single.put(ONE, sessions(("I", 1, "a")))

    def die(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Applier, "_record", die)
        patch.setattr(loader.Worker, "_release", lambda *_: None)
        with pytest.raises(KilledError):
            single.deliver(event, timeout_seconds=20)
    assert len(notes(single)) == 1
    ahead.append(timedelta(minutes=1))
    with pytest.raises(ConflictError, match="write transaction"):
        single.clean("sweep", timeout_seconds=10)
    assert len(notes(single)) == 1, "by this machine's clock the writer may be alive"
    with monkeypatch.context() as patch:
        patch.setattr(core, "time", type("Later", (), {"time": staticmethod(lambda: 4e9)}))
        swept = single.clean("sweep")["sweep"]
    assert (swept["turns_freed"], swept["requeued"]) == (1, 1)
    assert notes(single) == []
    single.drain()
    assert single.sql('SELECT "sid", "user" FROM sessions') == [[1, "a"]]


def test_a_note_comes_before_the_first_write(single: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    execute = Transaction.execute

    def watch(self: Transaction, sql: str, *rest: Any) -> Any:
        rows = execute(self, sql, *rest)
        seen.append((sql.split()[0], len(notes(single))))
        return rows

    monkeypatch.setattr(Transaction, "execute", watch)
    assert single.deliver(single.put(ONE, sessions(("I", 1, "a")))) == []
    assert all(count == 1 for verb, count in seen if verb in ("UPDATE", "INSERT", "MERGE", "CREATE"))


def test_a_transaction_whose_reply_and_rollback_got_lost_is_ended_by_who_comes_next(aws: str, tmp_path: Path) -> None:
    with StandIn(tmp_path / "core", s3_endpoint=aws, single_writer=True) as running, FaultProxy(running) as proxy:
        made = Pipeline(proxy.url)
        made.migrate()
        event = made.put(ONE, sessions(("I", 1, "a")))
        proxy.inject(Fault.CUT_AFTER, matching("SELECT turn"))
        proxy.inject(Fault.REFUSE, matching("ROLLBACK"))
        assert made.deliver(event) == []
        assert len(notes(made)) == 1, "nobody else knows its id"
        assert made.deliver(event) == []
        assert notes(made) == []
        assert made.sql('SELECT "sid", "user" FROM sessions') == [[1, "a"]]
        made.sql.close()
