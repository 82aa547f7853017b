"""Row counts add up, or nothing is applied; and what is too large or too slow says so, with the way out."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assumptions.questions import LOAD_STATEMENTS
from faults import Fault, FaultProxy, matching
from firebolt_cdc import deadline, loader, stage
from firebolt_cdc import engine as engine_module
from firebolt_cdc.apply import PART_FULL_LOADS, Applier
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import RESERVE_SECONDS
from firebolt_cdc.errors import EngineRejectedError, TimedOutError, TransientError
from firebolt_cdc.storage import Storage
from standin import StandIn
from support import Pipeline, parquet, sessions, table_config

FULL = "fair/sessions/LOAD00000001.parquet"
COUNTS = "rows_read, rows_upserted, rows_deleted, rows_collapsed, rows_dropped"


def counts(pipeline: Pipeline) -> dict[str, list[int]]:
    """The counts by file key; both tables must say the same."""
    ledger, applied = (
        {row[0]: row[1:] for row in pipeline.sql(f"SELECT file_key, {COUNTS} FROM {table}")}
        for table in ("cdc_processed_files", "cdc_applied")
    )
    assert ledger == applied
    return ledger


def test_every_row_of_every_file_becomes_something(pipeline: Pipeline) -> None:
    a, b = "fair/sessions/20241124-1.parquet", "fair/sessions/20241124-2.parquet"
    log, full_log = "fair/events/20241124-1.parquet", "fair/events/LOAD00000001.parquet"
    events = [
        pipeline.put(FULL, sessions(("I", 8, "x"), ("I", 9, "y"))),
        pipeline.put(full_log, parquet({"id": [5, 6, 7]})),
        pipeline.put(a, sessions(("I", 1, "a"), ("U", 1, "b"), ("I", 2, "c"), ("I", 3, "d"))),
        pipeline.put(b, sessions(("D", 2, None), ("I", 4, "e"))),
        pipeline.put(log, parquet({"Op": ["I", "D"], "id": [1, 1]})),
    ]
    assert pipeline.deliver(*events) == []
    assert counts(pipeline) == {
        a: [4, 2, 0, 2, 0],
        b: [2, 1, 1, 0, 0],
        FULL: [2, 2, 0, 0, 0],
        log: [2, 1, 1, 0, 0],
        full_log: [3, 3, 0, 0, 0],
    }


def test_ignored_deletes_are_counted_as_dropped(pipeline: Pipeline) -> None:
    pipeline.configure(tables={"fair/sessions": table_config("sessions", ["sid"], deletes="ignore")})
    key = "fair/sessions/20241124-1.parquet"
    assert pipeline.deliver(pipeline.put(key, sessions(("I", 1, "a"), ("D", 1, None), ("D", 2, None)))) == []
    assert counts(pipeline) == {key: [3, 1, 0, 0, 2]}


def shortened(body: bytes) -> bytes:
    """A Parquet file without its last row."""
    table = pq.ParquetFile(io.BytesIO(body)).read(use_threads=False)
    buffer = io.BytesIO()
    pq.write_table(table.slice(0, table.num_rows - 1), buffer)
    return buffer.getvalue()


def lose_a_staged_row(patch: pytest.MonkeyPatch) -> None:
    whole = Storage.stage
    patch.setattr(Storage, "stage", lambda self, name, body: whole(self, name, shortened(body)))


def lose_a_row_that_was_read(patch: pytest.MonkeyPatch) -> None:
    whole = stage.changes_of

    def without_one(*given: Any) -> Any:
        changes = whole(*given)
        return replace(changes, rows=changes.rows.slice(1))

    patch.setattr(stage, "changes_of", without_one)


def double_a_row(patch: pytest.MonkeyPatch) -> None:
    whole = stage.changes_of

    def doubled(*given: Any) -> Any:
        changes = whole(*given)
        return replace(changes, rows=pa.concat_tables([changes.rows, changes.rows.slice(0, 1)]))

    patch.setattr(stage, "changes_of", doubled)


def lose_a_key(patch: pytest.MonkeyPatch) -> None:
    whole = stage._last_per_key

    def without_one(rows: pa.Table, key: Any) -> tuple[pa.Table, int]:
        last, superseded = whole(rows, key)
        return last.slice(1), superseded

    patch.setattr(stage, "_last_per_key", without_one)


@pytest.mark.parametrize(
    ("lose", "table"),
    [
        (lose_a_staged_row, "sessions"),
        (lose_a_staged_row, "events"),
        (lose_a_row_that_was_read, "sessions"),
        (double_a_row, "sessions"),
        (double_a_row, "events"),
        (lose_a_key, "sessions"),
    ],
)
def test_a_row_that_is_lost_or_doubled_on_the_way_fails_the_load(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, lose: Callable[[pytest.MonkeyPatch], None], table: str
) -> None:
    key = f"fair/{table}/20241124-1.parquet"
    event = pipeline.put(key, sessions(("I", 1, "a"), ("I", 2, "b"), ("I", 3, "c")))
    with monkeypatch.context() as patch:
        lose(patch)
        assert pipeline.deliver(event) == []
    assert pipeline.ledger() == {key: ("failed", "permanent")}
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_applied") == 0
    assert len(pipeline.take(pipeline.dlq)) == 1
    pipeline.sql("UPDATE cdc_processed_files SET status = 'pending', error_message = NULL")
    assert pipeline.deliver(event) == []
    assert pipeline.sql.value(f"SELECT COUNT(*) FROM {table}") == 3, "nothing is lost: it loads when mended"


def test_an_insert_that_writes_fewer_rows_is_not_committed(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Applier._statement

    def limited(self: Applier, *given: Any, **more: Any) -> tuple[str, list[object]]:
        sql, values = whole(self, *given, **more)
        return sql.replace("WHERE EXISTS", 'WHERE s."id" <> 1 AND EXISTS'), values

    monkeypatch.setattr(Applier, "_statement", limited)
    for key in ("fair/events/LOAD00000001.parquet", "fair/events/20241124-1.parquet"):
        pipeline.put(key, parquet({"id": [1, 2]}))
        with pytest.raises(TransientError, match="the engine inserted 1 rows, the files have 2"):
            pipeline.by_hand(key)
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_applied") == 0
    assert set(pipeline.ledger().values()) == {("failed", "transient")}


def test_an_object_that_changes_under_the_engine_is_gone_not_permanent(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pipeline.put(FULL, sessions(("I", 1, "a")))
    whole = Applier._apply_full
    new: list[dict[str, Any]] = []

    def overwritten(self: Applier, *given: Any) -> None:
        new.append(pipeline.put(FULL, sessions(("I", 1, "b"), ("I", 2, "c"))))
        whole(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Applier, "_apply_full", overwritten)
        assert pipeline.deliver(old) == []
    assert pipeline.ledger() == {FULL: ("failed", "gone")}
    assert pipeline.deliver(*new) == []
    assert pipeline.sql('SELECT "sid", "user" FROM sessions ORDER BY "sid"') == [[1, "b"], [2, "c"]]


@pytest.mark.parametrize("strange", [False, True], ids=["read by the engine", "rewritten here"])
def test_a_full_load_that_repeats_a_key_names_it_and_applies_nothing(pipeline: Pipeline, strange: bool) -> None:
    pipeline.configure(tables={"fair/sessions": table_config("sessions", ["sid", "day"])})
    extra = {"at": pa.array([1, 2, 3], pa.time64("us"))} if strange else {}
    assert pipeline.deliver(pipeline.put(FULL, parquet({"sid": [1, 7, 7], "day": ["x", "y", "y"], **extra}))) == []
    [[status, message]] = pipeline.sql("SELECT status, error_message FROM cdc_processed_files")
    assert status == "failed"
    assert "2 rows have the primary key sid = 7, day = 'y'" in message
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_applied") == 0


def test_a_file_without_room_in_memory_fails_and_those_that_fit_together_are_loaded_together(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "room_bytes", lambda _: 40_000)
    keys = [f"fair/sessions/20241124-{n}.parquet" for n in range(1, 6)]
    events = [
        pipeline.put(key, sessions(*(("I", n * 1000 + row, "x") for row in range(300 if n == 3 else 70))))
        for n, key in enumerate(keys, 1)
    ]
    assert pipeline.deliver(*events) == []
    ledger = pipeline.ledger()
    assert ledger.pop(keys[2]) == ("failed", "permanent")
    assert set(ledger.values()) == {("completed", None)}
    message = pipeline.sql.value("SELECT error_message FROM cdc_processed_files WHERE status = 'failed'")
    assert "firebolt-cdc load" in message
    assert pipeline.sql.value("SELECT COUNT(DISTINCT load_id) FROM cdc_applied") == 2, "two by two"
    assert pipeline.sql.value("SELECT COUNT(*) FROM sessions") == 4 * 70


@pytest.mark.parametrize("deduplicated", [True, False])
def test_what_had_no_room_is_applied_once_when_the_part_before_it_is_split(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], deduplicated: bool
) -> None:
    monkeypatch.setattr(loader, "room_bytes", lambda _: 40_000)
    pipeline.configure(deduplication_enabled=deduplicated)
    events = [
        pipeline.put(f"fair/events/20241124-{n}.parquet", parquet({"Op": ["I"] * 70, "id": [n] * 70, "v": ["x"] * 70}))
        for n in range(1, 5)
    ]
    applied, refusals = Applier.apply, [EngineRejectedError("refused once")]

    def refuse_once(applier: Applier, *arguments: Any, **more: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return applied(applier, *arguments, **more)

    monkeypatch.setattr(Applier, "apply", refuse_once)
    assert pipeline.deliver(*events) == []
    assert pipeline.sql('SELECT "id", COUNT(*) FROM events GROUP BY 1 ORDER BY 1') == [[n, 70] for n in range(1, 5)]
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_applied") == 4
    assert "DuplicateDeliveries" not in capsys.readouterr().out


def test_full_loads_that_are_rewritten_keep_within_a_loads_statements(aws: str, tmp_path: Path) -> None:
    with StandIn(tmp_path / "standin", s3_endpoint=aws, max_statements=LOAD_STATEMENTS) as engine:
        marker = {"column": "gone", "values": ["1"]}
        pipeline = Pipeline(engine.url, {"fair/t": table_config("t", ["id"], delete_marker=marker)})
        pipeline.migrate()
        pipeline.sql('CREATE TABLE t ("id" BIGINT NOT NULL, "v" TEXT, "_cdc_seq" TEXT)')
        events = [
            pipeline.put(f"fair/t/LOAD0000000{n}.parquet", parquet({"id": [n, n + 10], "gone": [0, 1], "v": ["a"] * 2}))
            for n in range(1, PART_FULL_LOADS + 1)
        ]
        change = {"Op": ["I", "D"], "id": [0, 1], "gone": [0, 0], "v": ["a", "a"]}
        events.append(pipeline.put("fair/t/20991124-1.parquet", parquet(change)))
        assert pipeline.deliver(*events) == []
        assert pipeline.sql.value("SELECT COUNT(DISTINCT load_id) FROM cdc_applied") == 1
        ids = [n for n in range(PART_FULL_LOADS + 1) if n != 1]
        assert pipeline.sql('SELECT "id" FROM t ORDER BY 1') == [[n] for n in ids]
        assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_tombstones") == PART_FULL_LOADS + 1
        pipeline.sql.close()


INVOCATION_SECONDS = 30
"""So short that after a MERGE that takes all of it nothing more is begun."""


@pytest.fixture
def proxy(engine: StandIn) -> Iterator[FaultProxy]:
    with FaultProxy(engine) as running:
        yield running


@pytest.fixture
def slow(proxy: FaultProxy) -> Iterator[Pipeline]:
    made = Pipeline(proxy.url)
    made.migrate()
    yield made
    made.sql.close()


def time_passes_at_merge(patch: pytest.MonkeyPatch, *numbers: int) -> None:
    """The engine does not answer these MERGEs: the time that they may take passes, on the worker's clock only."""
    real, count, passed = engine_module._run, 0, 0.0

    def run(connection: Any, sql: str, parameters: Any, limit: Deadline) -> Any:
        nonlocal count, passed
        if sql.startswith("MERGE"):
            count += 1
            if count in numbers:
                passed += limit.remaining_seconds() - RESERVE_SECONDS
                raise TimedOutError("no answer")
        return real(connection, sql, parameters, limit)

    patch.setattr(engine_module, "_run", run)
    patch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed))


