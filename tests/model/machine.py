"""What can happen next: the loader, the cleanup Lambda, an operator and Firebolt, as a state machine.

The decisions are the project's own (`firebolt_cdc.protocol`: `decide_claim`, `require_turn`, `decide_sweep`). What
the statements around them write is transcribed here from `ledger`, `apply`, `loader` and `cleanup`.

**Modelled.** Snapshot isolation, first committer wins at COMMIT over written tablets (`Setup.tablets`: all ledger
rows of one turn are one tablet; else each row its own). Inserts conflict with nothing; there are no unique keys. A
COMMIT's answer can be lost with the COMMIT done, never done, or done at any later moment. Workers crash anywhere;
autocommitted statements fail before or after they took effect; the engine's session is reset in mid-load, so that
the rest of the load runs outside its transaction; leases end at any moment, also while their holder goes on (the
only clock is "has the lease ended"); messages are delivered again; files fail for good, for now, or are held; the
sweep works in steps on what it read before; completed rows are purged; a person types the guide's UPDATEs and DELETE.
The target is an append table, where each further application shows.

**Steps.** A transaction's statements before its COMMIT are one step: they read one snapshot and write a private
copy, so nobody can tell in which order. An autocommitted statement is one step (its own conflicts are tried again).
A step that writes nothing that anybody reads (a release of what is not held, an acknowledgement) happens at once.

**Not modelled.** What is in the rows and their order (merge tables, sequences, tombstones), generations and reloads,
order formats, several turns, `deduplication_enabled = false`, Firebolt Core's single writer, the queue's length limit
in the sweep, duplicate-delivery lines, the queue's own redrive to the dead-letter queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, count
from typing import NamedTuple, TypeVar

from firebolt_cdc import protocol
from firebolt_cdc.errors import FailureClass, TurnLostError
from firebolt_cdc.protocol import Decision, SweepAction, Verdict

T = TypeVar("T")

# Plain strings: an Enum's members hash slowly, and states are hashed millions of times.
PENDING, PROCESSING = protocol.Status.PENDING.value, protocol.Status.PROCESSING.value
COMPLETED, FAILED = protocol.Status.COMPLETED.value, protocol.Status.FAILED.value
TRANSIENT, PERMANENT = FailureClass.TRANSIENT.value, FailureClass.PERMANENT.value
HELD = FailureClass.HELD.value
PIPELINE, FORMAT, GENERATION = "bucket/prefix/", "file", 1

TURN_TABLET = 1
TWICE, MISMATCH = "a file version's data is applied twice", "cdc_applied does not say what is applied"
LIE, TWO_ROWS = "`completed` without being applied", "two ledger rows for one file version"
DEAD_ALIVE = "a dead letter for a file that a live worker is loading"
UNTRIED = "given up although it was not tried as often as that"
SWEPT_ALIVE = "the sweep resets a row that a live worker is working on"


@dataclass(frozen=True)
class Setup:
    """A world to explore, and what is knocked out of the protocol in it."""

    workers: int = 2
    files: int = 1
    deliveries: int = 1
    """Messages of each file on the queue at first, and at most (one more of the same kind changes nothing)."""
    faults: int = -1
    """How many faults may happen in one history; -1: any number."""
    orphans: int = 1
    """How many COMMITs without an answer may be under way."""
    max_attempts: int = 2
    count_tries: bool = False
    """Look whether files are given up that were not tried as often as that."""
    tablets: bool = True
    sweep: bool = False
    purge: bool = False
    operator: bool = False
    shared_turn: bool = False
    """Another table of each invocation loads under the same turn afterwards, so that no load gives it back."""
    # Knock-outs.
    guide: bool = False
    """The guide's own handler: check (a failed check counts as "not processed"), mark, load, mark; no transaction."""
    claim_writes_turn: bool = True
    load_writes_turn: bool = True
    load_checks_applied: bool = True
    one_transaction: bool = True
    """Data and `cdc_applied` are committed together."""
    guarded_writes: bool = True
    """Each write after the load's first is conditional on the turn carrying the load's id."""


