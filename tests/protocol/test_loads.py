"""What a load does: the guide's answers, both modes, order, duplicates, failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from firebolt_cdc import apply, cli, loader, queues
from firebolt_cdc.errors import GoneError, PermanentError
from firebolt_cdc.ledger import ANEW
from firebolt_cdc.storage import Storage
from support import PREFIX, Command, Context, Pipeline, as_record, parquet, sessions, table_config

Logs = Callable[[], list[dict[str, Any]]]
CHANGES = "fair/sessions/2024/11/24/20241124-123456.parquet"


def target(pipeline: Pipeline) -> list[list[object]]:
    return pipeline.sql('SELECT "sid", "user" FROM sessions ORDER BY "sid"')


def test_the_guides_first_and_second_answer(pipeline: Pipeline) -> None:
    pipeline.put(CHANGES, sessions(("I", 1, "ann"), ("I", 2, "bob")))
    first = pipeline.by_hand(CHANGES)
    assert (first["status"], first["message"]) == ("success", "File processed successfully")
    assert target(pipeline) == [[1, "ann"], [2, "bob"]]
    second = pipeline.by_hand(CHANGES)
    assert second == {
        "statusCode": 200,
        "body": json.dumps({"message": "File already processed", "file_key": CHANGES, "status": "completed"}),
    }
    assert target(pipeline) == [[1, "ann"], [2, "bob"]]
    assert pipeline.ledger() == {CHANGES: ("completed", None)}
    assert pipeline.sql("SELECT attempt_count, rows_read, rows_upserted, rows_deleted FROM cdc_processed_files") == [
        [1, 2, 2, 0]
    ]
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_duplicate_deliveries") == 1


def test_the_four_steps_are_logged_in_order(pipeline: Pipeline, logs: Logs) -> None:
    pipeline.put(CHANGES, sessions(("I", 1, "ann")))
    pipeline.by_hand(CHANGES)
    assert [line["step"] for line in logs() if "step" in line] == [
        "STEP 1: CHECK IF FILE ALREADY PROCESSED",
        "STEP 2: MARK FILE AS PROCESSING",
        "STEP 3: PROCESS FILE",
        "STEP 4: MARK FILE AS COMPLETED",
    ]


def test_changes_arrive_in_any_order_and_end_alike(pipeline: Pipeline) -> None:
    first = pipeline.put("fair/sessions/20241124-100000.parquet", sessions(("I", 1, "a"), ("I", 2, "b"), ("I", 3, "c")))
    second = pipeline.put("fair/sessions/20241124-110000.parquet", sessions(("U", 1, "a2"), ("D", 2, None)))
    third = pipeline.put(
        "fair/sessions/20241124-120000.parquet", sessions(("D", 1, None), ("I", 1, "a3"), ("U", 3, "c3"))
    )
    for event in (third, second, first, third, first, second):
        assert pipeline.deliver(event) == []
    assert target(pipeline) == [[1, "a3"], [3, "c3"]]


def test_one_batch_of_many_files_is_one_load(pipeline: Pipeline) -> None:
    events = [
        pipeline.put(f"fair/sessions/20241124-1000{n:02}.parquet", sessions(("I", n, "x"), ("U", 0, f"v{n:02}")))
        for n in range(1, 13)
    ]
    assert pipeline.deliver(*reversed(events), *events[:3]) == []
    assert target(pipeline) == [[0, "v12"], *([n, "x"] for n in range(1, 13))]
    assert pipeline.sql.value("SELECT COUNT(DISTINCT load_id) FROM cdc_applied") == 1
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_duplicate_deliveries") == 3
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_tables WHERE holder IS NOT NULL") == 0


def test_an_append_table_keeps_every_change_once(pipeline: Pipeline) -> None:
    event = pipeline.put("fair/events/20241124-1.parquet", parquet({"Op": ["I", "D"], "id": [1, 1]}))
    for _ in range(3):
        assert pipeline.deliver(event, event) == []
    rows = pipeline.sql('SELECT "id", "_cdc_op", "_cdc_file" FROM events ORDER BY "_cdc_seq"')
    assert rows == [[1, "I", "fair/events/20241124-1.parquet"], [1, "D", "fair/events/20241124-1.parquet"]]


def test_a_full_load_never_overwrites_a_change_nor_revives_a_deleted_row(pipeline: Pipeline) -> None:
    full = pipeline.put("fair/sessions/LOAD00000001.parquet", sessions(("I", 1, "old"), ("I", 2, "b"), ("I", 3, "c")))
    changes = pipeline.put("fair/sessions/20200101-1.parquet", sessions(("U", 1, "new"), ("D", 2, None)))
    assert pipeline.deliver(changes) == []
    assert pipeline.deliver(full, full) == []
    assert target(pipeline) == [[1, "new"], [3, "c"]]


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        (["a"], {"deletes": "soft"}),
        (["a"], {"deletes": "ignore"}),
        (["a", "b"], {"primary_key": ["b", "a"]}),
    ],
)
def test_a_deleted_row_stays_away_when_the_tables_settings_change(
    pipeline: Pipeline, key: list[str], changed: dict[str, Any]
) -> None:
    pipeline.configure(tables={"fair/t": table_config("t", key)})
    pipeline.migrate()
    late, delete, later = (
        pipeline.put(f"fair/t/20241124-{n}.parquet", parquet({"Op": [op], "a": [1], "b": ["x"]}))
        for n, op in enumerate("IDI", 1)
    )
    assert pipeline.deliver(delete) == []
    pipeline.configure(tables={"fair/t": table_config("t", key, **changed)})
    pipeline.migrate()
    assert pipeline.deliver(late) == []
    assert pipeline.sql('SELECT "a", "b" FROM t') == []
    assert pipeline.deliver(later) == []
    assert pipeline.sql('SELECT "a", "b" FROM t') == [[1, "x"]]


@pytest.mark.parametrize("deletes", ["hard", "ignore"])
def test_a_row_that_was_flagged_and_comes_again_is_not_flagged_whatever_deletes_says_now(
    pipeline: Pipeline, deletes: str
) -> None:
    for setting, rows in (("soft", ["I", "D"]), (deletes, ["I"])):
        pipeline.configure(tables={"fair/t": table_config("t", ["id"], deletes=setting)})
        pipeline.migrate()
        body = parquet({"Op": rows, "id": [1] * len(rows)})
        assert pipeline.deliver(pipeline.put(f"fair/t/20241124-{3 - len(rows)}.parquet", body)) == []
    assert pipeline.sql('SELECT "id", "_cdc_deleted" FROM t') == [[1, False]]


def test_a_full_load_whose_key_holds_glob_characters_reads_only_itself(pipeline: Pipeline) -> None:
    pipeline.configure(tables={"fair/se*ions": {"target": "sessions", "mode": "merge", "primary_key": ["sid"]}})
    pipeline.migrate()
    pipeline.put("fair/sessions/LOAD00000001.parquet", sessions(("I", 1, "wrong")))
    pipeline.put("fair/se*ions/LOAD00000001.parquet", sessions(("I", 2, "right")))
    assert pipeline.by_hand("fair/se*ions/LOAD00000001.parquet")["status"] == "success"
    assert target(pipeline) == [[2, "right"]]


@pytest.mark.parametrize("key", ["a b", "a+b", "a%20b", "ä'ö\"ü", "日本", "q?", "[x]", "semi;colon", "back\\slash"])
def test_keys_of_any_kind(pipeline: Pipeline, key: str) -> None:
    full, name = f"fair/sessions/{key}/LOAD00000001.parquet", f"fair/sessions/{key}/20241124-1.parquet"
    assert pipeline.deliver(pipeline.put(full, sessions(("I", 2, key)))) == []
    assert pipeline.deliver(pipeline.put(name, sessions(("I", 1, key)))) == []
    assert target(pipeline) == [[1, key], [2, key]]
    assert pipeline.ledger() == {name: ("completed", None), full: ("completed", None)}


def test_a_poison_file_fails_alone_with_its_reason(pipeline: Pipeline) -> None:
    good = [pipeline.put(f"fair/sessions/20241124-{n}.parquet", sessions(("I", n, "x"))) for n in range(1, 6)]
    poison = pipeline.put("fair/sessions/20241124-9.parquet", b"PAR1 this is no Parquet file")
    assert pipeline.deliver(*good[:2], poison, *good[2:]) == []
    assert target(pipeline) == [[n, "x"] for n in range(1, 6)]
    ledger = pipeline.ledger()
    assert ledger.pop("fair/sessions/20241124-9.parquet") == ("failed", "permanent")
    assert set(ledger.values()) == {("completed", None)}
    [dead] = pipeline.take(pipeline.dlq)
    assert json.loads(dead["Body"]) == poison
    assert dead["MessageAttributes"]["error_class"]["StringValue"] == "permanent"
    assert "not a readable Parquet file" in dead["MessageAttributes"]["error_message"]["StringValue"]


@pytest.mark.parametrize("refused", [False, True])
def test_nothing_is_left_behind_in_staging(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, refused: bool) -> None:
    staged: list[str] = []
    stage = Storage.stage

    def noted(storage: Storage, name: str, body: bytes) -> str:
        staged.append(name)
        return stage(storage, name, body)

    monkeypatch.setattr(Storage, "stage", noted)
    if refused:
        monkeypatch.setattr(apply, "merge_statement", lambda *_, **__: ("SELECT nonsense FROM nowhere", []))
    assert pipeline.deliver(pipeline.put(CHANGES, sessions(("I", 1, "a")))) == []
    assert pipeline.ledger() == {CHANGES: ("failed", "transient") if refused else ("completed", None)}
    assert staged
    assert pipeline.s3.list_objects_v2(Bucket=pipeline.module_bucket, Prefix="staging/")["KeyCount"] == 0


def test_a_failure_by_hand_raises(pipeline: Pipeline) -> None:
    pipeline.put(CHANGES, b"")
    with pytest.raises(PermanentError, match=r"20241124-123456\.parquet: not a readable Parquet file \(0 bytes\)"):
        pipeline.by_hand(CHANGES)
    with pytest.raises(GoneError, match="no longer exists"):
        pipeline.by_hand("fair/sessions/20241124-2.parquet")


def test_an_overwritten_object_is_gone_and_its_new_version_loads(pipeline: Pipeline) -> None:
    old = pipeline.put(CHANGES, sessions(("I", 1, "old")))
    new = pipeline.put(CHANGES, sessions(("I", 1, "new")))
    for _ in range(2):
        assert pipeline.deliver(old) == []
        assert pipeline.ledger() == {CHANGES: ("failed", "gone")}
        [dead] = pipeline.take(pipeline.dlq)
        assert dead["MessageAttributes"]["error_class"]["StringValue"] == "gone"
    assert pipeline.deliver(new) == []
    assert target(pipeline) == [[1, "new"]]
    assert sorted(r[0] for r in pipeline.sql("SELECT status FROM cdc_processed_files")) == ["completed", "failed"]


def test_junk_messages_go_to_the_dead_letter_queue(pipeline: Pipeline) -> None:
    stranger = {"detail": {"bucket": {"name": pipeline.bucket}, "object": {"key": "elsewhere/x.parquet", "etag": "e"}}}
    assert pipeline.deliver("not json", "{}", stranger) == []
    reasons = {m["MessageAttributes"]["error_message"]["StringValue"] for m in pipeline.take(pipeline.dlq)}
    assert len(reasons) == 3


def test_without_the_ledger_nothing_is_loaded(pipeline: Pipeline, logs: Logs) -> None:
    event = pipeline.put(CHANGES, sessions(("I", 1, "a")))
    pipeline.sql("ALTER TABLE cdc_applied RENAME TO cdc_applied_away")
    assert pipeline.deliver(event) == [], "a delayed copy is on the queue"
    assert "Error checking if file processed" in [line["message"] for line in logs()]
    assert pipeline.sql("SELECT table_name FROM information_schema.tables WHERE table_name = 'sessions'") == []
    with pytest.raises(Exception, match="Error checking if file processed"):
        pipeline.by_hand(CHANGES)
    pipeline.sql("ALTER TABLE cdc_applied_away RENAME TO cdc_applied")
    pipeline.drain()
    assert target(pipeline) == [[1, "a"]]


def test_with_deduplication_off_merge_tables_stay_right(pipeline: Pipeline, logs: Logs) -> None:
    pipeline.configure(deduplication_enabled=False)
    event = pipeline.put(CHANGES, sessions(("I", 1, "a"), ("U", 1, "b")))
    for _ in range(2):
        assert pipeline.deliver(event) == []
    assert target(pipeline) == [[1, "b"]]
    steps = [line for line in logs() if "step" in line]
    assert steps
    assert all(line["deduplication"] == "disabled: loads are at least once" for line in steps)


def test_a_reloaded_full_load_is_held_until_a_person_decides(pipeline: Pipeline) -> None:
    name = "fair/sessions/LOAD00000001.parquet"
    assert pipeline.deliver(pipeline.put(name, sessions(("I", 1, "old"), ("I", 2, "gone")))) == []
    again = pipeline.put(name, sessions(("I", 1, "new")))
    assert pipeline.deliver(again) == []
    assert target(pipeline) == [[1, "old"], [2, "gone"]]
    assert sorted(pipeline.sql("SELECT status, error_class FROM cdc_processed_files")) == [
        ["completed", None],
        ["pending", "held"],
    ]
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 0, "nobody carries it out by itself"
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0
    pipeline.sql(f"UPDATE cdc_processed_files SET {ANEW} WHERE error_class = 'held'")
    assert pipeline.deliver(again) == []
    assert target(pipeline) == [[1, "new"], [2, "gone"]]


@pytest.mark.parametrize("again", ["LOAD00000001", "LOAD00000002"])
def test_a_reload_of_an_unlisted_table_names_a_way_out_that_works(pipeline: Pipeline, again: str) -> None:
    pipeline.configure(unlisted_tables="append")
    pipeline.deliver(pipeline.put("fair/new/LOAD00000001.parquet", sessions(("I", 1, "old"), ("I", 2, "gone"))))
    pipeline.put("fair/new/20241124-1.parquet", sessions(("U", 1, "b")))
    pipeline.later()
    event = pipeline.put(f"fair/new/{again}.parquet", sessions(("I", 1, "new")))
    pipeline.deliver(event)
    said = pipeline.sql.value("SELECT error_message FROM cdc_processed_files WHERE error_class = 'held'")
    assert "list the table in `tables`" in said
    assert "retry FILE" in said
    assert "firebolt-cdc reload fair__new" not in said
    assert "reload *" not in said


def test_files_of_a_table_that_left_the_map_do_not_go_into_its_target_in_another_form(pipeline: Pipeline) -> None:
    without, name = pipeline.config["tables"], "fair/new/20241124-{}.parquet"
    listed = without | {"fair/new": table_config("fair__new", ["sid"])}
    pipeline.configure(tables=listed, unlisted_tables="append")
    pipeline.migrate()
    first = pipeline.put(name.format(1), sessions(("I", 1, "a")))
    assert pipeline.deliver(first) == []
    second = pipeline.put(name.format(2), sessions(("I", 2, "b")))

    pipeline.configure(tables=without)  # a worker of the version before the listing
    assert pipeline.deliver(second) == []
    assert len(pipeline.take(pipeline.queue, wait=True)) == 1, "it waits for the version that lists it"
    assert pipeline.take(pipeline.dlq) == []

    pipeline.migrate()  # the table is listed no more
    assert pipeline.deliver(first, second) == []
    assert len(pipeline.take(pipeline.dlq)) == 1
    assert pipeline.ledger() == {name.format(1): ("completed", None), name.format(2): ("failed", "permanent")}
    assert "list it again" in pipeline.sql.value(
        "SELECT error_message FROM cdc_processed_files WHERE status = 'failed'"
    )
    assert pipeline.take(pipeline.queue) == []

    pipeline.configure(tables=listed)
    pipeline.migrate()
    pipeline.sql("UPDATE cdc_processed_files SET status = 'pending' WHERE status = 'failed'")
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 1
    pipeline.drain()
    assert pipeline.sql('SELECT "sid", "user" FROM fair__new ORDER BY 1') == [[1, "a"], [2, "b"]]
    pipeline.configure(tables=without)
    third = pipeline.put(name.format(3), sessions(("I", 3, "c")))
    assert pipeline.deliver(third) == []
    assert len(pipeline.take(pipeline.queue, wait=True)) == 1, "it is listed again, says the migrate function"


def test_an_engine_that_reads_other_rows_than_the_file_has_applies_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = parquet({"sid": pa.array([], pa.int64()), "user": pa.array([], pa.string())})
    pipeline.s3.put_object(Bucket=pipeline.bucket, Key="elsewhere.parquet", Body=empty)
    elsewhere = ("READ_PARQUET(URL => ?)", [f"s3://{pipeline.bucket}/elsewhere.parquet"])
    monkeypatch.setattr(apply, "read_parquet", lambda *_, **__: elsewhere)
    key = "fair/sessions/LOAD00000001.parquet"
    assert pipeline.deliver(pipeline.put(key, sessions(("I", 1, "a")))) == []
    assert pipeline.ledger() == {key: ("failed", "permanent")}
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_applied") == 0


def test_the_copy_of_a_file_that_must_wait_is_delayed_by_how_often_it_has_waited(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []

    def delay(waits: int) -> int:
        waited.append(waits)
        return 600 if waits else 0

    monkeypatch.setattr(queues, "delay_seconds", delay)
    pipeline.sql("ALTER TABLE cdc_applied RENAME TO cdc_applied_away")
    assert pipeline.deliver(pipeline.put(CHANGES, sessions(("I", 1, "ann")))) == []
    assert pipeline.deliver_records([as_record(copy) for copy in pipeline.take(pipeline.queue)]) == []
    assert waited == [0, 1]
    assert pipeline.take(pipeline.queue) == []
    assert pipeline.delayed(pipeline.queue) == 1


def test_a_duplicate_that_must_wait_first_is_counted_all_the_same(pipeline: Pipeline) -> None:
    event = pipeline.put(CHANGES, sessions(("I", 1, "ann")))
    assert pipeline.deliver(event) == []
    pipeline.sql("ALTER TABLE cdc_applied RENAME TO cdc_applied_away")
    assert pipeline.deliver(event) == [], "a copy waits on the queue"
    pipeline.sql("ALTER TABLE cdc_applied_away RENAME TO cdc_applied")
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_duplicate_deliveries") == 0
    pipeline.drain()
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_duplicate_deliveries") == 1


def test_another_bucket_is_refused_and_not_looked_into(pipeline: Pipeline) -> None:
    foreign = {"detail": {"bucket": {"name": "somebody-elses"}, "object": {"key": "firebolt_dms_job/fair/sessions/x"}}}
    with pytest.raises(PermanentError, match="this pipeline reads the bucket"):
        loader.handler(foreign, Context())
    assert pipeline.deliver(foreign) == []
    assert len(pipeline.take(pipeline.dlq)) == 1
    assert pipeline.take(pipeline.queue) == [], "it does not circle"


def test_an_operation_that_is_no_utf8_is_named_by_its_row(pipeline: Pipeline) -> None:
    operations = pa.array([b"\xff"], pa.binary()).view(pa.string())
    key = "fair/sessions/LOAD00000001.parquet"
    assert pipeline.deliver(pipeline.put(key, parquet({"Op": operations, "sid": [1]}))) == []
    [(status, failure, message)] = pipeline.sql("SELECT status, error_class, error_message FROM cdc_processed_files")
    assert (status, failure) == ("failed", "permanent")
    assert "row 1 has text in the column 'Op' that is not UTF-8" in message


LATER = "fair/sessions/2024/11/25/20241125-{}.parquet"
TABLES = "SELECT table_name FROM information_schema.tables WHERE table_name IN ('sessions', 'fair__new')"
HELD = "SELECT error_message FROM cdc_processed_files WHERE status = 'pending' AND error_class = 'held'"


@pytest.fixture
def filled(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two loads of the sessions table; the second finds its target without a question to `cdc_applied`."""
    pipeline.deliver(pipeline.put("fair/sessions/LOAD00000001.parquet", sessions(("I", 1, "ann"), ("I", 2, "bob"))))
    pipeline.later()
    with monkeypatch.context() as patch:
        patch.delattr(loader.Worker, "_holds")
        pipeline.deliver(pipeline.put(CHANGES, sessions(("U", 1, "ann2"))))
    assert target(pipeline) == [[1, "ann2"], [2, "bob"]]


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("missing_table", ["create", "fail"])
def test_a_target_that_is_lost_is_filled_anew_from_all_files(
    pipeline: Pipeline, command: Command, missing_table: str
) -> None:
    listed = table_config("sessions", ["sid"], missing_table=missing_table)
    pipeline.configure(tables=pipeline.config["tables"] | {"fair/sessions": listed})
    pipeline.sql("DROP TABLE sessions")
    files = [pipeline.put(LATER.format(n), sessions(("I", n, "new"))) for n in (3, 4)]
    other = pipeline.put("fair/events/20241125-1.parquet", sessions(("I", 9, "e")))
    assert pipeline.deliver(*files, other) == []
    assert pipeline.deliver(pipeline.put(LATER.format(5), b"not looked into")) == []
    assert pipeline.sql(TABLES) == [], "a new one would hold the newest changes only"
    assert pipeline.ledger()["fair/events/20241125-1.parquet"] == ("completed", None)
    messages = [row[0] for row in pipeline.sql(HELD)]
    assert len(messages) == 3
    assert all("run firebolt-cdc reload sessions --everything" in said for said in messages)
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 0, "it waits for a decision"
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0
    assert pipeline.take(pipeline.dlq) == []
    pipeline.s3.delete_object(Bucket=pipeline.bucket, Key=PREFIX + LATER.format(5))
    command(cli.reload, "sessions", everything=True, yes=True)
    assert target(pipeline) == [[1, "ann2"], [2, "bob"], [3, "new"], [4, "new"]]
    assert [pipeline.ledger()[LATER.format(n)] for n in (3, 4)] == [("completed", None)] * 2
    assert pipeline.deliver(pipeline.put(LATER.format(6), sessions(("D", 3, None)))) == []
    assert target(pipeline) == [[1, "ann2"], [2, "bob"], [4, "new"]]


