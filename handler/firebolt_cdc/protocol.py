"""The decisions of the protocol, as pure functions: what a claim, a load and a sweep do with what they have read.

A file's way through the ledger (`recorded_status` is what code wrote; a different `status` was typed by a person):

    (no row) --claim--> processing --load--> completed
                          |  ^
         batch given back |  | claim (alone, if the last claim died without a word)
                          v  |
                        pending <--sweep, person-- failed --permanent, gone, attempts used up--> dead-letter queue

`cdc_applied` decides whether a version is loaded; the ledger only says what to do with one that is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from firebolt_cdc.errors import FailureClass, TurnLostError


class Status(StrEnum):
    """The guide's statuses, and `skipped` for files that the configuration leaves out."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


OTHER_ORDER = "the table's rows are ordered by"
"""How the reason begins for which files of a table are held whose `order` was changed."""


@dataclass(frozen=True)
class Turn:
    """A row of `cdc_tables` as one transaction sees it."""

    name: str
    pipeline: str
    holder: str | None
    live: bool
    """Whether the holder's lease is in the future, by the engine's clock."""
    generation: int
    order_format: str
    superseded_before: datetime | None = None
    """Objects last modified before this belong to an earlier generation. None in the first one."""
    listed: bool = True
    """Whether the table map for which the migrate function ran last has the target."""


@dataclass(frozen=True)
class LedgerRow:
    """A row of `cdc_processed_files`, as far as decisions need it."""

    file_id: str
    status: str
    recorded_status: str
    claim_id: str | None
    alone_count: int
    error_class: str | None
    error_message: str | None
    turn: str = ""
    """The turn under which it was written last, and what the table map said then of the file."""
    source_table: str | None = None
    target_table: str | None = None
    kind: str | None = None
    merge_asked: bool = False
    """A person asked for it while it was held, see `asked`."""

    @property
    def typed(self) -> bool:
        """Whether a person changed the status since code last wrote it."""
        return self.status != self.recorded_status

    @property
    def final(self) -> bool:
        """Whether code gave up on the file and nobody has asked for another try."""
        return self.status == Status.FAILED and self.error_class in (
            FailureClass.PERMANENT,
            FailureClass.GONE,
        )

    @property
    def failure(self) -> FailureClass:
        """Its class; `transient` where none is known: its workers died, or a person typed `failed`."""
        return next((known for known in FailureClass if known == self.error_class), FailureClass.TRANSIENT)

    @property
    def held(self) -> bool:
        """Whether the file waits for an operator's decision."""
        return self.status == Status.PENDING and self.error_class == FailureClass.HELD

    @property
    def held_for_order(self) -> bool:
        """Whether it waits until the table's order and the configured one agree: then the sweep sends it again."""
        return self.held and (self.error_message or "").startswith(OTHER_ORDER)

    @property
    def asked(self) -> bool:
        """Whether a person has decided that it is loaded although it is a reload, and it has not come to an end since.

        It outlasts the claim that follows the request, which may fail, crash, or be short of time.
        """
        return self.merge_asked and self.status in (Status.PENDING, Status.PROCESSING, Status.FAILED)


RELOADED = "DMS has reloaded the table"


def way_out(table: str | None, *, first: bool = False) -> str:
    """What to do about a full load that is newer than what is loaded.

    Whether the changes before it are part of it, DMS says nowhere. A task that loads a table and captures its changes
    writes the changes that come during a full load after it; of two tasks, one may write changes while the other reads.

    Args:
        table: the target; None where the table map does not list the table.
        first: the table's generation holds no other full load, so that this may be its first.
    """
    if first:
        held = f" (all that are held: firebolt-cdc retry --class held --table {table} --yes)" if table else ""
        anew = "" if table else "list the table in `tables`, apply, and run "
        return (
            "If it is the table's first full load, or another task read it while changes went on being captured: "
            f"firebolt-cdc retry FILE --yes{held} loads it beneath the changes, and nothing is lost. Only if the task "
            f"that wrote the changes has loaded the table anew: {anew}firebolt-cdc reload {table or 'TABLE'} "
            "--same-task, which leaves out the changes that are older than the full load."
        )
    if table is None:
        return (
            "Appending the new full load would repeat its rows: list the table in `tables` and apply, then run "
            "firebolt-cdc reload TABLE or, if that finds nothing to reload from, firebolt-cdc retry FILE --yes. (While "
            "it is not listed, firebolt-cdc retry FILE --yes appends the file all the same.)"
        )
    return (
        "Merging the new full load would leave rows that the source no longer has: when it is complete, and the task "
        f"that wrote the changes wrote it too, run firebolt-cdc reload {table}. (firebolt-cdc retry FILE --yes merges "
        "the file beneath the changes all the same: right for the rest of a full load that is loaded, and for one that "
        "another task read while changes went on being captured.)"
    )


