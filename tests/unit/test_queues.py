"""How long a message waits before it comes again."""

from __future__ import annotations

import pytest

from firebolt_cdc.queues import delay_seconds


@pytest.mark.parametrize(("waits", "longest"), [(0, 5), (1, 10), (2, 20), (4, 80), (5, 120), (1_000_000, 120)])
def test_a_copy_is_delayed_longer_each_time_up_to_two_minutes_and_never_by_the_same(waits: int, longest: int) -> None:
    drawn = {delay_seconds(waits) for _ in range(5_000)}
    assert (min(drawn), max(drawn)) == (2, longest)
