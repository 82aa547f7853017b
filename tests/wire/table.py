"""One fault at each single statement of a load: claim, load, complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from faults import Fault
from wire.world import LEASE_SECONDS, World, fits

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


def fault_at_each_statement(world: World, target: str, kinds: Callable[[int], Sequence[Fault]]) -> None:
    """One file per statement of a load, with a fault at that very statement: the first of its `kinds` that fits.

    Where none fits, a later statement has it. Afterwards everything is delivered again.

    Raises:
        Violation: something was lost, doubled, or left unfinished.
    """
    texts = statements(world, target)
    for place, text in enumerate(texts, 1):
        world.wait(LEASE_SECONDS + 5)  # or the file would meet the turn of one that a fault has ended
        world.put(target, [("I", place, f"at {place}"), ("U", place, f"again {place}"), ("D", place + 1, None)])
        number = len(world.proxy.calls) + place
        world.arm(place, *kinds(place))
        event = world.messages.pop()
        world.deliver([event])
        call = world.proxy.calls[number - 1]
        assert call.text.split()[:3] == text.split()[:3], f"statement {place} of a load: {call.text}"
        assert (number in world.met) == any(fits(kind, call) for kind in kinds(place)), f"at {place}: {call.text}"
        if place % 4 == 0:
            world.deliver([event])
        world.arms.clear()
    world.messages += world.events
    world.finish()
    rows = world.stored("cdc_processed_files", "file_key", "status")
    assert len(rows) == len(texts) + 2, "one ledger row per file version"
    assert {status for _, status in rows} == {"completed"}
