"""A fault at each statement of a load (claim, load, complete); then what everybody does: the event is delivered again,
the lease runs out, the sweep runs. The table must be exactly right each time.

The checks after each step are those of `wire.world`: no row twice, none missing, `completed` only when applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from faults import Fault
from firebolt_cdc.engine import Transaction
from firebolt_cdc.errors import ConflictError, TransientError, TurnLostError
from wire.knockouts import without_applied, without_guard, without_turn
from wire.table import FAMILIES, fault_at_each_statement, statements
from wire.world import HARD, LOG, SOFT, Lab, Violation, World

Make = Callable[..., World]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def make(lab: Lab) -> Iterator[Make]:
    made: list[World] = []

    def world(**options: object) -> World:
        made.append(World(lab, **options))
        return made[-1]

    yield world
    for one in made:
        one.close()


@pytest.fixture
def world(make: Make) -> World:
    return make()


def test_a_load_is_these_statements(world: World) -> None:
    """The table below is driven by this list; more than one commit for claim and load each would be a mistake."""
    texts = statements(world, LOG)
    assert [t for t in texts if t == "BEGIN"] == ["BEGIN", "BEGIN"]
    assert [t for t in texts if t == "COMMIT"] == ["COMMIT", "COMMIT"]
    assert len(texts) < 22


@pytest.mark.parametrize("target", [LOG, HARD])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fault_at_any_statement_of_a_load_neither_loses_nor_doubles(make: Make, family: str, target: str) -> None:
    """Every statement meets one fault of every family, another kind from place to place.

    `python -m wire --table` has each kind of the families at each statement that it fits: ABORT needs a transaction.
    """
    kinds = FAMILIES[family]
    world = make(conflict_status=409)
    fault_at_each_statement(world, target, lambda place: kinds[place % len(kinds) :] + kinds[: place % len(kinds)])
    assert len(world.met) == len(world.applied()) - 2, "each file but the first two met a fault"


def test_a_worker_that_dies_at_any_statement_of_a_load_loses_nothing(world: World) -> None:
    places = len(statements(world, LOG))
    for place in range(1, places):
        world.put((LOG, HARD)[place % 2], [("I", place, f"at {place}"), ("D", place + 1, None)])
        job = world.deliver([world.messages.pop()], die_at=2 * place + place % 3 % 2)
        assert job.state == "killed"
        world.wait(200)
    world.finish()
    assert {status for _, status in world.stored("cdc_processed_files", "file_key", "status")} == {"completed"}


@pytest.mark.parametrize("place", [12, 20, 28, 36])
def test_a_zombie_that_wakes_after_its_turn_was_taken_over_writes_nothing(world: World, place: int) -> None:
    statements(world, LOG)
    world.put(LOG, [("I", 5, "once")])
    event = world.messages.pop()
    zombie = world.deliver([event], pause_at=place)
    assert world.paused == [zombie]
    world.settle()
    applied = world.applied()
    world.resume(zombie)
    assert world.applied() == applied
    world.finish()
    assert list(world.applied().values()) == [1, 1, 1]


def test_a_zombie_meets_another_worker_in_the_middle_of_its_load(world: World) -> None:
    """Both have claimed the file, one after the other's lease ran out; both load at the same time."""
    statements(world, LOG)
    world.put(LOG, [("I", 5, "once")])
    event = world.messages.pop()
    first = world.deliver([event], pause_at=30)
    world.wait(100)
    second = world.deliver([event], pause_at=30)
    assert len(world.paused) == 2
    world.resume(first, pause_in=6)
    world.resume(second)
    if first in world.paused:
        world.resume(first)
    assert list(world.applied().values()) == [1, 1, 1]
    world.finish()


def test_a_batch_over_three_tables_survives_a_fault_in_each(world: World) -> None:
    for target in (HARD, SOFT, LOG):
        for number in range(3):
            world.put(target, [("I", number, target), ("D", number + 1, None)])
        world.arm((f'MERGE INTO "{target}"', f'INSERT INTO "{target}"'), Fault.RESTART)
    batch, world.messages = world.messages, []
    world.deliver(batch)
    assert world.proxy.injected == {Fault.RESTART: 3}
    world.finish()
    assert len(world.applied()) == 9


# ------------------------------------------------------------ controls: without a mechanism, the same tests are red


def zombies_load(world: World) -> None:
    """Two workers that believe in their turns, inside their loads at the same time."""
    statements(world, LOG)
    world.wait(100)
    world.put(LOG, [("I", 5, "once")])
    event = world.messages.pop()
    first = world.deliver([event], pause_at='INSERT INTO "log"')
    world.wait(100)
    second = world.deliver([event], pause_at='INSERT INTO "log"')
    for job in (first, second):
        world.resume(job)


def a_commit_acts_late(world: World) -> None:
    """The answer to COMMIT is lost and the engine commits only after the worker has looked; the event comes again."""
    statements(world, LOG)
    world.wait(100)
    world.put(LOG, [("I", 5, "once")])
    event = world.messages.pop()
    world.proxy.late_by = 3
    commits = iter(range(1, 100))
    world.proxy.decide = lambda call: Fault.LATE if call.text == "COMMIT" and next(commits) == 2 else None
    world.deliver([event])
    world.deliver([event])


def the_transaction_gets_lost(world: World) -> None:
    """The session is reset in the middle of a load, so that the rest would run outside any transaction."""
    statements(world, LOG)
    for place in range(9, 18):
        world.wait(100)
        world.put(LOG, [("I", place, "once")])
        world.arm(place, Fault.RESET_SESSION)
        world.deliver([world.messages.pop()])
        world.arms.clear()


@pytest.mark.parametrize("scene", [zombies_load, a_commit_acts_late, the_transaction_gets_lost])
def test_the_scenes_of_the_controls_are_green_with_all_mechanisms(make: Make, scene: Callable[[World], None]) -> None:
    world = make()
    scene(world)
    world.finish()


def test_without_the_write_of_the_turn_two_loads_commit(make: Make) -> None:
    with pytest.raises(Violation, match="twice in cdc_applied"):
        zombies_load(make(rewrite=without_turn))


def test_without_the_look_at_cdc_applied_a_late_commit_doubles(make: Make) -> None:
    with pytest.raises(Violation, match="twice in cdc_applied"):
        a_commit_acts_late(make(rewrite=without_applied))


def test_without_guard_and_single_transaction_a_lost_session_leaves_half(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transaction, "_require_same", lambda *_: None)
    with pytest.raises(Violation, match=r"too much|missing"):
        the_transaction_gets_lost(make(rewrite=without_guard))


def test_the_guard_alone_holds_when_the_sdks_loss_is_not_noticed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two walls: with the check of the transaction's id gone, statements outside it still write nothing."""
    monkeypatch.setattr(Transaction, "_require_same", lambda *_: None)
    world = make()
    the_transaction_gets_lost(world)
    world.finish()


def test_classes_of_the_errors_that_end_a_load() -> None:
    """A lost turn is a conflict, so that the file waits and is not counted as failed."""
    assert issubclass(TurnLostError, ConflictError)
    assert not issubclass(TurnLostError, TransientError)
