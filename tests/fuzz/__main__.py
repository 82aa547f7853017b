"""`python -m fuzz --examples 2000 --seed 1`: every property at a larger size and its score; exit code 1 on a failure.

--examples is for the properties of single functions; those on the whole pipeline get their share of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter

os.environ.update(
    POWERTOOLS_SERVICE_NAME="fuzz", POWERTOOLS_METRICS_NAMESPACE="FireboltCdc", POWERTOOLS_LOG_LEVEL="CRITICAL"
)

from fuzz.bench import Lab
from fuzz.properties import PROPERTIES
from fuzz.runner import Score, run


def main() -> int:
    """Run, print, and say by the exit code whether every input ended as it may."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--each", type=int, help="the same number for every property, whatever it costs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], choices=sorted(PROPERTIES))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    scores: list[Score] = []
    with Lab() as lab:
        for name, prop in PROPERTIES.items():
            if given.only and name not in given.only:
                continue
            score = run(lab, prop, given.each or max(1, round(given.examples * prop.share)), given.seed)
            scores.append(score)
            if not given.json:
                show(score)
    failed = [score for score in scores if score.failure]
    total = {
        "examples": sum(s.examples for s in scores),
        "entrances": len(scores),
        "seed": given.seed,
        "seconds": round(sum(s.seconds for s in scores), 1),
        "endings": dict(sum((s.endings for s in scores), Counter()).most_common()),
        "failures": {s.entrance: s.failure.splitlines()[-1] for s in failed},
    }
    if given.json:
        print(json.dumps(total))
    else:
        for name, value in total.items():
            print(f"{name:10} {value}")
    return 1 if failed else 0


def show(score: Score) -> None:
    """One property's score, and its failure with how to reproduce it."""
    print(f"{score.entrance}: {score.examples} examples, {score.seconds:.1f} s{', FAILED' if score.failure else ''}")
    for ending, number in score.endings.most_common(12):
        print(f"  {number:7} {ending}")
    if score.failure:
        print(score.failure)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
