"""Something else happens between a worker's claim and its load, or between two steps of a migration."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from firebolt_cdc import adopt, ledger
from firebolt_cdc import config as configuration
from firebolt_cdc.apply import Applier
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import ConflictError, PermanentError
from standin import StandIn
from support import PREFIX, Pipeline, as_record, parquet, sessions, table_config

SEQUENCED = pa.schema(
    [("Op", pa.string()), ("sid", pa.int64()), ("user", pa.string()), ("AR_H_CHANGE_SEQ", pa.string())]
)
LATER = "fair/sessions/20241124-{}.parquet"


def sequenced(*rows: tuple[str, int, str | None, int]) -> bytes:
    ops, sids, users, numbers = zip(*rows, strict=True)
    sequences = [f"20241124100000{number:02d}{'0' * 19}" for number in numbers]
    columns = {"Op": list(ops), "sid": list(sids), "user": list(users), "AR_H_CHANGE_SEQ": sequences}
    return parquet(columns, SEQUENCED)


def once_before(monkeypatch: pytest.MonkeyPatch, name: str, what: Any) -> None:
    """Do something once, before the applier's method of this name runs."""
    method, todo = getattr(Applier, name), [what]

    def hooked(applier: Applier, *arguments: Any, **more: Any) -> Any:
        if todo:
            todo.pop()()
        return method(applier, *arguments, **more)

    monkeypatch.setattr(Applier, name, hooked)


