"""Controls, which must be red: the deployment guide's protocol, and ours with one mechanism taken away, in histories of
the random campaign that are known to find it (`python -m wire --guide`, `python -m wire --knock-out NAME`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wire.campaign import campaign
from wire.guide import DUPLICATES, LOSSES, toll
from wire.knockouts import knocked_out
from wire.world import Lab

DOUBLES, LOSES = 21, 48
"""Seeds of histories that break the guide's protocol."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def test_the_guides_protocol_doubles_and_loses_where_ours_does_neither(lab: Lab) -> None:
    doubled, lost = (toll(lab, 1, seed) for seed in (DOUBLES, LOSES))
    assert doubled.harm[DUPLICATES]
    assert lost.harm[LOSSES]
    assert not doubled.broken["ours"] + lost.broken["ours"]


@pytest.mark.parametrize(
    ("mechanism", "seed", "found"),
    [
        ("applied", 1, "twice in cdc_applied"),
        ("turn", 14, "twice in cdc_applied"),
        ("guard", 4, "twice in cdc_applied"),
    ],
)
def test_the_campaign_finds_what_is_knocked_out(lab: Lab, mechanism: str, seed: int, found: str) -> None:
    with knocked_out(mechanism) as rewrite:
        score = campaign(lab, 1, seed, rewrite)
    assert score.violations
    assert found in score.violations[0][1]
