"""A reload of a table by DMS: held, then carried out as a new generation, swapped in at once."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from firebolt_cdc.errors import PermanentError, TransientError
from firebolt_cdc.plan import NothingToReloadError, Plan
from firebolt_cdc.reload import Reload
from protocol.reloading import CHANGE, LOAD, carry_out, full, planned, target
from support import Pipeline, parquet, sessions, table_config


def test_a_reload_is_held_and_then_swapped_in(pipeline: Pipeline, reloaded: dict[str, dict[str, Any]]) -> None:
    assert target(pipeline) == [[1, "ann2"], [2, "bob"], [3, "cy"], [5, "eve2"]], "the old generation goes on"
    [held] = pipeline.sql(
        "SELECT status, error_class, error_message FROM cdc_processed_files WHERE error_class = 'held'"
    )
    assert held[:2] == ["pending", "held"]
    assert "firebolt-cdc reload sessions" in held[2]

    plan = planned(pipeline, "fair/sessions")
    assert ([i.file.file_key for i in plan.full], [i.file.file_key for i in plan.changes]) == (
        [LOAD.format(1)],
        [CHANGE.format("120000")],
    )
    assert (plan.current, plan.generation, plan.resumes) == (1, 2, False)
    assert [i.file.file_key for i in plan.superseded] == [CHANGE.format("100000")]

    result = carry_out(pipeline)
    assert (result.generation, result.files, result.superseded) == (2, 2, 1)
    assert target(pipeline) == [[1, "ann3"], [5, "eve2"]], "what the source no longer has is gone"
    assert {s for s, _ in pipeline.ledger().values()} == {"completed"}
    assert pipeline.sql("SELECT generation, holder FROM cdc_tables WHERE turn = 'sessions'") == [[2, None]]
    assert pipeline.sql("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'sessions__%'") == []


def test_after_a_reload_nothing_of_the_old_generation_comes_back(
    pipeline: Pipeline, reloaded: dict[str, dict[str, Any]]
) -> None:
    late = pipeline.put(CHANGE.format("123000"), sessions(("I", 6, "flo")))
    carry_out(pipeline)
    assert target(pipeline) == [[1, "ann3"], [5, "eve2"], [6, "flo"]], "a change that nobody had announced is there too"
    for event in (*reloaded.values(), late):
        assert pipeline.deliver(event, event) == []
    assert target(pipeline) == [[1, "ann3"], [5, "eve2"], [6, "flo"]]
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 0
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_processed_files") == 5
    pipeline.deliver(pipeline.put(CHANGE.format("130000"), sessions(("U", 6, "flo2"))))
    assert target(pipeline) == [[1, "ann3"], [5, "eve2"], [6, "flo2"]]


def test_a_change_older_than_the_reload_that_comes_after_it_is_superseded(pipeline: Pipeline) -> None:
    old = pipeline.put(CHANGE.format("100000"), sessions(("I", 9, "stale"), ("U", 1, "stale")))
    pipeline.later()
    pipeline.put(LOAD.format(1), full((1, "ann")))
    carry_out(pipeline, same_task=True)
    assert pipeline.deliver(old) == []
    assert target(pipeline) == [[1, "ann"]]
    assert pipeline.ledger()[CHANGE.format("100000")][0] == "skipped"
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0


def test_a_reload_under_new_names_is_recognised(pipeline: Pipeline) -> None:
    first = pipeline.put(LOAD.format(1), full((1, "ann"), (2, "bob")))
    pipeline.later()
    change = pipeline.put(CHANGE.format("100000"), sessions(("U", 1, "ann2")))
    pipeline.later()
    second = pipeline.put(LOAD.format(2), full((1, "ann3")))
    assert pipeline.deliver(first) == []
    assert pipeline.deliver(second) == [], "also while the change has not been loaded yet"
    assert pipeline.ledger()[LOAD.format(2)] == ("pending", "held")
    assert pipeline.deliver(change) == []
    carry_out(pipeline, drop_older_full_load=True)
    assert target(pipeline) == [[1, "ann3"]]


def test_the_files_of_one_full_load_are_no_reload_whenever_their_events_come(pipeline: Pipeline) -> None:
    first, second = pipeline.put(LOAD.format(1), full((1, "ann"))), pipeline.put(LOAD.format(2), full((2, "bob")))
    pipeline.later()
    change = pipeline.put(CHANGE.format("100000"), sessions(("U", 1, "ann2")))
    for event in (change, second, first):
        assert pipeline.deliver(event) == []
    assert target(pipeline) == [[1, "ann2"], [2, "bob"]]


def test_changes_of_a_table_whose_folder_lies_in_anothers_do_not_hold_its_full_load(pipeline: Pipeline) -> None:
    outer = table_config("outer", ["sid"], files={"path": "fair/"})
    inner = table_config("inner", ["sid"], files={"path": "fair/inner/"})
    pipeline.configure(tables={"fair/outer": outer, "fair/inner": inner})
    pipeline.migrate()
    assert pipeline.deliver(pipeline.put("fair/inner/20241124-1.parquet", sessions(("I", 1, "a")))) == []
    pipeline.later()
    assert pipeline.deliver(pipeline.put("fair/LOAD00000001.parquet", full((1, "a")))) == []
    assert pipeline.ledger()["fair/LOAD00000001.parquet"] == ("completed", None)
    pipeline.put("fair/20241124-1.parquet", sessions(("U", 1, "b")))
    pipeline.later()
    assert pipeline.deliver(pipeline.put("fair/LOAD00000002.parquet", full((1, "c")))) == []
    assert pipeline.ledger()["fair/LOAD00000002.parquet"] == ("pending", "held"), "its own do"


def test_nothing_to_reload_from(pipeline: Pipeline) -> None:
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "ann"))))
    with pytest.raises(PermanentError, match="nothing to reload from; --everything"):
        planned(pipeline, "sessions")
    with pytest.raises(PermanentError, match="list it first"):
        planned(pipeline, "fair/unlisted")


def test_full_loads_held_by_a_change_that_is_gone_are_named_with_their_way_out(pipeline: Pipeline) -> None:
    change = pipeline.put(CHANGE.format("100000"), sessions(("I", 9, "z")))
    pipeline.later()
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "ann"))))
    assert pipeline.ledger() == {LOAD.format(1): ("pending", "held")}
    pipeline.s3.delete_object(Bucket=pipeline.bucket, Key=change["detail"]["object"]["key"])
    with pytest.raises(
        PermanentError, match=f"nothing to reload from.* firebolt-cdc retry {LOAD.format(1)} --yes loads"
    ):
        planned(pipeline, "sessions")


def test_everything_begins_again_and_takes_another_order(pipeline: Pipeline) -> None:
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "ann"), (2, "bob"))))
    pipeline.deliver(pipeline.put(CHANGE.format("100000"), sessions(("D", 2, None))))
    pipeline.sql('DELETE FROM sessions WHERE "sid" = 1')
    result = carry_out(pipeline, everything=True)
    assert (result.files, result.superseded) == (2, 0)
    assert target(pipeline) == [[1, "ann"]]


def test_everything_that_was_applied_must_still_lie_in_s3(pipeline: Pipeline) -> None:
    """A lifecycle rule of the bucket has removed the full load: nothing else has its rows."""
    old = pipeline.put(LOAD.format(1), full((1, "ann"), (2, "bob")))
    pipeline.later()
    pipeline.deliver(old, pipeline.put(CHANGE.format("100000"), sessions(("I", 3, "cy"))))
    pipeline.s3.delete_object(Bucket=pipeline.bucket, Key=old["detail"]["object"]["key"])
    with pytest.raises(PermanentError, match=r"1 files were applied and are no longer in S3 .*LOAD0000.*allow-gone"):
        carry_out(pipeline, everything=True)
    assert target(pipeline) == [[1, "ann"], [2, "bob"], [3, "cy"]]
    carry_out(pipeline, everything=True, allow_gone=True)
    assert target(pipeline) == [[3, "cy"]]


def test_what_was_applied_is_reloaded_though_it_is_older_than_start_after(pipeline: Pipeline) -> None:
    pipeline.put(LOAD.format(2), full((9, "of another pipeline")))
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "ann"))))
    assert pipeline.s3_time is not None
    pipeline.configure(source=pipeline.config["source"] | {"start_after": pipeline.s3_time.isoformat()})
    pipeline.later()
    pipeline.deliver(pipeline.put(CHANGE.format("100000"), sessions(("I", 3, "cy"))))
    assert carry_out(pipeline, everything=True).files == 2
    assert target(pipeline) == [[1, "ann"], [3, "cy"]]


def test_a_target_that_was_dropped_is_made_anew_with_the_types_of_the_files(
    pipeline: Pipeline, reloaded: dict[str, dict[str, Any]]
) -> None:
    pipeline.sql("ALTER TABLE sessions RENAME TO sessions_before")
    carry_out(pipeline)
    assert target(pipeline) == [[1, "ann3"], [5, "eve2"]]
    columns = dict(
        pipeline.sql("SELECT column_name, is_nullable FROM information_schema.columns WHERE table_name = 'sessions'")
    )
    assert columns["sid"] == "NO"


@pytest.mark.parametrize("again", [1, 3])
def test_a_new_full_load_of_a_target_that_is_lost_is_reloaded_without_everything(
    pipeline: Pipeline, again: int
) -> None:
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "ann"))))
    pipeline.deliver(pipeline.put(CHANGE.format("100000"), sessions(("I", 2, "bob"))))
    pipeline.later()
    pipeline.sql("ALTER TABLE sessions RENAME TO sessions_before")
    pipeline.deliver(pipeline.put(LOAD.format(again), full((1, "ann3"))))
    pipeline.later()
    pipeline.deliver(pipeline.put(CHANGE.format("110000"), sessions(("I", 3, "cy"))))
    said = dict(pipeline.sql("SELECT file_key, error_message FROM cdc_processed_files WHERE error_class = 'held'"))
    assert set(said) == {LOAD.format(again), CHANGE.format("110000")}
    assert "run firebolt-cdc reload sessions. " in said[LOAD.format(again)]
    assert "without --everything where DMS has loaded the table anew" in said[CHANGE.format("110000")]
    with pytest.raises(PermanentError, match="reload without --everything"):
        carry_out(pipeline, everything=True)
    carry_out(pipeline, drop_older_full_load=again != 1)
    assert target(pipeline) == [[1, "ann3"], [3, "cy"]]
    assert pipeline.sql("SELECT COUNT(*) FROM cdc_processed_files WHERE status <> 'completed'") == [[0]]


def test_columns_that_the_files_lack_get_their_defaults_in_a_reload_too(
    pipeline: Pipeline, reloaded: dict[str, dict[str, Any]]
) -> None:
    """A full load leaves out what its file lacks, so that defaults hold; the table that a reload fills has the same."""
    pipeline.sql("ALTER TABLE sessions ADD COLUMN \"site\" TEXT NOT NULL DEFAULT 'o''hare'")
    carry_out(pipeline)
    found = pipeline.sql('SELECT "sid", "user", "site" FROM sessions ORDER BY "sid"')
    assert found == [[1, "ann3", "o'hare"], [5, "eve2", "o'hare"]]


def test_files_of_a_reload_meet_the_columns_that_earlier_ones_add(
    pipeline: Pipeline, reloaded: dict[str, dict[str, Any]]
) -> None:
    for number, (name, kind) in enumerate((("n", pa.int32()), ("N", pa.int64()))):
        row = {"Op": ["I"], "sid": [6 + number], "user": ["x"], name: pa.array([number], kind)}
        pipeline.put(CHANGE.format(f"13000{number}"), parquet(row))
    carry_out(pipeline)
    assert pipeline.sql('SELECT "sid", "n" FROM sessions WHERE "sid" > 5 ORDER BY "sid"') == [[6, 0], [7, 1]]
    named = (
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'sessions' AND LOWER(column_name) = 'n'"
    )
    assert pipeline.sql(named) == [["n"]]


def test_a_dropped_target_takes_files_whose_new_column_has_types_that_fit(pipeline: Pipeline) -> None:
    pipeline.put(LOAD.format(1), full((1, "ann")))
    for number, kind in enumerate((pa.int64(), pa.int32())):
        columns = {"Op": ["I"], "sid": [number + 2], "n": pa.array([number], kind)}
        pipeline.put(CHANGE.format(number), parquet(columns))
    carry_out(pipeline, everything=True)
    assert pipeline.sql('SELECT "sid", "n" FROM sessions ORDER BY "sid"') == [[1, None], [2, 0], [3, 1]]


def test_an_append_table_is_reloaded(pipeline: Pipeline) -> None:
    pipeline.configure(tables={"fair/sessions": table_config("sessions")})
    pipeline.migrate()
    events = [
        pipeline.put(LOAD.format(1), full((1, "ann"))),
        pipeline.put(CHANGE.format("1"), sessions(("I", 2, "bob"))),
    ]
    pipeline.deliver(*events)
    pipeline.later()
    pipeline.put(LOAD.format(1), full((1, "ann"), (2, "bob")))
    pipeline.put(CHANGE.format("2"), sessions(("D", 1, None)))
    carry_out(pipeline)
    assert pipeline.sql('SELECT "sid", "_cdc_op" FROM sessions ORDER BY "sid", "_cdc_op"') == [
        [1, "D"],
        [1, "I"],
        [2, "I"],
    ]


def test_a_bad_file_stops_the_reload_and_nothing_is_swapped(
    pipeline: Pipeline, reloaded: dict[str, dict[str, Any]]
) -> None:
    before = target(pipeline)
    pipeline.put(CHANGE.format("123000"), b"no Parquet")
    with pytest.raises(PermanentError, match=r"20241124-123000.*not a readable Parquet file"):
        carry_out(pipeline)
    assert target(pipeline) == before
    assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_tables WHERE holder IS NOT NULL") == 0
    pipeline.deliver(pipeline.put(CHANGE.format("123000"), b"still no Parquet"))
    assert pipeline.ledger()[CHANGE.format("123000")] == ("failed", "permanent")
    plan = planned(pipeline, "sessions")
    assert (plan.resumes, list(plan.left_out)) == (True, [CHANGE.format("123000")])
    carry_out(pipeline)
    assert target(pipeline) == [[1, "ann3"], [5, "eve2"]]
    assert pipeline.ledger()[CHANGE.format("123000")] == ("failed", "permanent"), "still named"


def test_a_full_load_that_only_the_engine_refuses_is_named_by_its_row(
    pipeline: Pipeline, reloaded: dict[str, dict[str, Any]]
) -> None:
    before = target(pipeline)
    pipeline.put(LOAD.format(2), full((8, "h"), (9, "\0")))
    with pytest.raises(PermanentError, match=r"LOAD00000002.*'user'.*row 2 holds a character zero.*correct the value"):
        carry_out(pipeline)
    assert target(pipeline) == before


def test_changes_that_are_gone_from_s3_forbid_the_swap(pipeline: Pipeline, reloaded: dict[str, dict[str, Any]]) -> None:
    before = target(pipeline)
    pipeline.s3.delete_object(Bucket=pipeline.bucket, Key=reloaded["change 2"]["detail"]["object"]["key"])
    with pytest.raises(
        PermanentError, match=r"1 change files since .* no longer in S3 .*20241124-120000.*--allow-gone"
    ):
        carry_out(pipeline)
    assert target(pipeline) == before
    carry_out(pipeline, allow_gone=True)
    assert target(pipeline) == [[1, "ann3"], [4, "dan2"], [5, "eve"]]


def test_a_swap_of_which_nothing_was_heard_is_found_done(
    pipeline: Pipeline, reloaded: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its COMMIT nor the look after it was answered; the turn is given back by then."""
    swap_once, swapped, unanswered = Reload._swap_once, Reload._swapped, []

    def swap(self: Reload, plan: Plan, *, allow_gone: bool) -> None:
        swap_once(self, plan, allow_gone=allow_gone)
        unanswered.append("the look")
        raise TransientError("no answer")

    def look(self: Reload, plan: Plan) -> bool:
        if unanswered:
            raise TransientError(f"no answer to {unanswered.pop()}")
        return swapped(self, plan)

    monkeypatch.setattr(Reload, "_swap_once", swap)
    monkeypatch.setattr(Reload, "_swapped", look)
    assert carry_out(pipeline).generation == 2
    assert target(pipeline) == [[1, "ann3"], [5, "eve2"]]


