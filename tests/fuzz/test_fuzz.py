"""A short run of every property, the same each time; `make fuzz SEED=N` is the long one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fuzz.bench import BrokenError, Lab, bounded, check_statement
from fuzz.properties import PROPERTIES
from fuzz.runner import run

EXAMPLES, SEED = 100, 1


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.mark.parametrize("entrance", sorted(PROPERTIES))
def test_whatever_comes_in_ends_in_a_way_that_is_allowed(lab: Lab, entrance: str) -> None:
    prop = PROPERTIES[entrance]
    score = run(lab, prop, max(1, round(EXAMPLES * prop.share)), SEED)
    assert not score.failure, score.failure
    assert score.examples > 0


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE canary",
        'INSERT INTO "canary" ("id") SELECT 1',
        "SELECT 1; SELECT 2",
        "SELECT 1 -- 2",
        "SELECT 'a' 'b'' c",
        "UPDATE canary SET id = 2",
        'CREATE TABLE IF NOT EXISTS "merge"" x" ("id" INT)',
        "DELETE FROM cdc_applied WHERE 1 = 1",
    ],
)
def test_statements_that_nobody_meant_are_found(sql: str) -> None:
    with pytest.raises(BrokenError):
        check_statement(sql, ["merge"])


def test_names_and_values_may_hold_anything_within_their_quotes() -> None:
    check_statement("""INSERT INTO "me""r;ge" ("a'--") SELECT '; DROP TABLE canary; -- '' "'""", ['me"r;ge'])


def test_what_hangs_is_found() -> None:
    import threading

    with pytest.raises(BrokenError, match="no answer"):
        bounded(lambda: threading.Event().wait(5), 0.05)
