"""Full loads of which an operator decides whether they replace what is there, or are merged with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from firebolt_cdc import cli, loader
from firebolt_cdc.apply import Applier
from firebolt_cdc.errors import FailureClass, TransientError
from firebolt_cdc.plan import NothingToReloadError, UndecidedError
from protocol.reloading import CHANGE, LOAD, carry_out, full, planned, target
from support import Command, Pipeline, sessions

UNDECIDED = {"reloaded": 0, "still_written": 0, "undecided": 1}


def test_changes_captured_while_another_task_reads_the_first_full_load_are_not_lost(
    automatic: Pipeline, command: Command
) -> None:
    """A full-load task has read 1 to 3; before its files come, the CDC task writes what was committed since."""
    pipeline = automatic
    pipeline.deliver(pipeline.put(CHANGE.format("1"), sessions(("U", 1, "ann2"), ("D", 2, None), ("I", 4, "dan"))))
    late = pipeline.put(CHANGE.format("2"), sessions(("I", 5, "eve")))
    pipeline.later()
    first, second = (pipeline.put(LOAD.format(n + 1), full(*rows)) for n, rows in enumerate(
        ([(1, "ann"), (2, "bob")], [(3, "cy")])
    ))  # fmt: skip
    pipeline.deliver(first, second)
    for status, message in pipeline.sql("SELECT status, error_message FROM cdc_processed_files WHERE kind = 'full'"):
        assert status == "pending"
        assert "firebolt-cdc retry --class held --table sessions --yes" in message
        assert "firebolt-cdc reload sessions --same-task" in message
        assert not message.endswith("…")

    assert pipeline.clean("reload")["reload"] == UNDECIDED
    told = command(cli.reload, "sessions")["would_reload"]
    assert (told["superseded_changes_applied"], told["superseded_changes_not_applied"]) == (1, 1)
    assert [(c["file"], c["applied"]) for c in told["newest_superseded_changes"]] == [
        (CHANGE.format("2"), False),
        (CHANGE.format("1"), True),
    ]
    assert told["superseded_changes_from"] <= told["superseded_changes_to"] < told["starts"]
    assert "2 change files are older" in told["undecided"]
    with pytest.raises(UndecidedError, match=r"retry .* loads it beneath the changes, and nothing is lost"):
        command(cli.reload, "sessions", max_duration="2m", yes=True)

    command(cli.retry, [LOAD.format(1)], yes=True)
    pipeline.drain()
    assert pipeline.ledger()[LOAD.format(1)] == ("completed", None)
    assert pipeline.clean("reload")["reload"] == UNDECIDED, "nor is the rest of it another full load"
    command(cli.retry, table="sessions", error_class=FailureClass.HELD, yes=True)
    pipeline.drain()
    assert pipeline.clean("reload")["reload"] == {"reloaded": 0, "still_written": 0, "undecided": 0}
    pipeline.deliver(late)
    assert target(pipeline) == [[1, "ann2"], [3, "cy"], [4, "dan"], [5, "eve"]]


def test_a_full_load_that_was_settled_by_hand_is_none_that_is_loaded(pipeline: Pipeline, command: Command) -> None:
    pipeline.deliver(pipeline.put(CHANGE.format("1"), sessions(("I", 1, "ann"))))
    pipeline.later()
    pipeline.deliver(pipeline.put(LOAD.format(1), full((2, "bob"))))
    command(cli.settle, [LOAD.format(1)], reason="its rows are there", yes=True)
    pipeline.deliver(pipeline.put(CHANGE.format("2"), sessions(("I", 3, "cy"))))
    pipeline.later()
    pipeline.deliver(pipeline.put(LOAD.format(2), full((4, "dan"))))
    assert "--same-task" in pipeline.sql.value("SELECT error_message FROM cdc_processed_files WHERE status = 'pending'")
    plan = planned(pipeline)
    assert (plan.first, [item.file.file_key for item in plan.older_full]) == (True, [LOAD.format(1)])


@pytest.mark.parametrize("how", [{"same_task": True}, {"everything": True}], ids=["the same task", "all files"])
def test_a_full_load_before_which_none_was_loaded_is_taken_as_the_operator_says(
    pipeline: Pipeline, how: dict[str, bool]
) -> None:
    pipeline.deliver(pipeline.put(CHANGE.format("1"), sessions(("U", 1, "ann2"), ("I", 4, "dan"))))
    pipeline.later()
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "ann"), (3, "cy"))))
    carry_out(pipeline, **how)
    same_task = [[1, "ann"], [3, "cy"]]
    assert target(pipeline) == (same_task if "same_task" in how else [[1, "ann2"], [3, "cy"], [4, "dan"]])
    assert set(pipeline.ledger().values()) == {("completed", None)}


def test_a_dry_run_names_the_newest_changes_that_it_supersedes(
    pipeline: Pipeline, reloaded: dict[str, dict[str, Any]], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    told = command(cli.reload, "sessions")["would_reload"]
    [change] = told["newest_superseded_changes"]
    assert (change["file"], change["applied"], told["undecided"]) == (CHANGE.format("100000"), True, None)
    assert 1 <= change["seconds_before"] < 60
    cli._print_plan(planned(pipeline))
    assert str(change["seconds_before"]) in capsys.readouterr().out
    message = pipeline.sql.value("SELECT error_message FROM cdc_processed_files WHERE error_class = 'held'")
    assert "the task that wrote the changes wrote it too" in message


def test_a_full_load_that_is_still_being_written_does_not_replace_the_old_one(automatic: Pipeline) -> None:
    pipeline = automatic
    pipeline.deliver(*(pipeline.put(LOAD.format(n), full((n, "old"), (n + 4, "old"))) for n in (1, 2)))
    pipeline.later()
    pipeline.deliver(pipeline.put(CHANGE.format("1"), sessions(("I", 9, "z"))))
    pipeline.later()
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "new"))))
    pipeline.later()
    pipeline.deliver(pipeline.put(CHANGE.format("2"), sessions(("U", 2, "new2"))))
    assert pipeline.clean("reload")["reload"] == UNDECIDED
    pipeline.later()
    pipeline.deliver(pipeline.put(LOAD.format(2), full((2, "new"))))
    assert pipeline.clean("reload")["reload"]["reloaded"] == 1
    assert target(pipeline) == [[1, "new"], [2, "new2"]]


def test_the_rest_of_a_full_load_that_was_swapped_in_does_not_supersede_it(
    automatic: Pipeline, command: Command
) -> None:
    """The new full load has a file more than the old one, and a change is flushed before that comes."""
    pipeline = automatic
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "old"), (2, "old"))))
    pipeline.deliver(pipeline.put(CHANGE.format("1"), sessions(("I", 9, "z"))))
    pipeline.later()
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "new"))))
    pipeline.later()
    pipeline.deliver(pipeline.put(CHANGE.format("2"), sessions(("U", 2, "new2"))))
    assert pipeline.clean("reload")["reload"]["reloaded"] == 1
    pipeline.later()
    pipeline.deliver(pipeline.put(LOAD.format(2), full((2, "new"), (3, "new"))))
    assert pipeline.clean("reload")["reload"] == UNDECIDED
    assert pipeline.ledger()[LOAD.format(2)] == ("pending", "held")
    told = command(cli.reload, "sessions")["would_reload"]
    assert told["superseded_full_load_files"] == [LOAD.format(1)]
    assert f"would lack them: {LOAD.format(1)}" in told["undecided"]
    with pytest.raises(UndecidedError, match=r"--drop-older-full-load.*retry --class held --table sessions --yes"):
        command(cli.reload, "sessions", max_duration="2m", yes=True)
    command(cli.retry, table="sessions", error_class=FailureClass.HELD, yes=True)
    pipeline.drain()
    assert target(pipeline) == [[1, "new"], [2, "new2"], [3, "new"]]
    assert pipeline.clean("reconcile")["reconcile"]["missing"] == 0


def test_a_new_full_load_with_fewer_files_replaces_the_old_one_when_the_operator_says_so(
    automatic: Pipeline, command: Command
) -> None:
    pipeline = automatic
    pipeline.deliver(*(pipeline.put(LOAD.format(n), full((n, "old"))) for n in (1, 2)))
    pipeline.later()
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "new"))))
    assert pipeline.clean("reload")["reload"] == UNDECIDED
    assert target(pipeline) == [[1, "old"], [2, "old"]]
    command(cli.reload, "sessions", drop_older_full_load=True, max_duration="2m", yes=True)
    assert target(pipeline) == [[1, "new"]]
    assert set(pipeline.ledger().values()) == {("completed", None)}


@pytest.mark.parametrize("between", [False, True], ids=["before any change", "after a change"])
def test_a_good_file_in_place_of_one_that_had_failed_is_the_rest_of_the_full_load(
    pipeline: Pipeline, command: Command, between: bool
) -> None:
    pipeline.deliver(pipeline.put(LOAD.format(1), full((1, "ann"))), pipeline.put(LOAD.format(2), b"damaged"))
    command(cli.settle, [LOAD.format(2)], reason="DMS writes it again", yes=True)
    pipeline.later()
    if between:
        pipeline.deliver(pipeline.put(CHANGE.format("1"), sessions(("U", 2, "bob2"))))
        pipeline.later()
    good = pipeline.put(LOAD.format(2), full((2, "bob"), (3, "cy")))
    if not between:
        with pytest.raises(NothingToReloadError):
            planned(pipeline)
    pipeline.deliver(good)
    if between:
        with pytest.raises(UndecidedError, match=LOAD.format(1)):
            carry_out(pipeline)
        command(cli.retry, [LOAD.format(2)], yes=True)
        pipeline.drain()
    with pytest.raises(NothingToReloadError):
        planned(pipeline)
    assert target(pipeline) == [[1, "ann"], [2, "bob2" if between else "bob"], [3, "cy"]]


@pytest.mark.parametrize("trouble", ["an outage", "a crash", "no time"])
@pytest.mark.parametrize("names", [(1, 1), (1, 2)], ids=["written over", "under a new name"])
def test_a_held_file_that_was_retried_is_merged_whatever_the_first_try_meets(
    pipeline: Pipeline, command: Command, trouble: str, names: tuple[int, int]
) -> None:
    pipeline.deliver(pipeline.put(LOAD.format(names[0]), full((1, "ann"))))
    pipeline.deliver(pipeline.put(CHANGE.format("100000"), sessions(("I", 2, "bob"))))
    pipeline.later()
    again = pipeline.put(LOAD.format(names[1]), full((3, "cy")))
    pipeline.deliver(again)
    state = "SELECT status, error_class FROM cdc_processed_files WHERE etag = ?"
    etag = again["detail"]["object"]["etag"]
    assert pipeline.sql(state, etag) == [["pending", "held"]]
    command(cli.retry, [LOAD.format(names[1])], error_class=FailureClass.HELD, yes=True)
    pipeline.take(pipeline.queue)
    with pytest.MonkeyPatch.context() as patch:
        if trouble == "no time":
            pipeline.deliver(again, timeout_seconds=loader.START_SECONDS - 2)
        elif trouble == "an outage":
            patch.setattr(Applier, "apply", failing_with(TransientError("the engine restarts")))
            pipeline.deliver(again)
        else:
            patch.setattr(Applier, "apply", failing_with(KeyboardInterrupt()))
            patch.setattr(loader.Worker, "_release", lambda *_: None)
            with pytest.raises(KeyboardInterrupt):
                pipeline.deliver(again)
            pipeline.sql("UPDATE cdc_tables SET lease_until = CURRENT_TIMESTAMP WHERE holder IS NOT NULL")
            pipeline.clean("sweep")
    assert pipeline.sql(state, etag) != [["pending", "held"]]
    pipeline.deliver(again)
    assert pipeline.sql(state, etag) == [["completed", None]]
    assert target(pipeline) == [[1, "ann"], [2, "bob"], [3, "cy"]]
    pipeline.later()
    newer = pipeline.put(LOAD.format(names[1]), full((4, "dan")))
    pipeline.deliver(newer)
    assert pipeline.sql(state, newer["detail"]["object"]["etag"]) == [["pending", "held"]], "a decision of its own"


def failing_with(error: BaseException) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail
