"""Random histories from a seed, and their score."""

from __future__ import annotations

import contextlib
import functools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from typing import Any

from faults import Fault
from wire.knockouts import knocked_out
from wire.world import HARD, LEASE_SECONDS, LOG, RELOAD_SECONDS, RETRY_HELD, SOFT, Change, Lab, Violation, World

FAULTS = [f for f in Fault if f not in (Fault.HANG_BEFORE, Fault.HANG_AFTER)]
"""Without the two that cost real time; to the client they are a cut."""
LOST = (Fault.RESET_SESSION, Fault.FORGET_SESSION, Fault.RESTART)
"""Those after which a client may go on outside the transaction that it began."""
DATA = ('INSERT INTO "', "MERGE")
"""Beginnings of the statements that write a file's rows."""
PLACES: tuple[str | tuple[str, ...], ...] = (
    "UPDATE cdc_tables SET version",
    DATA,
    "INSERT INTO cdc_applied",
    "COMMIT",
)
"""Beginnings of a load's statements: where a pause or a lost transaction hurts most."""
TYPED = (
    "UPDATE cdc_processed_files SET status = 'pending', error_message = NULL WHERE status = 'failed'",
    "UPDATE cdc_processed_files SET status = 'failed', error_message = 'Timeout or crash' WHERE status = 'processing'",
    "UPDATE cdc_processed_files SET status = 'pending' WHERE status = 'completed'",
    "DELETE FROM cdc_processed_files",
    RETRY_HELD,
    "UPDATE cdc_tables SET lease_until = CURRENT_TIMESTAMP WHERE holder IS NOT NULL",
    "DELETE FROM cdc_reloads",
)
SLICE = 5
"""Histories that a process runs at one go; after a violation the others end theirs."""
Rewrite = Callable[[str], str | None]


def keep(sql: str) -> str | None:
    """Nothing is knocked out."""
    return sql


@dataclass
class Score:
    """What a campaign found."""

    histories: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)
    """Seed and what was broken."""

    def add(self, other: Score) -> None:
        """Take in what another process found; the seconds are those of whoever adds."""
        self.histories += other.histories
        self.cpu_seconds += other.cpu_seconds
        self.faults.update(other.faults)
        self.counts.update(other.counts)
        self.violations += other.violations


def options(rng: random.Random) -> dict[str, Any]:
    """What is unknown of Firebolt, drawn."""
    return {
        "conflicts": rng.choice(("tablet", "row")),
        "conflict_status": rng.choice((200, 400, 409, 500)),
        "forget_failed_commit": rng.random() < 0.5,
        "single_writer": rng.random() < 0.1,
    }


def rows(rng: random.Random, mark: str, full: bool = False) -> list[Change]:
    """A few changes on few keys; several to one key are likely."""
    if full:
        return [("I", key, f"{mark}.{key}") for key in sorted(rng.sample(range(4), rng.randint(1, 4)))]
    drawn = [(rng.choice("IUUD"), rng.randrange(4)) for _ in range(rng.randint(1, 5))]
    return [(op, key, None if op == "D" else f"{mark}.{number}") for number, (op, key) in enumerate(drawn)]


def begin(world: World, rng: random.Random) -> None:
    """Each table has been loaded before: in production few loads are a table's first."""
    for target in (HARD, SOFT, LOG):
        world.put(target, rows(rng, "b"))
    batch, world.messages = world.messages, []
    world.deliver(batch)


def arm(world: World, rng: random.Random) -> None:
    """A fault at any statement from now, or aimed at a load, or a load that loses the rows it has just written."""
    luck = rng.random()
    if luck < 0.65:
        world.arm(rng.randint(1, 25), rng.choice(FAULTS))
    elif luck < 0.9:
        world.arm(rng.choice(PLACES), rng.choice(rng.choice((FAULTS, LOST))))
    else:
        world.arm(DATA, rng.choice((Fault.RESET_SESSION, Fault.FORGET_SESSION)))


