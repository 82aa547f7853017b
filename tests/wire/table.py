"""One fault at each single statement of a load: claim, load, complete."""

from __future__ import annotations

from collections.abc import Callable

from faults import Fault
from wire.world import HARD, LOG, World

FAMILIES: dict[str, tuple[Fault, ...]] = {
    "not acted": (
        Fault.REFUSE,
        Fault.HTTP_500,
        Fault.CUT_BEFORE,
        Fault.JUNK,
        Fault.HTTP_503,
        Fault.HTTP_400,
        Fault.HTTP_401,
        Fault.HTTP_502,
    ),
    "reply lost": (Fault.LATE, Fault.CUT_AFTER, Fault.JUNK_AFTER),
    "transaction lost": (
        Fault.RESET_SESSION,
        Fault.ABORT,
        Fault.RESTART,
        Fault.FORGET_SESSION,
        Fault.LOSE,
    ),
    "race lost": (Fault.CONFLICT, Fault.SINGLE_WRITER, Fault.HTTP_409, Fault.SWALLOW_BEGIN),
}
KINDS = tuple(kind for family in FAMILIES.values() for kind in family)


def statements(world: World, target: str) -> list[str]:
    """The statements of an undisturbed load, after a first one that made the table."""
    before = 0
    for number in range(2):
        world.put(target, [("I", number, "first"), ("D", 7, None)])
        before = len(world.proxy.calls)
        world.wait(100)
        world.deliver([world.messages.pop()])
    return [call.text for call in world.proxy.calls[before:]]


def fault_at_each_statement(world: World, kind: Callable[[int], Fault]) -> None:
    """One file per statement, loaded with a fault at that statement; afterwards everything is delivered again.

    Raises:
        Violation: something was lost, doubled, or left unfinished.
    """
    places = len(statements(world, LOG))
    for place in range(1, places + 1):
        target = (LOG, HARD)[place % 2]
        world.put(target, [("I", place, f"at {place}"), ("U", place, f"again {place}"), ("D", place + 1, None)])
        world.arm(place, kind(place))
        event = world.messages.pop()
        world.deliver([event])
        if place % 4 == 0:
            world.deliver([event])
        world.arms.clear()
    assert sum(world.proxy.injected.values()) >= places // 3, "the faults did happen (BEGIN comes only twice)"
    world.messages += world.events
    world.finish()
    rows = world.stored("cdc_processed_files", "file_key", "status")
    assert len(rows) == places + 2, "one ledger row per file version"
    assert {status for _, status in rows} == {"completed"}
