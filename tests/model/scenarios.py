"""The worlds that are explored, and the controls: knock-outs that must be found violating."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from model.machine import MISMATCH, TWICE, TWO_ROWS, Setup

EXHAUSTIVE = {
    "two workers, any faults": Setup(count_tries=True),
    "two workers, a shared turn, conflicts per row, any faults": Setup(shared_turn=True, tablets=False),
    "two workers, an operator and a purge, any faults": Setup(operator=True, purge=True),
    "two workers, the sweep step by step, two faults": Setup(sweep=True, faults=2),
    "three workers, two faults": Setup(workers=3, deliveries=3, faults=2),
}
"""Explored by `pytest`, in about a minute."""

DEEP = {
    "two workers, the sweep step by step, any faults": Setup(sweep=True),
    "two workers, sweep, operator, two faults": Setup(sweep=True, operator=True, purge=True, faults=2),
    "three workers, three faults": Setup(workers=3, deliveries=3, faults=3),
    "two workers, two files, a fault": Setup(files=2, faults=1),
}
"""Explored by `python -m model --deep`."""

RANDOM = Setup(
    workers=3,
    files=2,
    deliveries=2,
    orphans=2,
    max_attempts=3,
    count_tries=True,
    sweep=True,
    purge=True,
    operator=True,
)
"""The world of the random histories: everything at once."""


@dataclass(frozen=True)
class Control:
    """A knock-out, the promise that it must be seen to break, and promises that it breaks by its nature."""

    setup: Setup
    breaks: str = TWICE
    ignore: tuple[str, ...] = ()

    @property
    def at_random(self) -> Setup:
        """The same knock-out in the world of the random histories."""
        usual, mine = asdict(Setup()), asdict(self.setup)
        return replace(RANDOM, **{name: value for name, value in mine.items() if value != usual[name]})


CONTROLS = {
    "the guide's own handler": Control(Setup(guide=True)),
    "the load does not write the turn": Control(Setup(load_writes_turn=False)),
    "the load does not check cdc_applied": Control(Setup(load_checks_applied=False, shared_turn=True)),
    "data and cdc_applied in two transactions": Control(Setup(one_transaction=False), ignore=(MISMATCH,)),
    "writes are not guarded by the load's id": Control(Setup(guarded_writes=False), ignore=(MISMATCH,)),
    "claims of one table do not conflict": Control(Setup(claim_writes_turn=False), breaks=TWO_ROWS),
}
