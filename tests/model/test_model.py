"""The protocol keeps its promises in every history of the explored worlds; without any safeguard it does not."""

from __future__ import annotations

import pytest

from model.machine import Machine
from model.scenarios import CONTROLS, EXHAUSTIVE, RANDOM
from model.search import explore, walk


@pytest.mark.parametrize("world", EXHAUSTIVE)
def test_every_history_keeps_the_promises(world: str) -> None:
    result = explore(EXHAUSTIVE[world])
    print(f"{world}: {result.states:,} states, {result.transitions:,} steps, {result.seconds:.1f} s")
    assert result.trace is None, str(result.trace)
    assert result.states > 5_000, "the world is not as big as it should be"


@pytest.mark.parametrize("knocked_out", CONTROLS)
def test_without_a_safeguard_a_promise_breaks(knocked_out: str) -> None:
    control = CONTROLS[knocked_out]
    result = explore(control.setup, control.ignore)
    assert result.trace is not None, "the model checker does not see it"
    print(result.trace)
    assert result.trace.flaw == control.breaks


def test_random_histories_of_everything_at_once_keep_the_promises() -> None:
    machine = Machine(RANDOM)
    for n in range(1_500):
        trace = walk(machine, f"7/{n}")
        assert trace is None, f"seed 7/{n}: {trace}"


def test_a_history_is_reproduced_by_its_seed() -> None:
    control = CONTROLS["the load does not write the turn"]
    machine = Machine(control.at_random)
    hits = ((n, trace) for n in range(200) if (trace := walk(machine, f"1/{n}", control.ignore)))
    n, trace = next(hits, (0, None))
    assert trace is not None, "no random history breaks it"
    assert walk(Machine(control.at_random), f"1/{n}", control.ignore) == trace