def test_a_second_reload_gives_up_the_first(pipeline: Pipeline, reloaded: dict[str, dict[str, Any]]) -> None:
    pipeline.put(CHANGE.format("123000"), b"no Parquet")
    with pytest.raises(PermanentError):
        carry_out(pipeline)
    pipeline.later()
    pipeline.put(LOAD.format(1), full((7, "gus")))
    assert carry_out(pipeline).generation == 3
    assert target(pipeline) == [[7, "gus"]]
    assert pipeline.sql("SELECT generation, status FROM cdc_reloads ORDER BY generation") == [
        [2, "abandoned"],
        [3, "done"],
    ]
    assert pipeline.sql("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'sessions__%'") == []
    assert ("pending", "held") not in pipeline.ledger().values(), "the overwritten full load waits for nobody"


def test_the_table_is_not_loaded_meanwhile(
    pipeline: Pipeline, reloaded: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    swap = Reload._swap

    def watched(self: Reload, plan: Plan, **how: Any) -> int:
        event = pipeline.put(CHANGE.format("140000"), sessions(("I", 8, "hal")))
        assert pipeline.deliver(event) == []
        seen.append(target(pipeline))
        return swap(self, plan, **how)

    monkeypatch.setattr(Reload, "_swap", watched)
    carry_out(pipeline)
    assert seen == [[[1, "ann2"], [2, "bob"], [3, "cy"], [5, "eve2"]]], "readers see the old rows until the swap"
    assert target(pipeline) == [[1, "ann3"], [5, "eve2"]]
    pipeline.drain()
    assert target(pipeline) == [[1, "ann3"], [5, "eve2"], [8, "hal"]]


def test_files_that_are_merely_not_loaded_yet_are_no_reload(pipeline: Pipeline) -> None:
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "ann"))))
    pipeline.put(LOAD.format(2), full((2, "bob")))
    with pytest.raises(NothingToReloadError):
        planned(pipeline)