def step(world: World, rng: random.Random) -> None:
    """One random step."""

    def moment(places: int = 45) -> dict[str, Any]:
        luck = rng.random()
        if luck < 0.3:
            return {"pause_at": rng.choice((rng.randint(1, places), *PLACES))}
        return {"die_at": rng.randint(1, places)} if luck < 0.42 else {}

    if world.paused and rng.random() < 0.4:
        wake(world, rng, moment)
        return
    for begun in world.unwritten():
        if world.dms.random() < 0.25:
            world.write_on(begun)
    held = sum(len(world.held(target)) for target in (HARD, SOFT, LOG))
    if held and world.dms.random() < 0.25:
        world.operator(RETRY_HELD)
        world.count["asked to merge"] += held
    luck = rng.random()
    if luck < 0.22:
        full = rng.random() < 0.15
        target = rng.choice((HARD, HARD, SOFT, LOG))
        world.put(target, rows(rng, f"f{len(world.steps)}", full), full=full, announced=rng.random() < 0.93)
    elif luck < 0.25:
        world.put_poison(rng.choice((HARD, LOG)))
    elif luck < 0.29 and world.current:
        version = world.current[rng.choice(sorted(world.current))]
        if version.good:
            world.put(version.target, rows(rng, f"o{len(world.steps)}", version.full), key=version.key)
    elif luck < 0.31 and world.current:
        world.delete(rng.choice(sorted(world.current)))
    elif luck < 0.35:
        load(world, rng)
    elif luck < 0.42:
        timeout, allow_gone = rng.choice((LEASE_SECONDS, RELOAD_SECONDS)), rng.random() < 0.5
        everything = rng.random() < 0.1
        target = rng.choice((HARD, HARD, SOFT, LOG))
        world.reload(target, everything=everything, allow_gone=allow_gone, timeout=timeout, **moment(120))
    elif luck < 0.70 and world.events:
        batch = [
            world.messages.pop(rng.randrange(len(world.messages))) for _ in range(rng.randint(1, 4)) if world.messages
        ]
        batch += [rng.choice(world.events) for _ in range(2) if not batch or rng.random() < 0.15]
        world.deliver(batch, timeout=rng.choice((LEASE_SECONDS, LEASE_SECONDS, 25)), **moment())
    elif luck < 0.77:
        world.clean("sweep", **moment())
    elif luck < 0.81:
        world.clean(rng.choice(("reconcile", "purge", "audit", "reload")), **moment(120))
    elif luck < 0.86:
        world.wait(rng.choice((5, 40, LEASE_SECONDS + 5, 200)))
    elif luck < 0.88:
        world.restart()
    elif luck < 0.92:
        world.operator(rng.choice(TYPED))
    elif luck < 0.96:
        duel(world, rng)
    else:
        world.arm_aws(rng.randint(1, 12), rng.choice(("before", "after")))


def duel(world: World, rng: random.Random) -> None:
    """A worker stands still inside its load until another one has taken the file over, and then goes on."""
    world.put(rng.choice((HARD, SOFT, LOG)), rows(rng, f"d{len(world.steps)}"))
    event = world.messages.pop()
    job = world.deliver([event], pause_at=rng.choice(PLACES))
    if job in world.paused:
        world.count["overtaken"] += 1
        world.wait(LEASE_SECONDS + 5)
        world.deliver([event])
        world.resume(job)


def reload_is_due(world: World, rng: random.Random) -> None:
    """A table with a full load and changes, of which DMS writes another full load: most of the work of a reload."""
    target = rng.choice((HARD, LOG))
    for number in range(2):
        files = [rows(rng, f"b{number}.{file}", True) for file in range(2)]
        world.put_load(target, files, again=number > 0)
        world.put(target, rows(rng, f"c{number}"))
        batch, world.messages = world.messages, []
        world.deliver(batch)
    world.reload(target, pause_at=rng.randint(10, 110))