@pytest.mark.parametrize("moment", ["apply", "_record"])
def test_a_file_in_flight_while_its_unlisted_table_becomes_listed_is_applied_once(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    pipeline.configure(unlisted_tables="append")
    pipeline.deliver(pipeline.put("fair/new/20241124-1.parquet", sessions(("I", 9, "z"))))
    event = pipeline.put("fair/new/20241124-2.parquet", sessions(("I", 1, "a"), ("I", 2, "b")))

    def listed_meanwhile() -> None:
        pipeline.configure(tables=pipeline.config["tables"] | {"fair/new": table_config("fair__new")})
        pipeline.migrate()
        assert pipeline.deliver(event) == [], "another delivery, to a loader of the new version"

    once_before(monkeypatch, moment, listed_meanwhile)
    assert pipeline.deliver(event) == []
    pipeline.drain()
    assert pipeline.sql('SELECT "sid", COUNT(*) FROM fair__new GROUP BY 1 ORDER BY 1') == [[1, 1], [2, 1], [9, 1]]
    assert pipeline.sql("SELECT applied_id FROM cdc_applied GROUP BY 1 HAVING COUNT(*) > 1") == []
    assert set(pipeline.ledger().values()) == {("completed", None)}


def test_rows_in_flight_while_the_order_changes_are_ranked_in_the_new_one(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ordered_meanwhile() -> None:
        order = {"by": "change_seq", "column": "AR_H_CHANGE_SEQ"}
        pipeline.configure(tables={"fair/sessions": table_config("sessions", ["sid"], order=order)})
        pipeline.migrate()

    once_before(monkeypatch, "apply", ordered_meanwhile)
    assert pipeline.deliver(pipeline.put(LATER.format(10), sequenced(("I", 1, "a", 1), ("I", 2, "x", 2)))) == []
    assert pipeline.deliver(pipeline.put(LATER.format(11), sequenced(("U", 1, "b", 3), ("D", 2, None, 4)))) == []
    pipeline.drain()
    assert pipeline.sql('SELECT "sid", "user" FROM sessions') == [[1, "b"]]


def test_files_held_for_their_order_are_loaded_once_the_setting_is_restored(pipeline: Pipeline) -> None:
    before = pipeline.config["tables"]
    pipeline.deliver(pipeline.put(LATER.format(10), sessions(("I", 1, "a"))))
    pipeline.configure(
        tables={"fair/sessions": table_config("sessions", ["sid"], order={"by": "number", "column": "sid"})}
    )
    pipeline.migrate()
    pipeline.deliver(pipeline.put(LATER.format(11), sessions(("U", 1, "b"))))
    assert pipeline.ledger()[LATER.format(11)] == ("pending", "held")
    pipeline.migrate()
    assert pipeline.ledger()[LATER.format(11)] == ("pending", "held"), "the setting is still another one"
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 0
    pipeline.configure(tables=before)
    pipeline.migrate()
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 1
    pipeline.drain()
    assert pipeline.ledger()[LATER.format(11)] == ("completed", None)
    assert pipeline.sql('SELECT "sid", "user" FROM sessions') == [[1, "b"]]


def test_files_that_an_older_version_held_for_their_order_are_loaded_without_a_migration(pipeline: Pipeline) -> None:
    """The alias moved back by hand, and forward again; or an apply, which migrates before it moves the alias."""
    pipeline.deliver(pipeline.put(LATER.format(10), sessions(("I", 1, "a"))))
    now = pipeline.config["tables"]
    older = table_config("sessions", ["sid"], order={"by": "number", "column": "sid"})
    pipeline.configure(tables=now | {"fair/sessions": older})
    pipeline.deliver(pipeline.put(LATER.format(11), sessions(("U", 1, "b"))))
    assert pipeline.ledger()[LATER.format(11)] == ("pending", "held")
    pipeline.configure(tables=now)
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 1
    pipeline.drain()
    assert pipeline.ledger()[LATER.format(11)] == ("completed", None)


def test_nothing_is_loaded_before_the_ledger_made_by_hand_is_read(
    new_engine: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(new_engine.url, {"fair/events": table_config("events")})
    pipeline.s3_time = None
    old, new = "fair/events/20241124-10.parquet", "fair/events/20241124-11.parquet"
    pipeline.sql('CREATE TABLE events ("sid" BIGINT, "user" TEXT, "amount" NUMERIC(10, 2))')
    pipeline.sql("INSERT INTO events VALUES (1, 'a', NULL)")
    pipeline.put(old, sessions(("I", 1, "a")))
    pipeline.sql("CREATE TABLE cdc_processed_files (file_key TEXT, status TEXT, processed_at TIMESTAMPTZ)")
    pipeline.later()
    pipeline.sql(f"INSERT INTO cdc_processed_files VALUES ('{old}', 'completed', CURRENT_TIMESTAMP)")
    pipeline.later()
    pipeline.put(new, sessions(("I", 2, "b")))
    pipeline.later()
    listing = adopt._listing

    def meanwhile(*arguments: Any) -> Any:
        rows = listing(*arguments)
        pipeline.clean("reconcile")
        announced = [as_record(m) for m in pipeline.take(pipeline.queue)]
        assert pipeline.deliver_records(announced) == []
        return rows

    monkeypatch.setattr(adopt, "_listing", meanwhile)
    assert pipeline.migrate()["adopted"] == {"applied": 1, "held": 1}
    pipeline.drain()
    assert pipeline.sql('SELECT "sid" FROM events') == [[1]]
    assert pipeline.ledger() == {old: ("completed", None), new: ("pending", "held")}
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_processed_files") == 2


def test_what_was_loaded_before_a_ledger_made_by_hand_came_is_not_adopted(pipeline: Pipeline) -> None:
    pipeline.s3_time = None
    loaded = "fair/events/20241124-10.parquet"
    pipeline.deliver(pipeline.put(loaded, sessions(("I", 1, "a"))))
    pipeline.sql("CREATE TABLE cdc_processed_files_guide (file_key TEXT, status TEXT, processed_at TIMESTAMPTZ)")
    pipeline.sql(f"INSERT INTO cdc_processed_files_guide VALUES ('{loaded}', 'failed', CURRENT_TIMESTAMP)")
    pipeline.later()
    assert pipeline.migrate()["adopted"] == {"applied": 0, "held": 0}
    assert pipeline.sql("SELECT file_key, status FROM cdc_processed_files") == [[loaded, "completed"]]


@pytest.mark.parametrize("within", [True, False])
def test_two_pipelines_do_not_share_objects(pipeline: Pipeline, within: bool) -> None:
    prefix = f"{PREFIX}team/" if within else "firebolt_"
    pipeline.configure(
        name="team-b",
        source={"bucket": pipeline.bucket, "prefix": prefix},
        tables={"hr/people": table_config("people")},
    )
    with pytest.raises(PermanentError, match="reads some of the objects of"):
        pipeline.migrate()
    pipeline.configure(source={"bucket": pipeline.bucket, "prefix": "elsewhere/"})
    assert "people" in pipeline.migrate()["seeded"]


def test_a_load_that_does_not_see_its_own_write_of_the_turn_stops(pipeline: Pipeline) -> None:
    engine = Engine(configuration.load().firebolt, Deadline(60))
    with engine.transaction() as tx:
        tx.begin("SELECT 1")
        with pytest.raises(ConflictError, match="sessions: the transaction does not see its own write"):
            ledger.write_turn(tx, "sessions", "not its holder", "a load")
    engine.close()