class Row(NamedTuple):
    """A line of `cdc_processed_files`."""

    status: str
    recorded: str
    claim: int
    alone: int
    error: str
    queued: bool
    """Sent to the queue by the sweep; whether that was within its interval is left open."""


class Tx(NamedTuple):
    """The private writes of a transaction whose COMMIT is under way."""

    doomed: bool
    """Somebody has committed a write to a tablet that this one wrote too."""
    mask: int
    """Tablets that it updated."""
    holder: int
    """The turn's new holder; -1: unchanged."""
    rows: tuple[tuple[int, Row, bool], ...]
    """File, ledger row, and whether it is an insert."""
    data: tuple[int, ...]
    """Files whose rows are inserted into the target."""
    load: int
    """The load id under which `data` is entered into `cdc_applied`; 0: it is not."""
    tries: tuple[tuple[int, int], ...] = ()
    """New values of `State.tries`."""


class Worker(NamedTuple):
    """One invocation of the loader."""

    phase: str
    claim: int = 0
    load: int = 0
    batch: tuple[int, ...] = ()
    """Files whose messages it has."""
    parts: tuple[tuple[tuple[int, ...], bool], ...] = ()
    """Files to be loaded in one transaction each, and whether the attempt is counted; the next is the last."""
    copies: tuple[int, ...] = ()
    """Files of which a copy of the message must be sent."""
    counted: tuple[int, ...] = ()
    """Files of which this claim has counted an attempt that did not come to its end."""
    untidy: bool = False
    """It holds the turn, or rows of its claim may say `processing`."""
    failure: str = ""
    tx: Tx | None = None


class Sweeper(NamedTuple):
    """The sweep, which treats one file at a time."""

    phase: str
    file: int = 0
    row: Row | None = None
    """The ledger row as it has read it."""


class State(NamedTuple):
    """The ledger, the target and everybody's place in their programs."""

    holder: int
    live: bool
    rows: tuple[Row | None, ...]
    applied: tuple[int, ...]
    """For each file the load id in `cdc_applied`; 0: none."""
    data: tuple[int, ...]
    """How often each file's rows are in the target."""
    queue: tuple[int, ...]
    workers: tuple[Worker, ...]
    orphans: tuple[Tx, ...]
    sweeper: Sweeper
    faults: int
    tries: tuple[int, ...]
    """For each file how often a worker failed at it, or was taken for dead, since its attempts count. For `flaws`."""
    flaw: str = ""


class Move(NamedTuple):
    """One step: who, what, how soon a fair schedule without faults takes it (NEVER: it does not), and the outcome."""

    actor: str
    what: str
    rank: int
    state: State


DROP, WORK, SWEEP, CLOCK, RECEIVE, BEGIN_SWEEP, RECONCILE, NEVER = range(8)
IDLE = Worker("idle")
ASLEEP = Sweeper("idle")
DOOMED = Tx(True, 0, -1, (), (), 0)
Outcome = tuple[str, bool, State]
"""What a worker does, whether that is a fault, and what comes of it."""


@lru_cache(None)
def _turn(holder: int, live: bool) -> protocol.Turn:
    return protocol.Turn("t", PIPELINE, str(holder) if holder else None, live, GENERATION, FORMAT)


@lru_cache(None)
def _row(row: Row) -> protocol.LedgerRow:
    claim = str(row.claim) if row.claim else None
    return protocol.LedgerRow("f", row.status, row.recorded, claim, row.alone, row.error or None, None)


@lru_cache(None)
def claim_decision(applied: bool, holder: int, live: bool, row: Row | None, max_attempts: int) -> Decision:
    """`protocol.decide_claim` for a file of the model."""
    return protocol.decide_claim(
        applied=applied,
        turn=_turn(holder, live),
        row=None if row is None else _row(row),
        pipeline=PIPELINE,
        order_format=FORMAT,
        max_attempts=max_attempts,
    )


@lru_cache(None)
def sweep_decision(applied: bool, holder: int, row: Row, max_attempts: int, lately: bool) -> SweepAction:
    """`protocol.decide_sweep` for a row of the model; `holder`: the live one, 0 for none."""
    return protocol.decide_sweep(
        applied=applied,
        turn=_turn(holder, holder > 0),
        row=_row(row),
        max_attempts=max_attempts,
        enqueued_lately=lately,
    )


