"""Trying what can happen: all of it, breadth first (so that a counterexample is a shortest one), or at random."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from model.machine import NEVER, Machine, Move, Setup, State, Tx, Worker, flaws, unfinished


@dataclass(frozen=True)
class Trace:
    """A history that breaks a promise."""

    flaw: str
    moves: tuple[Move, ...]

    def __str__(self) -> str:
        lines = [f"{n:>3}. {m.actor:<9} {m.what:<58} {_picture(m.state)}" for n, m in enumerate(self.moves, 1)]
        return "\n".join([f"{self.flaw}:", *lines])


def _picture(s: State) -> str:
    turn = "free" if not s.holder else f"#{s.holder}{'' if s.live else ' (lease over)'}"
    files = []
    for row, load, n, queued in zip(s.rows, s.applied, s.data, s.queue, strict=True):
        status = "no row" if row is None else row.status
        if row and row.status != row.recorded:
            status += f" (code wrote {row.recorded})"
        if row and row.claim:
            status += f" by #{row.claim}"
        if row and row.alone:
            status += f", tried {row.alone}x"
        files.append(f"{status}, {'' if load else 'not '}in cdc_applied, {n}x in the target, {queued} on the queue")
    return f"[turn {turn} | {' | '.join(files)}]"


@dataclass(frozen=True)
class Result:
    """What a search saw."""

    states: int
    transitions: int
    seconds: float
    trace: Trace | None


class _Ids(dict[int, int]):
    """Old ids to new ones, numbered as they come."""

    def __missing__(self, key: int) -> int:
        self[key] = len(self) - 1  # beside -1 and 0, which stand for themselves
        return self[key]


def canonical(s: State) -> State:
    """The same for states that differ in the names of workers, claims and loads, or in what nothing reads any more.

    Nothing reads attempts, error class and `queued` of a row whose file is applied.
    """
    ids = _Ids({-1: -1, 0: 0})
    holder = ids[s.holder]
    applied = tuple([ids[load] for load in s.applied])
    rows = tuple(
        [
            None
            if row is None
            else row._replace(claim=ids[row.claim], alone=0, error="", queued=False)
            if load
            else row._replace(claim=ids[row.claim])
            for row, load in zip(s.rows, s.applied, strict=True)
        ]
    )
    seen = s.sweeper.row
    sweeper = s.sweeper if seen is None else s.sweeper._replace(row=seen._replace(claim=ids[seen.claim]))
    tries = tuple([0 if load else n for load, n in zip(s.applied, s.tries, strict=True)])
    known = dict(ids)
    order = sorted(
        (w for w in s.workers),
        key=lambda w: (w.phase, w.batch, w.parts, w.copies, known.get(w.claim, 99), known.get(w.load, 99), w.tx or ()),
    )
    workers = tuple([_renamed(w, ids) for w in order])
    orphans = tuple(sorted([_renamed_tx(tx, ids) for tx in s.orphans])) if s.orphans else ()
    return s._replace(
        holder=holder,
        rows=rows,
        applied=applied,
        workers=workers,
        orphans=orphans,
        sweeper=sweeper,
        tries=tries,
    )


def _renamed(w: Worker, ids: _Ids) -> Worker:
    if not w.claim:
        return w
    claim, load = ids[w.claim], ids[w.load]
    if claim == w.claim and load == w.load and (w.tx is None or not w.tx.rows):
        return w
    return w._replace(claim=claim, load=load, tx=w.tx and _renamed_tx(w.tx, ids))


def _renamed_tx(tx: Tx, ids: _Ids) -> Tx:
    rows = tuple([(file, row._replace(claim=ids[row.claim]), insert) for file, row, insert in tx.rows])
    return tx._replace(holder=ids[tx.holder], rows=rows, load=ids[tx.load])


def explore(setup: Setup, ignore: Iterable[str] = (), limit: int = 10_000_000) -> Result:
    """Visit every reachable state, then see that from each a fair schedule without faults comes to a good end.

    Args:
        setup: the world.
        ignore: promises that are not looked at (for controls that break several).
        limit: give up beyond so many states.

    Raises:
        RuntimeError: more states than `limit`.
    """
    began, machine, ignored = time.monotonic(), Machine(setup), set(ignore)
    first = canonical(machine.initial())
    index, states, parents, fair = {first: 0}, [first], [-1], []
    transitions = n = 0
    while n < len(states):
        moves = machine.moves(states[n])
        transitions += len(moves)
        best, following = NEVER, -1
        for move in moves:
            t = canonical(move.state)
            at = index.get(t)
            if at is None:
                at = index[t] = len(states)
                states.append(t)
                parents.append(n)
                broken = [flaw for flaw in flaws(t, setup.guide) if flaw not in ignored]
                if broken:
                    trace = _replay(machine, broken[0], states, parents, [], at)
                    return Result(len(states), transitions, time.monotonic() - began, trace)
            if move.rank < best:
                best, following = move.rank, at
        fair.append(following)
        n += 1
        if n > limit:
            raise RuntimeError(f"more than {limit} states")
    ended = None if setup.guide else _ends(machine, states, parents, fair)
    return Result(len(states), transitions, time.monotonic() - began, ended)


def _ends(machine: Machine, states: list[State], parents: list[int], fair: list[int]) -> Trace | None:
    """The first state from which the fair schedule comes to no good end."""
    good: set[int] = set()
    for start in range(len(states)):
        path: dict[int, None] = {}
        n = start
        while n not in good and n not in path and fair[n] >= 0:
            path[n] = None
            n = fair[n]
        if n not in good:
            flaw = "it goes round for ever" if n in path else unfinished(states[n], machine.setup.max_attempts)
            if flaw:
                return _replay(machine, flaw, states, parents, [*[*path][1:], n], start)
            good.add(n)
        good.update(path)
    return None


def _replay(machine: Machine, flaw: str, states: list[State], parents: list[int], onward: list[int], to: int) -> Trace:
    """The history to a state and on, with names that stay the same from step to step."""
    path = [to]
    while parents[path[0]] >= 0:
        path.insert(0, parents[path[0]])
    s, moves = machine.initial(), []
    for n in [*path[1:], *onward]:
        move = min((m for m in machine.moves(s) if canonical(m.state) == states[n]), key=lambda m: m.rank)
        moves.append(move)
        s = move.state
    return Trace(flaw, tuple(moves))


def walk(
    machine: Machine, seed: str, ignore: Iterable[str] = (), steps: int = 120, fault_rate: float = 0.25
) -> Trace | None:
    """One random history, then faults stop and it must come to a good end. The same seed gives the same history."""
    dice, ignored = random.Random(seed), set(ignore)
    actors = machine.actors()
    s, moves = machine.initial(), []

    def broken(move: Move) -> Trace | None:
        moves.append(move)
        found = [flaw for flaw in flaws(move.state, machine.setup.guide) if flaw not in ignored]
        return Trace(found[0], tuple(moves)) if found else None

    for _ in range(steps):
        hostile = dice.random() < fault_rate
        options = [move for move in dice.choice(actors)(s) if hostile or move.rank < NEVER]
        if options:
            move = dice.choice(options)
            if trace := broken(move):
                return trace
            s = move.state
    for _ in range(1000):
        options = [move for move in machine.moves(s) if move.rank < NEVER]
        if not options:
            break
        best = min(move.rank for move in options)
        move = dice.choice([move for move in options if move.rank == best])
        if trace := broken(move):
            return trace
        s = move.state
    flaw = "" if machine.setup.guide else unfinished(s, machine.setup.max_attempts)
    return Trace(flaw, tuple(moves)) if flaw else None


def walks(setup: Setup, seed: int, ignore: Iterable[str], start: int, number: int) -> tuple[Counter[str], str]:
    """Random histories from one number on: how often which promise broke, and the first that broke one."""
    machine, found, first = Machine(setup), Counter[str](), ""
    for n in range(start, start + number):
        trace = walk(machine, f"{seed}/{n}", ignore)
        if trace:
            found[trace.flaw] += 1
            first = first or f"seed {seed}/{n}: {trace}"
    return found, first
