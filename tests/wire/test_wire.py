"""A short campaign, and the state machine that hypothesis drives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from faults import Fault
from wire.campaign import FAULTS, TYPED, campaign, history
from wire.world import HARD, LEASE_SECONDS, LOG, SOFT, Lab, World


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def test_a_short_campaign_is_green(lab: Lab) -> None:
    """The long one: `python -m wire --histories 2000 --seed 1`."""
    score = campaign(lab, 5, seed=1)
    assert not score.violations, score.violations[0][1]
    assert sum(score.faults.values()) > 3


def test_a_seed_gives_the_same_history_again(lab: Lab) -> None:
    assert history(lab, 7, length=6).steps == history(lab, 7, length=6).steps


CHANGES = st.lists(st.tuples(st.sampled_from("IUD"), st.integers(0, 3)), min_size=1, max_size=4)
MOMENT = st.one_of(
    st.just({}),
    st.builds(lambda n: {"pause_at": n}, st.integers(1, 45)),
    st.builds(lambda n: {"die_at": n}, st.integers(1, 45)),
)


class Histories(RuleBasedStateMachine):
    """The same world as the campaign's; hypothesis chooses the steps and shrinks what fails."""

    lab: Lab
    world: World | None = None

    @initialize(
        conflicts=st.sampled_from(("tablet", "row")),
        status=st.sampled_from((200, 400, 409, 500)),
        single_writer=st.sampled_from((False, False, False, True)),
    )
    def begin(self, conflicts: str, status: int, single_writer: bool) -> None:
        random.seed(0)
        self.world = World(self.lab, conflicts=conflicts, conflict_status=status, single_writer=single_writer)

    @property
    def on(self) -> World:
        assert self.world is not None
        return self.world

    @rule(table=st.sampled_from((HARD, SOFT, LOG)), changes=CHANGES, announced=st.booleans())
    def put(self, table: str, changes: list[tuple[str, int]], announced: bool) -> None:
        mark = len(self.on.steps)
        self.on.put(table, [(op, k, f"{mark}.{n}") for n, (op, k) in enumerate(changes)], announced=announced)

    @rule(table=st.sampled_from((HARD, SOFT, LOG)), keys=st.sets(st.integers(0, 3), min_size=1))
    def put_full_load(self, table: str, keys: set[int]) -> None:
        self.on.put(table, [("I", key, f"full {len(self.on.steps)}") for key in sorted(keys)], full=True)

    @rule()
    def put_poison(self) -> None:
        self.on.put_poison(HARD)

    @precondition(lambda self: self.world and any(v.good for v in self.world.current.values()))
    @rule(data=st.data(), changes=CHANGES)
    def overwrite(self, data: Any, changes: list[tuple[str, int]]) -> None:
        version = data.draw(st.sampled_from([v for v in self.on.current.values() if v.good and not v.full] or [None]))
        if version is not None:
            rows = [(op, key, f"over {len(self.on.steps)}.{n}") for n, (op, key) in enumerate(changes)]
            self.on.put(version.target, rows, key=version.key)

    @precondition(lambda self: self.world and self.world.current)
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        self.on.delete(data.draw(st.sampled_from(sorted(self.on.current))))

    @precondition(lambda self: self.world and self.world.events)
    @rule(data=st.data(), moment=MOMENT, size=st.integers(1, 4), again=st.booleans())
    def deliver(self, data: Any, moment: dict[str, int], size: int, again: bool) -> None:
        batch = []
        for _ in range(min(size, len(self.on.messages))):
            batch.append(self.on.messages.pop(data.draw(st.integers(0, len(self.on.messages) - 1))))
        if again or not batch:
            batch.append(data.draw(st.sampled_from(self.on.events)))
        self.on.deliver(batch, **moment)

    @rule(task=st.sampled_from(("sweep", "sweep", "reconcile", "purge")), moment=MOMENT)
    def clean(self, task: str, moment: dict[str, int]) -> None:
        self.on.clean(task, **moment)

    @precondition(lambda self: self.world and self.world.paused)
    @rule(data=st.data(), more=st.integers(0, 20), dies=st.booleans())
    def wake(self, data: Any, more: int, dies: bool) -> None:
        job = data.draw(st.sampled_from(self.on.paused))
        if dies:
            self.on.kill(job)
        else:
            self.on.resume(job, pause_in=more)

    @rule(number=st.integers(1, 25), fault=st.sampled_from(FAULTS))
    def arm(self, number: int, fault: Fault) -> None:
        self.on.arm(number, fault)

    @rule(number=st.integers(1, 12), when=st.sampled_from(("before", "after")))
    def arm_aws(self, number: int, when: str) -> None:
        self.on.arm_aws(number, when)

    @rule(seconds=st.sampled_from((5, 40, LEASE_SECONDS + 5, 200)))
    def wait(self, seconds: int) -> None:
        self.on.wait(seconds)

    @rule(sql=st.sampled_from(TYPED))
    def operator(self, sql: str) -> None:
        self.on.operator(sql)

    @rule()
    def restart(self) -> None:
        self.on.restart()

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            self.world.finish()
        finally:
            self.world.close()


def test_the_state_machine(lab: Lab) -> None:
    Histories.lab = lab
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=3,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
