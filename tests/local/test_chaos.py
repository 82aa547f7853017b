"""A short campaign; `make chaos` runs the long one."""

from __future__ import annotations

from chaos.campaign import Campaign, Setting, has_tables, variables
from stack import local
from stack.pipeline import Pipeline

SETTING = Setting(files=60, tables=5, kills=4, restarts=1, big_rows=200_000, seconds=25, patience_seconds=240)


def test_nothing_is_lost_or_doubled_under_kills_restarts_and_repeated_deliveries(pipeline: Pipeline) -> None:
    if not has_tables(pipeline, SETTING.tables):  # a stack that `make up` started
        local.up(variables=variables(SETTING.tables))
    campaign = Campaign(SETTING, pipeline)
    campaign.starve()
    campaign.deliver()
    score = campaign.finish()
    assert score.good, score
    assert (score.kills, score.restarts) == (4, 1)