def load(world: World, rng: random.Random) -> None:
    """DMS loads a table (anew): a few files, some with what they held before, the last of them perhaps later."""
    target = rng.choice((HARD, HARD, SOFT, LOG))
    old = [list(v.rows) for v in world.current.values() if v.target == target and v.full]
    files = [rows(rng, f"l{len(world.steps)}.{number}", True) for number in range(rng.randint(1, 3))]
    if old and rng.random() < 0.3:
        files[0] = sorted(old)[0]
    later = world.dms.randrange(len(files)) if world.dms.random() < 0.5 else 0
    world.put_load(target, files, again=rng.random() < 0.7, later=later)


def wake(world: World, rng: random.Random, moment: Callable[[], dict[str, Any]]) -> None:
    """A paused worker dies, goes on, or finds on waking that another one has taken its work over."""
    job = rng.choice(world.paused)
    what = rng.random()
    if what < 0.2:
        world.kill(job)
        return
    if what < 0.8 and job.batch:
        world.count["overtaken"] += 1
        world.wait(LEASE_SECONDS + 5)
        world.deliver(job.batch, **moment())
    elif what < 0.7 and job.name.startswith("reload "):
        world.count["reloads overtaken"] += 1
        world.wait(RELOAD_SECONDS + 5)
        batch, world.messages = world.messages[:4], world.messages[4:]
        world.deliver(batch)
        world.reload(job.name.removeprefix("reload "), **moment())
    world.resume(job, pause_in=rng.choice((0, 0, rng.randint(1, 20))))


def history(
    lab: Lab, seed: int, rewrite: Rewrite = keep, length: int = 14, make: Callable[..., World] = World
) -> World:
    """Run one history; the world that it ended in, closed.

    Raises:
        Violation: with the seed and every step.
    """
    rng = random.Random(seed)
    random.seed(seed)
    world = make(lab, rewrite=rewrite, **options(rng))
    world.dms.seed(seed)
    try:
        luck = rng.random()
        if luck < 0.3:
            reload_is_due(world, rng)
        elif luck < 0.75:
            begin(world, rng)
        for _ in range(rng.randint(length // 2, length + length // 2)):
            if rng.random() < 0.5:
                arm(world, rng)
            step(world, rng)
        world.finish()
    except Violation as broken:
        raise Violation(f"seed {seed}: {broken}\n" + "\n".join(world.steps)) from None
    finally:
        world.close()
    return world


def campaign(lab: Lab, histories: int, seed: int, rewrite: Rewrite = keep, *, stop_after: int = 1) -> Score:
    """Run histories with the seeds seed, seed + 1, …; stop after so many violations."""
    score = Score()
    began, cpu = time.monotonic(), time.process_time()
    for number in range(histories):
        try:
            world = history(lab, seed + number, rewrite)
            score.faults.update({fault.name: n for fault, n in world.proxy.injected.items()})
            score.counts.update(world.count)
            score.counts["statements"] += len(world.proxy.calls)
            score.counts["file versions"] += len(world.versions)
        except Violation as broken:
            score.violations.append((seed + number, str(broken)))
        score.histories += 1
        score.seconds, score.cpu_seconds = time.monotonic() - began, time.process_time() - cpu
        if len(score.violations) >= stop_after:
            break
    return score


@functools.cache
def _lab() -> Lab:
    """This process's laboratory, taken down when the process ends."""
    lab = Lab().__enter__()
    Finalize(None, lab.__exit__, args=(None, None, None), exitpriority=0)
    return lab


def run_slice(seed: int, knock_out: str | None, keep_going: bool, first: int, histories: int) -> Score:
    """A part of a campaign that is split over processes: `histories` from the seed `seed + first` on."""
    with knocked_out(knock_out) if knock_out else contextlib.nullcontext(keep) as rewrite:
        return campaign(_lab(), histories, seed + first, rewrite, stop_after=histories if keep_going else 1)