@pytest.mark.usefixtures("filled")
def test_a_target_that_is_restored_takes_what_was_held(pipeline: Pipeline, command: Command) -> None:
    pipeline.sql("ALTER TABLE sessions RENAME TO aside")
    pipeline.deliver(pipeline.put(LATER.format(3), sessions(("I", 3, "new"))))
    pipeline.sql("ALTER TABLE aside RENAME TO sessions")
    pipeline.deliver(pipeline.put(LATER.format(4), sessions(("I", 4, "new"))))
    assert target(pipeline) == [[1, "ann2"], [2, "bob"], [4, "new"]], "it goes on by itself"
    command(cli.retry, [LATER.format(3)], yes=True)
    pipeline.drain()
    assert target(pipeline) == [[1, "ann2"], [2, "bob"], [3, "new"], [4, "new"]]


@pytest.mark.usefixtures("filled")
def test_a_file_that_a_person_asks_for_makes_a_lost_target_anew(pipeline: Pipeline, command: Command) -> None:
    pipeline.sql("DROP TABLE sessions")
    events = [pipeline.put(LATER.format(n), sessions(("I", n, "new"))) for n in (3, 4)]
    pipeline.deliver(*events)
    command(cli.retry, [LATER.format(4)], yes=True)
    pipeline.take(pipeline.queue)
    pipeline.deliver(*events)
    assert target(pipeline) == [[4, "new"]]
    assert pipeline.ledger()[LATER.format(3)] == ("pending", "held")