def test_a_reload_may_be_carried_out_by_itself(pipeline: Pipeline, reloaded: dict[str, dict[str, Any]]) -> None:
    auto = {"fair/sessions": table_config("sessions", ["sid"], reload="auto")}
    assert pipeline.clean("reload")["reload"] == {"reloaded": 0, "still_written": 0, "undecided": 0}, "it is held"
    pipeline.configure(tables=auto, cleanup={"reload_quiet_seconds": 900})
    assert pipeline.clean("reload")["reload"] == {"reloaded": 0, "still_written": 1, "undecided": 0}
    pipeline.configure(cleanup={"reload_quiet_seconds": 0})
    assert pipeline.clean("reload")["reload"] == {"reloaded": 1, "still_written": 0, "undecided": 0}
    assert target(pipeline) == [[1, "ann3"], [5, "eve2"]]
    assert pipeline.clean("reload")["reload"] == {"reloaded": 0, "still_written": 0, "undecided": 0}


def test_one_failing_reload_is_told_and_spares_the_others(
    pipeline: Pipeline, reloaded: dict[str, dict[str, Any]]
) -> None:
    both = {f"fair/{name}": table_config(name, ["sid"], reload="auto") for name in ("aborted", "sessions")}
    pipeline.configure(tables=both, cleanup={"reload_quiet_seconds": 0})
    pipeline.migrate()
    pipeline.deliver(pipeline.put("fair/aborted/LOAD00000001.parquet", full((1, "a"))))
    pipeline.deliver(pipeline.put("fair/aborted/20241124-1.parquet", sessions(("I", 2, "a"))))
    pipeline.later()
    pipeline.deliver(pipeline.put("fair/aborted/LOAD00000001.parquet", full((1, "b"))))
    pipeline.put("fair/aborted/20241124-2.parquet", b"no Parquet")
    with pytest.raises(PermanentError, match=r"fair/aborted/20241124-2\.parquet: not a readable Parquet file"):
        pipeline.clean("reload")
    assert target(pipeline) == [[1, "ann3"], [5, "eve2"]]
