"""The protocol's decisions, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from firebolt_cdc.errors import TurnLostError
from firebolt_cdc.protocol import LedgerRow, SweepAction, Turn, Verdict, decide_claim, decide_sweep, require_turn

FREE = Turn("sessions", "b/p/", None, False, 1, "file")
BUSY = Turn("sessions", "b/p/", "other", True, 1, "file")
EXPIRED = Turn("sessions", "b/p/", "other", False, 1, "file")


def row(status: str, recorded: str | None = None, **more: Any) -> LedgerRow:
    values = {"claim_id": None, "alone_count": 0, "error_class": None, "error_message": None} | more
    return LedgerRow("f", status, recorded or status, **values)


@pytest.mark.parametrize(
    ("applied", "turn", "ledger_row", "verdict"),
    [
        (False, FREE, None, Verdict.CLAIM),
        (False, EXPIRED, None, Verdict.CLAIM),
        (False, BUSY, None, Verdict.WAIT),
        (False, None, None, Verdict.WAIT),
        (True, FREE, None, Verdict.DUPLICATE),
        (True, BUSY, row("processing", claim_id="other"), Verdict.DUPLICATE),
        (True, None, None, Verdict.DUPLICATE),
        (False, FREE, row("processing", claim_id="dead"), Verdict.CLAIM),
        (False, FREE, row("pending"), Verdict.CLAIM),
        (False, FREE, row("failed", error_class="transient", alone_count=2), Verdict.CLAIM),
        (False, FREE, row("failed", error_class="transient", alone_count=3), Verdict.REJECT),
        (False, FREE, row("processing", claim_id="dead", alone_count=3), Verdict.REJECT),
        (False, BUSY, row("processing", claim_id="other", alone_count=3), Verdict.WAIT),
        (False, FREE, row("failed", error_class="permanent"), Verdict.REJECT),
        (False, FREE, row("failed", error_class="gone"), Verdict.REJECT),
        (False, FREE, row("pending", "failed", error_class="permanent", alone_count=9), Verdict.CLAIM),
        (False, FREE, row("failed", "processing", claim_id="dead"), Verdict.CLAIM),
        (False, BUSY, row("failed", "processing", claim_id="other"), Verdict.WAIT),
        (False, FREE, row("pending", error_class="held"), Verdict.HOLD),
        (False, FREE, row("completed"), Verdict.CLAIM),
    ],
)
def test_claims(applied: bool, turn: Turn | None, ledger_row: LedgerRow | None, verdict: Verdict) -> None:
    decision = decide_claim(
        applied=applied, turn=turn, row=ledger_row, pipeline="b/p/", order_format="file", max_attempts=3
    )
    assert decision.verdict is verdict
    assert decision.reason or verdict in (Verdict.CLAIM, Verdict.DUPLICATE)


def claim(ledger_row: LedgerRow | None, turn: Turn = FREE, **changes: Any) -> Any:
    arguments = {"applied": False, "pipeline": "b/p/", "order_format": "file", "max_attempts": 3} | changes
    return decide_claim(turn=turn, row=ledger_row, **arguments)


def test_a_file_that_is_given_up_says_so_in_the_ledger_once() -> None:
    assert claim(row("processing", claim_id="dead", alone_count=3)).give_up
    assert claim(row("failed", "processing", claim_id="dead", alone_count=3)).give_up  # else each sweep sends it again
    assert not claim(row("failed", error_class="transient", alone_count=3)).give_up


def test_another_pipelines_target_is_refused() -> None:
    assert claim(None, pipeline="b/q/").verdict is Verdict.REJECT


def test_another_order_format_is_held() -> None:
    assert claim(None, order_format="change_seq:s").verdict is Verdict.HOLD


@pytest.mark.parametrize(
    ("ledger_row", "verdict"),
    [
        (None, Verdict.HOLD),
        (row("pending"), Verdict.HOLD),
        (row("pending", claim_id="dead", alone_count=1), Verdict.HOLD),
        (row("pending", "failed"), Verdict.HOLD),
        (row("pending", "failed", merge_asked=True), Verdict.CLAIM),
        (row("pending", merge_asked=True), Verdict.CLAIM),
        (row("failed", error_class="transient", merge_asked=True), Verdict.CLAIM),
        (row("processing", claim_id="dead", merge_asked=True), Verdict.CLAIM),
        (row("pending", error_class="held", merge_asked=True), Verdict.HOLD),
        (row("completed", merge_asked=True), Verdict.HOLD),
        (row("skipped", merge_asked=True), Verdict.HOLD),
    ],
)
def test_a_reload_is_held_until_a_person_decides(ledger_row: LedgerRow | None, verdict: Verdict) -> None:
    decision = claim(ledger_row, reloaded=True)
    assert decision.verdict is verdict
    assert decision.asked is (verdict is Verdict.CLAIM)


def test_what_a_person_set_to_pending_has_a_fresh_budget() -> None:
    assert claim(row("pending", "failed", alone_count=9)).fresh_budget
    assert not claim(row("pending", alone_count=1)).fresh_budget


def test_a_file_whose_last_claim_died_is_tried_alone() -> None:
    assert claim(row("processing", claim_id="dead")).suspect
    assert claim(row("pending", claim_id="dead")).suspect, "the sweep's reset keeps the mark"
    assert not claim(row("pending")).suspect, "given back untried"


def test_a_row_that_contradicts_cdc_applied_is_mended() -> None:
    assert claim(row("failed", error_class="permanent"), applied=True).mend
    assert not claim(row("completed"), applied=True).mend


def test_a_load_needs_its_own_turn() -> None:
    mine = Turn("sessions", "b/p/", "me", False, 1, "file")
    require_turn(mine, "me", 1)
    for turn, generation in ((BUSY, 1), (FREE, 1), (None, 1), (mine, 2)):
        with pytest.raises(TurnLostError):
            require_turn(turn, "me", generation)


@pytest.mark.parametrize(
    ("applied", "turn", "ledger_row", "lately", "action"),
    [
        (True, FREE, row("failed"), False, SweepAction.MEND),
        (True, BUSY, row("processing", claim_id="other"), False, SweepAction.MEND),
        (False, BUSY, row("processing", claim_id="other"), False, SweepAction.LEAVE),
        (False, BUSY, row("processing", claim_id="dead"), False, SweepAction.RESET),
        (False, EXPIRED, row("processing", claim_id="other"), False, SweepAction.RESET),
        (False, FREE, row("pending"), False, SweepAction.REQUEUE),
        (False, FREE, row("pending"), True, SweepAction.LEAVE),
        (False, FREE, row("pending", "failed", error_class="permanent", alone_count=9), False, SweepAction.REQUEUE),
        (False, FREE, row("pending", error_class="held"), False, SweepAction.LEAVE),
        (False, FREE, row("failed", error_class="permanent"), False, SweepAction.LEAVE),
        (False, FREE, row("failed", error_class="transient", alone_count=1), False, SweepAction.REQUEUE),
        (False, FREE, row("failed", error_class="transient", alone_count=3), False, SweepAction.LEAVE),
        (False, FREE, row("pending", error_class="transient", alone_count=3), False, SweepAction.REQUEUE),
        (False, FREE, row("failed", "processing", claim_id="dead"), False, SweepAction.REQUEUE),
        (False, BUSY, row("failed", "processing", claim_id="other"), False, SweepAction.LEAVE),
    ],
)
def test_sweeps(applied: bool, turn: Turn, ledger_row: LedgerRow, lately: bool, action: SweepAction) -> None:
    found = decide_sweep(applied=applied, turn=turn, row=ledger_row, max_attempts=3, enqueued_lately=lately)
    assert found is action