def test_a_full_load_that_takes_a_whole_invocation_is_too_large(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = pipeline.put(FULL, sessions(("I", 1, "a")))
    time_passes_at_merge(monkeypatch, 1)
    assert pipeline.deliver(event, timeout_seconds=INVOCATION_SECONDS) == []
    [[status, class_, message]] = pipeline.sql("SELECT status, error_class, error_message FROM cdc_processed_files")
    assert (status, class_) == ("failed", "permanent")
    assert "too large for the loader's timeout" in message
    assert f"firebolt-cdc load {FULL}" in message
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_tables WHERE holder IS NOT NULL") == 0


def test_an_engine_that_does_not_answer_is_no_large_file(
    slow: Pipeline, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = slow.put(FULL, sessions(("I", 1, "a")))
    time_passes_at_merge(monkeypatch, 1)
    proxy.inject(Fault.REFUSE, matching("SELECT applied_id FROM cdc_applied WHERE load_id"))
    assert slow.deliver(event, timeout_seconds=INVOCATION_SECONDS) == []
    assert slow.ledger() == {FULL: ("failed", "transient")}
    slow.drain()
    assert slow.ledger() == {FULL: ("completed", None)}


def test_a_batch_that_takes_too_long_is_tried_file_by_file_next_time(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [pipeline.put(f"fair/sessions/LOAD0000000{n}.parquet", sessions(("I", n, "a"))) for n in (1, 2)]
    time_passes_at_merge(monkeypatch, 2)
    assert pipeline.deliver(*events, timeout_seconds=INVOCATION_SECONDS) == []
    assert set(pipeline.ledger().values()) == {("pending", None)}
    assert pipeline.deliver(*events) == []
    assert set(pipeline.ledger().values()) == {("completed", None)}
    assert pipeline.sql.value("SELECT COUNT(DISTINCT load_id) FROM cdc_applied") == 2