def target_lost(target: str, *, listed: bool) -> str:
    """Why a file is held whose target is missing although files were loaded into it, and what to do about it."""
    begin = f"run firebolt-cdc reload {target if listed else 'TABLE'} --everything"
    return (
        f"the target {target} was filled before and is missing now, or the loader may not see it: a new one would lack "
        "all that was in it. Restore it, then run firebolt-cdc retry FILE --yes; or, to fill a new one from all files "
        f"in S3, {begin if listed else f'list the table in `tables` and apply, then {begin}'} (without --everything "
        "where DMS has loaded the table anew). (firebolt-cdc retry FILE --yes loads the file into a new table all the "
        "same.)"
    )


class Verdict(StrEnum):
    """What a claim does with one file version."""

    CLAIM = "claim"
    DUPLICATE = "duplicate"
    WAIT = "wait"
    REJECT = "reject"
    HOLD = "hold"


@dataclass(frozen=True)
class Decision:
    """A verdict with its reason, and how the claim writes it."""

    verdict: Verdict
    reason: str = ""
    failure: FailureClass = FailureClass.PERMANENT
    """The class under which a rejected file goes to the dead-letter queue: the ledger's."""
    fresh_budget: bool = False
    """A person asked for the file again: attempts count from zero."""
    asked: bool = False
    """A person asked for the file: it is loaded also where it is a reload."""
    suspect: bool = False
    """The last claim of the file died without a word: it is tried alone."""
    mend: bool = False
    """The version is applied but its ledger row says otherwise."""
    give_up: bool = False
    """Its attempts are used up and its ledger row does not say so: it becomes `failed`."""
    earlier: bool = False
    """It is applied in an earlier generation only: a duplicate, unless its object was written again since."""
    foreign: bool = False
    """The target is another pipeline's."""
    delisted: bool = False
    """The target is unlisted now, and was filled as a listed one."""


def decide_claim(
    *,
    applied: bool,
    turn: Turn | None,
    row: LedgerRow | None,
    pipeline: str,
    order_format: str,
    max_attempts: int,
    earlier: bool = False,
    reloaded: bool = False,
    listed: bool = True,
    announced: bool = False,
) -> Decision:
    """Decide about one file version from what one transaction has read.

    Args:
        applied: the version stands in `cdc_applied` for this generation of its target (always False where
            deduplication is switched off).
        turn: the target's turn; None where `cdc_tables` has no row.
        row: the version's ledger row; None where it has none.
        pipeline: this pipeline's name, which must own the turn.
        order_format: the configured encoding of `_cdc_seq`, which must be the table's.
        max_attempts: how often a file may be tried alone.
        earlier: it stands there for an earlier generation, which a reload has superseded (or False, likewise).
        reloaded: it is a full-load file whose key was applied with other content, in the table's generation.
        listed: the table map has its table, so that the turn is the target's own.
        announced: S3 has announced it just now, so that one that was gone may be there again.
    """
    if applied or earlier:
        mend = row is not None and row.status != Status.COMPLETED
        return Decision(Verdict.DUPLICATE, mend=mend, earlier=not applied)
    if turn is None:
        return Decision(Verdict.WAIT, "the table has no row in cdc_tables: run the migrate function (terraform apply)")
    if turn.pipeline != pipeline:
        return Decision(
            Verdict.REJECT,
            f"the target belongs to the pipeline {turn.pipeline}; two pipelines cannot fill one table: "
            "list it in `tables` with another target",
            foreign=True,
        )
    fresh = row is not None and row.typed and row.status == Status.PENDING
    returned = announced and row is not None and row.error_class == FailureClass.GONE and row.final
    if row is not None and not fresh:
        if row.held:
            return Decision(Verdict.HOLD, row.error_message or "held")
        if row.final and not returned:
            return Decision(Verdict.REJECT, row.error_message or "failed for good", row.failure)
    if turn.holder is not None and turn.live:  # before attempts are judged: the last may be under way
        return Decision(Verdict.WAIT, f"the table {turn.name} is being loaded by another worker")
    if turn.order_format != order_format:
        return Decision(
            Verdict.HOLD,
            f"{OTHER_ORDER} {turn.order_format!r}, the configuration says {order_format!r}: restore "
            f"the setting, or run firebolt-cdc reload {turn.name} --everything",
        )
    asked = row is not None and row.asked
    fresh = fresh or returned
    if reloaded and not asked:
        return Decision(
            Verdict.HOLD,
            f"{RELOADED}: a full-load file of this name was applied with other content. "
            f"{way_out(turn.name if listed else None)}",
        )
    if row is not None and not fresh and row.alone_count >= max_attempts:
        return Decision(
            Verdict.REJECT,
            f"tried {row.alone_count} times alone; last: {row.error_message or 'no word'}",
            row.failure,
            give_up=row.typed or row.status != Status.FAILED,
        )
    suspect = row is not None and not fresh and row.claim_id is not None
    return Decision(Verdict.CLAIM, fresh_budget=fresh, asked=asked, suspect=suspect)


