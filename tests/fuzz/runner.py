"""Runs properties with hypothesis and counts how their inputs ended."""

from __future__ import annotations

import random
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import UnsatisfiedAssumption

from fuzz.bench import Lab
from fuzz.properties import Property


@dataclass
class Score:
    """What came of one property."""

    entrance: str
    seed: int
    wanted: int
    examples: int = 0
    seconds: float = 0.0
    endings: Counter[str] = field(default_factory=Counter)
    failure: str = ""

    @property
    def again(self) -> str:
        """How to run the same examples again."""
        return f"python -m fuzz --only {self.entrance} --each {self.wanted} --seed {self.seed}"


def run(lab: Lab, prop: Property, examples: int, seed_: int | None = None) -> Score:
    """Check a property on as many examples, chosen by a seed. A failure is shrunk, and kept in the score."""
    score = Score(prop.entrance, random.SystemRandom().getrandbits(32) if seed_ is None else seed_, examples)

    @seed(score.seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(prop.examples)
    def check(example: object) -> None:
        try:
            ends = prop.check(lab, example)
        except UnsatisfiedAssumption:
            raise
        except Exception as error:
            if not score.failure:  # shrinking takes its time
                score.failure = repr(error)
                print(f"{prop.entrance} failed, now shrinking: {error!r}"[:1000], file=sys.stderr)
            raise
        score.examples += 1
        score.endings.update(ends)

    begun = time.monotonic()
    try:
        check()
        score.failure = ""
    except Exception as error:  # noqa: BLE001 - the caller decides what a failure means
        score.failure = "".join(traceback.format_exception(error)) + f"\nto reproduce: {score.again}"
    score.seconds = time.monotonic() - begun
    return score
