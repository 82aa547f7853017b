"""Reloads in virtual time: what a reload must not lose, whatever lies in S3 and wherever it stops."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from moto.s3.models import s3_backends

from faults import Fault
from firebolt_cdc import loader
from firebolt_cdc.plan import UndecidedError
from wire.world import ACCOUNT, BIRTH, HARD, LEASE_SECONDS, LOG, MODULE, RETRY_HELD, SOURCE, Change, Job, Lab, World


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def world(lab: Lab) -> Iterator[World]:
    made = World(lab)
    yield made
    made.close()


def rows(*keys: int, mark: str) -> list[Change]:
    return [("I", key, f"{mark} {key}") for key in keys]


def deliver(world: World) -> None:
    while world.messages:
        batch, world.messages = world.messages, []
        world.deliver(batch)


def begun(world: World, target: str = HARD) -> None:
    """A table with a full load of two files and a change."""
    world.put_load(target, [rows(0, 1, mark="a"), rows(2, 3, mark="a")], again=False)
    world.put(target, [("U", 0, "a changed")])
    deliver(world)


def reloaded(world: World, target: str = HARD, **how: bool) -> Job:
    job = world.reload(target, **how)
    assert job.error is None, job.trace
    return job


def values(world: World, target: str = HARD) -> dict[int, str]:
    return {row[0]: row[1] for row in world.found(target)}


def test_a_file_that_the_new_full_load_repeats_unchanged_is_part_of_it(world: World) -> None:
    begun(world)
    world.put_load(HARD, [rows(0, 1, mark="a"), rows(2, mark="b")], again=True)
    deliver(world)
    reloaded(world)
    assert values(world) == {0: "a 0", 1: "a 1", 2: "b 2"}
    world.finish()


def test_a_file_of_the_new_full_load_that_was_merged_by_retry_is_part_of_it(world: World) -> None:
    begun(world)
    first, _ = world.put_load(HARD, [rows(0, mark="b"), rows(1, mark="b")], again=True)
    deliver(world)
    world.operator(f"{RETRY_HELD} AND object_key = '{first}'")
    world.messages.append(world.events[-2])
    deliver(world)
    assert world.current[first].name in world.applied()
    assert values(world) == {0: "a changed", 1: "a 1", 2: "a 2", 3: "a 3"}
    reloaded(world)
    assert values(world) == {0: "b 0", 1: "b 1"}
    world.finish()


def test_everything_spares_what_an_earlier_reload_superseded(world: World) -> None:
    begun(world)
    world.put_load(HARD, [rows(0, mark="b")], again=True)
    world.put(HARD, [("I", 5, "b changed")])
    deliver(world)
    reloaded(world)
    reloaded(world, everything=True)
    assert values(world) == {0: "b 0", 5: "b changed"}
    world.finish()


def test_a_repeated_file_that_comes_after_the_swap_is_loaded(world: World) -> None:
    begun(world)
    first, second = sorted(world.current)[1:]
    world.put(HARD, rows(0, mark="b"), key=first)
    deliver(world)
    reloaded(world)
    world.put(HARD, rows(2, 3, mark="a"), key=second)
    deliver(world)
    assert values(world) == {0: "b 0", 2: "a 2", 3: "a 3"}
    world.finish()


def test_a_lost_answer_to_taking_the_turn_does_not_keep_the_table(world: World) -> None:
    begun(world)
    world.put_load(HARD, [rows(0, mark="b")], again=True)
    deliver(world)
    commits = [call for call in world.proxy.calls if call.text == "COMMIT"]
    world.proxy.decide = lambda call: (
        Fault.CUT_AFTER
        if call.text == "COMMIT" and sum(c.text == "COMMIT" for c in world.proxy.calls) == len(commits) + 1
        else None
    )
    world.reload(HARD, timeout=LEASE_SECONDS)
    assert world.proxy.injected == {Fault.CUT_AFTER: 1}
    assert {holder for (holder,) in world.stored("cdc_tables", "holder")} == {None}


@pytest.mark.parametrize("stays", ["a table of somebody else's", "a shadow whose reload nobody remembers"])
def test_a_shadow_name_that_is_taken_is_left_alone(world: World, stays: str) -> None:
    begun(world)
    world.put_load(HARD, [rows(0, mark="b"), rows(1, mark="b")], again=True)
    deliver(world)
    if stays == "a table of somebody else's":
        world.operator(f"CREATE TABLE {HARD}__cdc_reload_2 AS SELECT * FROM {HARD}")
    else:
        job = world.reload(HARD, pause_at="UPDATE cdc_reloads SET status = 'done'")
        world.kill(job)
        world.operator("DELETE FROM cdc_reloads")
        world.operator(f"DROP TABLE {HARD}__cdc_reload_2")
        world.wait(LEASE_SECONDS + 1)
    reloaded(world)
    assert values(world) == {0: "b 0", 1: "b 1"}
    if stays == "a table of somebody else's":
        assert len(world.stored(f"{HARD}__cdc_reload_2", "id")) == 4


def test_a_reload_that_dies_after_its_swap_leaves_nothing_behind(world: World) -> None:
    begun(world, LOG)
    world.put_load(LOG, [rows(0, mark="b")], again=True)
    deliver(world)
    world.put(LOG, rows(1, mark="c"), announced=False)
    job = world.reload(LOG, pause_at="UPDATE cdc_processed_files SET status = 'completed'")
    world.kill(job)
    assert world.generations()[LOG][0] == 2
    world.finish()


def test_a_full_load_file_that_failed_for_good_is_not_left_out(world: World) -> None:
    begun(world)
    world.put_load(HARD, [rows(0, mark="b"), rows(1, mark="b")], again=True)
    deliver(world)
    world.operator(
        "UPDATE cdc_processed_files SET status = 'failed', recorded_status = 'failed', error_class = 'permanent' "
        "WHERE error_class = 'held' AND object_key LIKE '%2.parquet'"
    )
    reloaded(world)
    assert values(world) == {0: "b 0", 1: "b 1"}


def test_a_reload_whose_note_is_deleted_meanwhile_stops(world: World) -> None:
    begun(world)
    world.put_load(HARD, [rows(0, mark="b")], again=True)
    job = world.reload(HARD, pause_at="MERGE")
    world.operator("DELETE FROM cdc_reloads")
    world.resume(job)
    assert "nothing was swapped" in str(job.error)
    reloaded(world)
    assert values(world) == {0: "b 0"}


def test_changes_from_before_start_after_make_no_reload_of_the_first_full_load(world: World) -> None:
    world.put(HARD, [("I", 9, "of another pipeline")], announced=False)
    world.wait(10)
    config = json.loads(world.lab.s3.get_object(Bucket=MODULE, Key="config.json")["Body"].read())
    config["source"]["start_after"] = (BIRTH + timedelta(seconds=5)).isoformat()
    world.lab.s3.put_object(Bucket=MODULE, Key="config.json", Body=json.dumps(config).encode())
    loader._config.cache_clear()
    world.put_load(HARD, [rows(0, mark="a")], again=False)
    deliver(world)
    assert values(world) == {0: "a 0"}
    assert "nothing to reload from" in str(world.reload(HARD).error)


def test_a_file_of_the_old_full_load_that_comes_while_a_reload_is_at_work_stops_it(world: World) -> None:
    """A multipart upload carries the time of its beginning."""
    begun(world)
    world.put_load(HARD, [rows(0, mark="b"), rows(1, mark="b")], again=True)
    began = min(version.modified for version in world.current.values() if version.full) - timedelta(seconds=1)
    job = world.reload(HARD, pause_at="MERGE")
    key = world.put(HARD, rows(5, mark="a"), full=True)
    s3_backends[ACCOUNT]["aws"].buckets[SOURCE].keys[key].last_modified = began.replace(tzinfo=None)
    world.resume(job)
    assert isinstance(job.error, UndecidedError)
    assert world.generations()[HARD][0] == 1


def test_a_full_load_that_is_still_being_written_does_not_supersede_what_is_there_of_it(world: World) -> None:
    begun(world)
    world.put_load(HARD, [rows(0, mark="b"), rows(1, mark="b"), rows(2, mark="b")], again=True, later=1)
    world.put(HARD, [("U", 1, "b changed")])
    deliver(world)
    reloaded(world)
    assert values(world) == {0: "b 0", 1: "b changed"}
    world.put(HARD, [("I", 3, "b changed")])
    world.write_all()
    deliver(world)
    assert world.clean("reload").answer["reload"] == {"reloaded": 0, "still_written": 0, "undecided": 1}
    assert isinstance(world.reload(HARD).error, UndecidedError)
    world.finish()
    assert world.count["merged as the rest, or the first"] == 1
    assert values(world) == {0: "b 0", 1: "b changed", 2: "b 2", 3: "b changed"}


@pytest.mark.parametrize("same_task", [True, False])
def test_what_may_be_the_first_full_load_ends_by_the_operators_word(world: World, same_task: bool) -> None:
    for number in range(2):
        world.put(HARD, [("I", number, "early")])
    deliver(world)
    world.put_load(HARD, [rows(0, mark="a")], again=False)
    deliver(world)
    assert world.clean("reload").answer["reload"]["undecided"] == 1
    world.finish(same_task=same_task)
    if same_task:
        assert values(world) == {0: "a 0"}
    else:
        assert values(world) == {0: "early", 1: "early"}
        assert world.count["merged as the rest, or the first"] == 1


def test_a_reloader_whose_lease_ran_out_writes_nothing_more(world: World) -> None:
    begun(world)
    world.put_load(HARD, [rows(0, mark="b"), rows(1, mark="b")], again=True)
    zombie = world.reload(HARD, pause_at="UPDATE cdc_reloads SET status = 'done'")
    world.wait(LEASE_SECONDS + 5)
    world.put(HARD, [("I", 7, "after")])
    deliver(world)
    world.resume(zombie)
    assert "conflict" in str(zombie.error).lower() or "lease ran out" in str(zombie.error)
    assert world.generations()[HARD][0] == 1
    reloaded(world)
    assert values(world) == {0: "b 0", 1: "b 1", 7: "after"}
    world.finish()


def test_a_full_load_held_by_a_change_that_is_gone_ends_by_retry(world: World) -> None:
    """As seed 5088 of the random campaign had it: the change is deleted before it is loaded."""
    world.put(HARD, [("I", 9, "early")], announced=False)
    [change] = world.current
    world.put_load(HARD, [rows(0, mark="a")], again=True)
    deliver(world)
    world.delete(change)
    world.finish()
    assert world.count["held for nothing"] == 1
    assert values(world) == {0: "a 0"}
