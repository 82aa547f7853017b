"""The safety mechanisms of the load, each taken away by rewriting the product's SQL: the campaign must then be red."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from firebolt_cdc.engine import Transaction

OUTSIDE = "SELECT applied_id FROM cdc_applied WHERE load_id = ?"
"""The look after an unknown outcome; no part of the transaction."""


def without_turn(sql: str) -> str | None:
    """The load does not write its table's turn (and its statements do not ask for it)."""
    if sql.startswith("UPDATE cdc_tables SET version = version + 1, load_id = ?"):
        return None
    return _unguarded(sql)


def without_applied(sql: str) -> str | None:
    """Nobody looks whether a version is applied."""
    if sql.startswith("SELECT applied_id FROM cdc_applied WHERE applied_id IN"):
        return sql + " AND 1 = 0"
    return sql


def without_guard(sql: str) -> str | None:
    """The load's statements do not ask whether they are inside the load's transaction."""
    return _unguarded(sql)


@contextmanager
def knocked_out(name: str) -> Iterator[Callable[[str], str | None]]:
    """A mechanism's rewriting, while all that the mechanism consists of is gone.

    Two walls keep a lost transaction's statements from being written: the condition in their SQL and the comparison
    of the transaction's id before each of them. Either is enough, so `guard` takes both away.
    """
    if name != "guard":
        yield KNOCK_OUTS[name]
        return
    with mock.patch.object(Transaction, "_require_same", return_value=None):
        yield KNOCK_OUTS[name]


def _unguarded(sql: str) -> str:
    return sql if sql == OUTSIDE else sql.replace("turn = ? AND load_id = ?", "turn = ? AND ? IS NOT NULL")


KNOCK_OUTS: dict[str, Callable[[str], str | None]] = {
    "turn": without_turn,
    "applied": without_applied,
    "guard": without_guard,
}