def decide_own_turn(turn: Turn, source_table: str) -> Decision:
    """Decide about a file of an unlisted table whose target has a turn of its own.

    Either a newer version lists the table, and loads the file; or it was listed, and its target holds rows that may
    have another form than those of an unlisted table (a key, `deletes`, an order): they are not mixed.
    """
    if turn.listed:
        return Decision(
            Verdict.WAIT,
            f"{turn.name} has a turn of its own, as a listed table: the version that lists it loads the file; if none "
            "does any more, run the migrate function (terraform apply)",
        )
    return Decision(
        Verdict.REJECT,
        f"the unlisted table {source_table} would load into {turn.name}, which was filled while the table map listed "
        "it: list it again with that target, or with another one, and apply, then run firebolt-cdc retry",
        delisted=True,
    )


def needs_operator(row: LedgerRow, max_attempts: int) -> bool:
    """Whether nothing happens to an unfinished file until a person decides."""
    return row.held or row.final or (row.status == Status.FAILED and row.alone_count >= max_attempts)


def require_turn(turn: Turn | None, claim_id: str, generation: int, order_format: str | None = None) -> None:
    """Stop a load whose claim does not hold the turn any more.

    `order_format` is the one in which the rows were ranked; None for those of a new generation, which brings its own.

    Raises:
        TurnLostError: somebody else has it, or the table began a new generation, or changed its order.
    """
    if turn is None or turn.holder != claim_id or turn.generation != generation:
        name = turn.name if turn else "the table"
        raise TurnLostError(f"{name}: this worker's lease ran out and the turn went on; nothing was written")
    if order_format is not None and turn.order_format != order_format:
        raise TurnLostError(
            f"{turn.name}: the order of its changes was set to {turn.order_format!r} after this worker had begun with "
            f"{order_format!r}; nothing was written"
        )


def superseded(turn: Turn | None, last_modified: datetime) -> bool:
    """Whether an object is older than the full load with which its table's generation began."""
    return turn is not None and turn.superseded_before is not None and last_modified < turn.superseded_before


class SweepAction(StrEnum):
    """What the sweep does with one unfinished ledger row."""

    MEND = "mend"
    RESET = "reset"
    REQUEUE = "requeue"
    LEAVE = "leave"


def decide_sweep(
    *, applied: bool, turn: Turn | None, row: LedgerRow, max_attempts: int, enqueued_lately: bool
) -> SweepAction:
    """Decide about one row that is not `completed`.

    Args:
        applied: the version stands in `cdc_applied`.
        turn: the turn under which the row was written.
        row: the row.
        max_attempts: how often a file may be tried alone.
        enqueued_lately: the sweep sent it to the queue within its interval and nobody has claimed it since.

    Returns:
        MEND: it is loaded, say so. RESET: its worker is gone, back to `pending` and to the queue.
        REQUEUE: to the queue. LEAVE: a live worker has it, or a person must decide.
    """
    if applied:
        return SweepAction.MEND
    alive = turn is not None and turn.live and turn.holder is not None and turn.holder == row.claim_id
    if row.status == Status.PROCESSING:
        return SweepAction.LEAVE if alive else SweepAction.RESET
    if row.typed:
        return SweepAction.LEAVE if enqueued_lately or alive else SweepAction.REQUEUE
    if needs_operator(row, max_attempts) or row.status == Status.SKIPPED:
        return SweepAction.LEAVE
    return SweepAction.LEAVE if enqueued_lately else SweepAction.REQUEUE