def test_a_target_into_which_nothing_was_loaded_is_made(pipeline: Pipeline, command: Command) -> None:
    """What was settled is not in the target because of a load."""
    pipeline.deliver(pipeline.put(CHANGES, b"junk"))
    command(cli.settle, [CHANGES], reason="unwanted", yes=True)
    pipeline.deliver(pipeline.put(LATER.format(3), sessions(("I", 3, "new"))))
    assert target(pipeline) == [[3, "new"]]


def test_the_lost_target_of_an_unlisted_table_is_not_made_anew_by_itself(pipeline: Pipeline, command: Command) -> None:
    name = "fair/new/20241124-{}.parquet"
    pipeline.configure(unlisted_tables="append")
    pipeline.deliver(pipeline.put(name.format(1), sessions(("I", 1, "a"))))
    pipeline.sql("DROP TABLE fair__new")
    pipeline.deliver(
        pipeline.put(name.format(2), sessions(("I", 2, "b"))),
        pipeline.put("fair/newer/20241124-1.parquet", sessions(("I", 1, "a"))),
    )
    assert pipeline.sql(TABLES) == []
    assert pipeline.sql('SELECT "sid" FROM fair__newer') == [[1]], "another table under the shared turn"
    [[said]] = pipeline.sql(HELD)
    assert "list the table in `tables` and apply, then run firebolt-cdc reload TABLE --everything" in said
    pipeline.configure(tables=pipeline.config["tables"] | {"fair/new": table_config("fair__new")})
    pipeline.migrate()
    command(cli.reload, "fair/new", everything=True, yes=True)
    assert pipeline.sql('SELECT "sid" FROM fair__new ORDER BY 1') == [[1], [2]]
    assert pipeline.ledger()[name.format(2)] == ("completed", None)
