"""A reload that breaks anywhere, in a file of its own: the longest test of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from firebolt_cdc import engine
from firebolt_cdc.errors import CdcError
from protocol.reloading import CHANGE, LOAD, carry_out, full, target
from support import Pipeline, sessions


class BrokenError(CdcError):
    """What stops a reload in the test below."""


def test_a_reload_ends_right_wherever_it_is_interrupted(
    pipeline: Pipeline, reloaded: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It breaks before or after every few statements; then it is run again, and goes on or has been done."""
    real: Callable[..., Any] = engine._run
    number, stop, after = 0, 0, False

    def breaking(connection: Any, sql: str, *rest: Any) -> Any:
        nonlocal number
        number += 1
        if number == stop and not after:
            raise BrokenError(f"before {sql[:40]}")
        rows = real(connection, sql, *rest)
        if number == stop and after:
            raise BrokenError(f"after {sql[:40]}")
        return rows

    monkeypatch.setattr(engine, "_run", breaking)
    carry_out(pipeline)
    broken = []
    for place in range(3, number, 3):
        pipeline.later()
        pipeline.put(LOAD.format(1), full((1, f"place {place}")))
        pipeline.put(CHANGE.format(f"15{place:04}"), sessions(("I", 100 + place, "x")))
        number, stop, after = 0, place, place % 2 == 0
        try:
            carry_out(pipeline)
        except BrokenError as error:
            broken.append(str(error))
        stop = 0
        pipeline.sql("UPDATE cdc_tables SET lease_until = CURRENT_TIMESTAMP - INTERVAL '1' SECOND WHERE holder <> ''")
        if target(pipeline)[0] != [1, f"place {place}"]:
            carry_out(pipeline)
        assert target(pipeline)[0] == [1, f"place {place}"], broken
        assert [100 + place, "x"] in target(pipeline), broken
        assert pipeline.sql("SELECT applied_id FROM cdc_applied GROUP BY applied_id HAVING COUNT(*) > 1") == [], broken
        assert pipeline.sql.value("SELECT COUNT(*) FROM cdc_tables WHERE holder IS NOT NULL") == 0, broken
    assert len(broken) > 10
    assert pipeline.clean("sweep")["sweep"]["requeued"] == 0
    assert {status for status, _ in pipeline.ledger().values()} <= {"completed", "skipped"}