@lru_cache(None)
def keeps_turn(holder: int, live: bool, claim: int) -> bool:
    """Whether `protocol.require_turn` lets a load go on."""
    try:
        protocol.require_turn(_turn(holder, live), str(claim), GENERATION)
    except TurnLostError:
        return False
    return True


def replaced(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    """The tuple with one element exchanged."""
    return (*values[:index], value, *values[index + 1 :])


class Machine:
    """The moves of one world."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def initial(self) -> State:
        """Every file announced, nothing done."""
        n = self.setup.files
        workers = (IDLE,) * self.setup.workers
        queue = (self.setup.deliveries,) * n
        return State(0, False, (None,) * n, (0,) * n, (0,) * n, queue, workers, (), ASLEEP, self.setup.faults, (0,) * n)

    def actors(self) -> list[Callable[[State], Iterator[Move]]]:
        """Everybody who can move; each gives its possible moves."""

        def worker(index: int) -> Callable[[State], Iterator[Move]]:
            return lambda s: self._worker(s, index)

        return [self._engine, self._cleanup, self._people, *map(worker, range(self.setup.workers))]

    def moves(self, s: State) -> list[Move]:
        """Everything that can happen next."""
        return [move for actor in self.actors() for move in actor(s)]

    # What a write does to others.

    def _ledger(self, file: int) -> int:
        return 2 if self.setup.tablets else 2 << file

    def _write(self, s: State, mask: int, **changes: object) -> State:
        """Commit a write: transactions under way that wrote the same tablets are lost."""
        if mask:
            workers = tuple(w._replace(tx=DOOMED) if w.tx and w.tx.mask & mask else w for w in s.workers)
            orphans = tuple(tx for tx in s.orphans if not tx.mask & mask)
            s = s._replace(workers=workers, orphans=orphans)
        return s._replace(**changes)  # type: ignore[arg-type]

    def _update(self, s: State, file: int, **changes: object) -> State:
        """An UPDATE of one ledger row; without the row, nothing."""
        row = s.rows[file]
        if row is None:
            return s
        return self._write(s, self._ledger(file), rows=replaced(s.rows, file, row._replace(**changes)))  # type: ignore[arg-type]

    def _complete_row(self, s: State, file: int) -> State:
        return self._update(s, file, status=COMPLETED, recorded=COMPLETED, claim=0, error="")

    def _install(self, s: State, tx: Tx) -> State:
        """Commit a transaction."""
        rows, applied, data, flaw = list(s.rows), list(s.applied), list(s.data), s.flaw
        for file, row, insert in tx.rows:
            flaw = TWO_ROWS if insert and rows[file] is not None else flaw
            rows[file] = row
        for file in tx.data:
            data[file] += 1
            applied[file] = tx.load or applied[file]
        tries = list(s.tries)
        for file, n in tx.tries:
            tries[file] = min(self.setup.max_attempts, n)
        holder, live = (s.holder, s.live) if tx.holder < 0 else (tx.holder, tx.holder > 0)
        return self._write(
            s,
            tx.mask,
            holder=holder,
            live=live,
            rows=tuple(rows),
            applied=tuple(applied),
            data=tuple(data),
            flaw=flaw,
            tries=tuple(tries),
        )

    def _send(self, s: State, files: tuple[int, ...]) -> State:
        queue = list(s.queue)
        for file in files:
            queue[file] = min(self.setup.deliveries, queue[file] + 1)
        return s._replace(queue=tuple(queue))

    def _fault(self, s: State) -> State:
        return s if s.faults < 0 else s._replace(faults=s.faults - 1)

    # The loader.

    def _worker(self, s: State, i: int) -> Iterator[Move]:
        w = s.workers[i]
        actor = f"worker {i + 1}"
        if w == IDLE:
            waiting = [file for file, n in enumerate(s.queue) if n]
            for size in range(1, len(waiting) + 1):
                for batch in combinations(waiting, size):
                    queue = tuple(n - (file in batch) for file, n in enumerate(s.queue))
                    begun = self._begin(s._replace(queue=queue), i, Worker("claim", fresh(s), batch=batch))
                    for what, fault, t in begun:
                        yield Move(actor, f"receives {named(batch)}; {what}", NEVER if fault else RECEIVE, t)
            return
        steps: Iterator[Outcome] = getattr(self, f"_{w.phase}")(s, i, w)
        for what, fault, t in steps:
            yield Move(actor, what, NEVER if fault else WORK, t)
        if s.faults:
            dead = self._send(self._put(self._fault(s), i, IDLE), w.batch)
            yield Move(actor, "dies; its messages come back", NEVER, dead)
            if w.tx and not w.tx.doomed and len(s.orphans) < self.setup.orphans:
                late = dead._replace(orphans=(*s.orphans, w.tx))
                yield Move(actor, "dies with its COMMIT under way", NEVER, late)

    def _put(self, s: State, i: int, w: Worker) -> State:
        return s._replace(workers=replaced(s.workers, i, w))

    def _begin(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        if not self.setup.guide:
            yield from self._claim(s, i, w)
            return
        row = s.rows[w.batch[0]]
        go_on = self._put(s, i, w._replace(phase="guide_mark"))
        if row is not None and row.status == COMPLETED:
            yield "check: already processed", False, s
            if s.faults:
                yield "check: fails, taken for `not processed`", True, self._fault(go_on)
        else:
            yield "check: not processed", False, go_on

    def _guide_mark(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        rows = replaced(s.rows, w.batch[0], Row(PROCESSING, PROCESSING, w.claim, 0, "", False))
        yield "marks it processing", False, self._put(s._replace(rows=rows), i, w._replace(phase="guide_load"))

    def _guide_load(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        file = w.batch[0]
        data = replaced(s.data, file, s.data[file] + 1)
        yield "loads it", False, self._put(s._replace(data=data), i, w._replace(phase="guide_done"))

    def _guide_done(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        yield "marks it completed", False, self._put(self._complete_row(s, w.batch[0]), i, IDLE)

    def _claim(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        """`Ledger._claim` up to its COMMIT."""
        decided = {
            file: claim_decision(bool(s.applied[file]), s.holder, s.live, s.rows[file], self.setup.max_attempts)
            for file in w.batch
        }
        winners = [file for file, d in decided.items() if d.verdict is Verdict.CLAIM]
        alone = len(winners) == 1
        writes: list[tuple[int, Row, bool]] = []
        tries: dict[int, int] = {}
        for file, d in decided.items():
            row = s.rows[file]
            if d.verdict is Verdict.CLAIM:
                attempts = (0 if row is None or d.fresh_budget else row.alone) + alone
                writes.append((file, Row(PROCESSING, PROCESSING, w.claim, attempts, "", False), row is None))
                if self.setup.count_tries:
                    tries[file] = 0 if d.fresh_budget else s.tries[file] + d.suspect
            elif row is not None and d.mend:
                writes.append((file, Row(COMPLETED, COMPLETED, 0, row.alone, "", row.queued), False))
            elif row is not None and d.verdict is Verdict.HOLD:
                writes.append((file, row._replace(status=PENDING, recorded=PENDING, error=HELD), False))
            elif row is not None and d.give_up:
                failed = row._replace(status=FAILED, recorded=FAILED, error=row.error or TRANSIENT, claim=0)
                writes.append((file, failed, False))
            if row is not None and d.verdict is Verdict.REJECT:
                if s.live and row.claim == s.holder:
                    s = s._replace(flaw=DEAD_ALIVE)
                elif self.setup.count_tries and not _row(row).final:
                    tries[file] = s.tries[file] + (row.claim > 0)
                    s = s._replace(flaw=s.flaw if tries[file] >= self.setup.max_attempts else UNTRIED)
        what = "claim: " + ", ".join(d.verdict for d in decided.values())
        suspects = [((file,), alone) for file in winners if decided[file].suspect]
        together = tuple(file for file in winners if not decided[file].suspect)
        w = w._replace(
            parts=(*suspects, (together, alone)) if together else tuple(suspects),
            copies=tuple(file for file, d in decided.items() if d.verdict is Verdict.WAIT),
            counted=tuple(winners) if alone else (),
            untidy=bool(winners),
        )
        if not writes:
            yield what, False, self._next(s, i, w)
            return
        mask = TURN_TABLET if winners and self.setup.claim_writes_turn else 0
        for file, _, insert in writes:
            mask |= 0 if insert else self._ledger(file)
        tx = Tx(False, mask, w.claim if winners else -1, tuple(writes), (), 0, tuple(tries.items()))
        yield what, False, self._put(s, i, w._replace(phase="commit_claim", tx=tx))

    def _commit_claim(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        again = w._replace(phase="claim", parts=(), copies=())
        unknown = w._replace(parts=(), copies=w.batch, untidy=True)
        return self._commit(s, i, w, "claim", lambda t: self._next(t, i, w), again, lambda t: self._next(t, i, unknown))

    def _commit(
        self,
        s: State,
        i: int,
        w: Worker,
        name: str,
        done: Callable[[State], State],
        again: Worker,
        unknown: Callable[[State], State],
    ) -> Iterator[Outcome]:
        """A COMMIT, in all the ways in which it can end."""
        assert w.tx is not None
        closed = self._put(s, i, w._replace(tx=None))
        if w.tx.doomed:
            yield f"COMMIT of the {name}: conflict", False, self._put(s, i, again._replace(tx=None))
            return
        yield f"COMMIT of the {name}", False, done(self._install(closed, w.tx))
        if s.faults:
            closed = self._fault(closed)
            lost = f"COMMIT of the {name}: no answer"
            yield f"{lost}, but done", True, unknown(self._install(closed, w.tx))
            if len(s.orphans) < self.setup.orphans:
                yield f"{lost}, still under way", True, unknown(closed._replace(orphans=(*s.orphans, w.tx)))
            else:
                yield f"{lost}, and never done", True, unknown(closed)

    def _statement(
        self, s: State, what: str, done: State, then: Callable[[State], State], failed: Callable[[State], State]
    ) -> Iterator[Outcome]:
        """An autocommitted statement that makes `done` of `s`."""
        yield what, False, then(done)
        if s.faults:
            yield f"{what}: fails", True, failed(self._fault(s))
            if done != s:
                yield f"{what}: no answer, but done", True, failed(self._fault(done))

    def _next(self, s: State, i: int, w: Worker) -> State:
        """To the next part, or to the end of the invocation (`Worker._load_table`, `Worker._release`)."""
        w = w._replace(load=0, failure="", tx=None)
        if w.parts:
            files, counted = w.parts[-1]
            return self._put(s, i, w._replace(phase="load" if counted or len(files) > 1 else "alone"))
        if s.holder == w.claim and w.untidy:
            return self._put(s, i, w._replace(phase="release"))
        return self._untried(s, i, w)

    def _untried(self, s: State, i: int, w: Worker) -> State:
        if w.untidy and self._mine(s, w):
            return self._put(s, i, w._replace(phase="give_back"))
        return self._leave(s, i, w)

    def _mine(self, s: State, w: Worker) -> list[int]:
        return [f for f, row in enumerate(s.rows) if row and row.claim == w.claim and row.recorded == PROCESSING]

    def _leave(self, s: State, i: int, w: Worker) -> State:
        """Send the copies, acknowledge the messages (`loader._dispose`)."""
        return self._send(self._put(s, i, IDLE), w.copies)

    def _release(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        done = self._write(s, TURN_TABLET, holder=0, live=False) if s.holder == w.claim else s
        return self._statement(
            s, "gives its turn back", done, lambda t: self._untried(t, i, w), lambda t: self._leave(t, i, w)
        )

    def _give_back(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        done = s
        for file in self._mine(s, w):
            row = s.rows[file]
            assert row is not None
            attempts = row.alone - (file in w.counted)
            done = self._update(done, file, status=PENDING, recorded=PENDING, claim=0, alone=attempts)
        return self._statement(
            s, "gives its files back", done, lambda t: self._leave(t, i, w), lambda t: self._leave(t, i, w)
        )

    def _alone(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        """`Ledger.start_alone`."""
        (file,), _ = w.parts[-1]
        row = s.rows[file]
        done = self._update(s, file, alone=row.alone + 1) if row and row.claim == w.claim else s
        counted = w._replace(phase="load", parts=(*w.parts[:-1], ((file,), True)), counted=(*w.counted, file))
        return self._statement(
            s,
            f"counts an attempt of {named((file,))}",
            done,
            lambda t: self._put(t, i, counted),
            lambda t: self._failed(t, i, counted, TRANSIENT),
        )

    def _failed(self, s: State, i: int, w: Worker, failure: str) -> State:
        """`Worker._split_or_fail`."""
        files, _ = w.parts[-1]
        if len(files) == 1:
            return self._put(s, i, w._replace(phase="fail", failure=failure))
        half = (len(files) + 1) // 2
        return self._next(s, i, w._replace(parts=(*w.parts[:-1], (files[half:], False), (files[:half], False))))

    def _fail(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        """`Ledger.fail`; a file that may be tried again, or whose failure could not be written, keeps its message."""
        (file,), _ = w.parts[-1]
        status = PENDING if w.failure == HELD else FAILED
        row = s.rows[file]
        done = s
        if row and row.claim == w.claim:
            done = self._update(s, file, status=status, recorded=status, error=w.failure, claim=0)
        ended = w._replace(parts=w.parts[:-1], counted=tuple(f for f in w.counted if f != file))
        waits = ended._replace(copies=(*w.copies, file))
        if self.setup.count_tries:
            tries = replaced(s.tries, file, min(self.setup.max_attempts, s.tries[file] + 1))
            s, done = s._replace(tries=tries), done._replace(tries=tries)
        return self._statement(
            s,
            f"writes {status} ({w.failure}) for {named((file,))}",
            done,
            lambda t: self._next(t, i, waits if w.failure == TRANSIENT else ended),
            lambda t: self._next(t, i, waits._replace(untidy=True)),
        )

    def _load(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        """`Applier.load` up to its COMMIT."""
        files, counted = w.parts[-1]
        give_up = w._replace(parts=(), untidy=True, copies=(*w.copies, *(f for part, _ in w.parts for f in part)))
        if not keeps_turn(s.holder, s.live, w.claim):
            yield "load: the turn is lost", False, self._next(s, i, give_up)
            return
        unapplied = tuple(f for f in files if not (self.setup.load_checks_applied and s.applied[f]))
        if unapplied != files:
            rest = (*w.parts[:-1], (unapplied, counted)) if unapplied else w.parts[:-1]
            left = w._replace(parts=rest)
            t = self._put(s, i, left) if unapplied else self._next(s, i, left)
            yield "load: some files are applied already", False, t
            return
        load = fresh(s)
        writes = self.setup.load_writes_turn
        holder = 0 if writes and self._gives_back(w) else -1
        tx = Tx(False, TURN_TABLET if writes else 0, holder, (), files, load if self.setup.one_transaction else 0)
        opened = w._replace(phase="commit_load", load=load, tx=tx)
        yield f"load: applies {named(files)}", False, self._put(s, i, opened)
        if s.faults:
            t = self._fault(s)
            for failure in (TRANSIENT, PERMANENT, HELD):
                yield f"load: fails ({failure})", True, self._failed(t, i, w, failure)
            yield "load: no time is left", True, self._next(t, i, give_up)
            outside = w._replace(phase="complete" if self.setup.guarded_writes else "outside", load=load)
            yield "load: the session is reset, the rest runs outside", True, self._put(t, i, outside)

    def _gives_back(self, w: Worker) -> bool:
        """Whether the load gives the turn back: the last part does."""
        return len(w.parts) == 1 and not self.setup.shared_turn

    def _outside(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        """Writes without their guard, each committed on its own."""
        data = tuple(n + (f in w.parts[-1][0]) for f, n in enumerate(s.data))
        yield "inserts the rows outside", False, self._put(s._replace(data=data), i, w._replace(phase="record"))

    def _record(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        applied = tuple(w.load if f in w.parts[-1][0] else load for f, load in enumerate(s.applied))
        done = s._replace(applied=applied)
        yield "inserts into cdc_applied on its own", False, self._put(done, i, w._replace(phase="complete"))

    def _commit_load(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        phase = "complete" if self.setup.one_transaction else "record"
        done = w._replace(phase=phase, tx=None, untidy=not self._gives_back(w))
        asks = w._replace(phase="ask", tx=None)
        again = w._replace(phase="load", load=0)
        return self._commit(s, i, w, "load", lambda t: self._put(t, i, done), again, lambda t: self._put(t, i, asks))

    def _ask(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        """`Applier._committed`, after a COMMIT without an answer."""
        again = self._put(s, i, w._replace(phase="load", load=0))
        if all(s.applied[file] == w.load for file in w.parts[-1][0]):
            done = w._replace(phase="complete", untidy=not self._gives_back(w))
            yield "asks cdc_applied: it is done", False, self._put(s, i, done)
            if s.faults:
                yield "asks cdc_applied: no answer", True, self._fault(again)
        else:
            yield "asks cdc_applied: it is not done", False, again

    def _complete(self, s: State, i: int, w: Worker) -> Iterator[Outcome]:
        """`Ledger.complete`."""
        done = s
        for file, load in enumerate(s.applied):
            if load == w.load:
                done = self._complete_row(done, file)

        def then(t: State) -> State:
            return self._next(t, i, w._replace(parts=w.parts[:-1]))

        return self._statement(s, "marks completed what is applied", done, then, then)

    # Firebolt, S3 and the clock.

    def _engine(self, s: State) -> Iterator[Move]:
        for n, tx in enumerate(s.orphans):
            gone = s._replace(orphans=s.orphans[:n] + s.orphans[n + 1 :])
            yield Move("engine", "drops the COMMIT under way", DROP, gone)
            yield Move("engine", "finishes the COMMIT under way", NEVER, self._install(gone, tx))
        if s.live:
            working = any(w.claim == s.holder for w in s.workers)
            ended = s._replace(live=False)
            if not working:
                yield Move("engine", "the lease ends", CLOCK, ended)
            elif s.faults:
                yield Move("engine", "the lease ends while its holder works", NEVER, self._fault(ended))
        if s.faults:
            for file, n in enumerate(s.queue):
                if n < self.setup.deliveries:
                    again = self._fault(self._send(s, (file,)))
                    yield Move("queue", f"delivers {named((file,))} again", NEVER, again)

    # The cleanup Lambda.

    def _cleanup(self, s: State) -> Iterator[Move]:
        for file, row in enumerate(s.rows):
            if s.sweeper == ASLEEP:
                yield from self._sweep(s, file)
            if not s.applied[file] and (row is None or row.status == COMPLETED):
                yield Move("reconcile", f"announces {named((file,))}", RECONCILE, self._send(s, (file,)))
            if self.setup.purge and row and row.status == row.recorded == COMPLETED:
                t = self._write(s, self._ledger(file), rows=replaced(s.rows, file, None))
                yield Move("purge", f"deletes the row of {named((file,))}", NEVER, t)
        if s.sweeper != ASLEEP:
            for what, t in self._sweep_step(s):
                yield Move("sweep", what, SWEEP, t)
            if s.faults:
                yield Move("sweep", "dies", NEVER, self._fault(s._replace(sweeper=ASLEEP)))

    def _sweep(self, s: State, file: int) -> Iterator[Move]:
        """Free an expired turn and read the row; the rest step by step, or (`Setup.sweep` off) at once."""
        expired = s.holder > 0 and not s.live
        useful = expired or self._sweep_action(s, file, s.rows[file], False) is not SweepAction.LEAVE
        t = self._write(s, TURN_TABLET, holder=0) if expired else s
        t = t._replace(sweeper=Sweeper("decide", file, t.rows[file]))
        what = f"begins with {named((file,))}"
        while not self.setup.sweep and t.sweeper != ASLEEP:
            done, t = next(self._sweep_step(t))
            what += f", {done}"
        yield Move("sweep", what, BEGIN_SWEEP if useful else NEVER, t)

    def _sweep_action(self, s: State, file: int, row: Row | None, lately: bool) -> SweepAction:
        if row is None or row.status == COMPLETED:
            return SweepAction.LEAVE
        holder = s.holder if s.live else 0
        return sweep_decision(bool(s.applied[file]), holder, row, self.setup.max_attempts, lately)

    def _sweep_step(self, s: State) -> Iterator[tuple[str, State]]:
        """Read the turn and `cdc_applied`, decide, and write (`Cleanup.sweep`)."""
        phase, file, seen = s.sweeper
        row = s.rows[file]
        if phase == "decide":
            for lately in {False, seen is not None and seen.queued}:
                action = self._sweep_action(s, file, seen, lately)
                then = "send" if action is SweepAction.REQUEUE else action.value
                keep = seen if action is SweepAction.RESET else None
                yield f"decides: {action}", s._replace(sweeper=ASLEEP if then == "leave" else Sweeper(then, file, keep))
        elif phase == "mend":
            yield "writes completed", self._complete_row(s, file)._replace(sweeper=ASLEEP)
        elif phase == "reset":
            if row and row.status == PROCESSING and seen and row.claim == seen.claim:
                flaw = SWEPT_ALIVE if s.live and s.holder == row.claim else s.flaw
                s = self._update(s, file, status=PENDING, recorded=PENDING, error=TRANSIENT)._replace(flaw=flaw)
            yield "writes pending", s._replace(sweeper=Sweeper("send", file))
        elif phase == "send":
            yield "sends a message", self._send(s, (file,))._replace(sweeper=Sweeper("note", file))
        else:
            yield "notes that it was sent", self._update(s, file, queued=True)._replace(sweeper=ASLEEP)

    # The operator, with the guide's statements.

    def _people(self, s: State) -> Iterator[Move]:
        if not self.setup.operator:
            return
        for file, row in enumerate(s.rows):
            if row is None:
                continue
            typed = {PROCESSING: FAILED, FAILED: PENDING}.get(row.status)
            if typed:
                t = self._update(s, file, status=typed)
                yield Move("operator", f"types {row.status} -> {typed} for {named((file,))}", NEVER, t)
            t = self._write(s, self._ledger(file), rows=replaced(s.rows, file, None))
            yield Move("operator", f"deletes the row of {named((file,))}", NEVER, t)


def named(files: tuple[int, ...]) -> str:
    """Files as a trace names them."""
    return " and ".join(f"file {chr(ord('A') + file)}" for file in files)


def fresh(s: State) -> int:
    """The smallest id that nobody uses as claim or load."""
    used = {s.holder, *s.applied}
    used.update(row.claim for row in (*s.rows, s.sweeper.row) if row)
    for w in s.workers:
        used.update((w.claim, w.load))
    for tx in s.orphans:
        used.update((tx.holder, tx.load), (row.claim for _, row, _ in tx.rows))
    return next(n for n in count(1) if n not in used)


def flaws(s: State, guide: bool = False) -> list[str]:
    """The promises that this state breaks."""
    found = [s.flaw] if s.flaw else []
    for row, load, n in zip(s.rows, s.applied, s.data, strict=True):
        if n > 1:
            found.append(TWICE)
        if not guide and (n > 0) != (load > 0):
            found.append(MISMATCH)
        if n == 0 and row and row.status == row.recorded == COMPLETED:
            found.append(LIE)
    return found


def unfinished(s: State, max_attempts: int) -> str:
    """Why this state is no good end; empty if it is one."""
    if any(w != IDLE for w in s.workers) or s.orphans or s.sweeper != ASLEEP:
        return "somebody is still at work"
    if any(s.queue):
        return "a message is left on the queue"
    if s.holder:
        return "the turn is held"
    for row, load in zip(s.rows, s.applied, strict=True):
        if load:
            if row and row.status != COMPLETED:
                return f"applied, but the ledger says {row.status}"
        elif row is None:
            return "not applied, and not in the ledger"
        elif not (_row(row).held or _row(row).final or (row.status == FAILED and row.alone >= max_attempts)):
            return f"not applied, and {row.status} without a reason that is final"
    return ""
