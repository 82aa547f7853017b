"""`python -m wire --histories 2000 --seed 1`: a campaign and its score; exit code 1 if it found a violation."""

from __future__ import annotations

import argparse
import json
import os
import sys

os.environ.update(
    POWERTOOLS_SERVICE_NAME="wire", POWERTOOLS_METRICS_NAMESPACE="FireboltCdc", POWERTOOLS_LOG_LEVEL="CRITICAL"
)

from contextlib import ExitStack

from wire.campaign import Score, campaign, keep
from wire.guide import report
from wire.knockouts import KNOCK_OUTS, knocked_out
from wire.table import KINDS, fault_at_each_statement
from wire.world import Lab, World


def main() -> int:
    """Run, print, and say by the exit code whether the promise held."""
    parser = argparse.ArgumentParser(prog="python -m wire", description=__doc__)
    parser.add_argument("--histories", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    parser.add_argument("--knock-out", choices=sorted(KNOCK_OUTS), help="take one safety mechanism away")
    parser.add_argument("--table", action="store_true", help="instead: every fault at every statement of a load")
    parser.add_argument("--guide", action="store_true", help="instead: the deployment guide's protocol, and ours")
    given = parser.parse_args()

    shown = 0

    def progress(score: Score) -> None:
        nonlocal shown
        for seed, text in score.violations[shown:]:
            print(f"seed {seed}: {text.splitlines()[0]}", file=sys.stderr)
        shown = len(score.violations)
        if not given.json and score.histories % 50 == 0:
            speed = score.histories / score.seconds
            print(f"{score.histories} histories, {speed:.1f}/s, {len(score.violations)} violations", file=sys.stderr)

    if given.table:
        return table()
    if given.guide:
        with Lab() as lab:
            return report(lab, given.histories, given.seed)
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        rewrite = stack.enter_context(knocked_out(given.knock_out)) if given.knock_out else keep
        stop = given.histories if given.keep_going else 1
        score = campaign(lab, given.histories, given.seed, rewrite, stop_after=stop, progress=progress)
    result = {
        "histories": score.histories,
        "seeds": [given.seed, given.seed + score.histories - 1],
        "per_second": round(score.histories / score.seconds, 2),
        "seconds": round(score.seconds, 1),
        "cpu_seconds": round(score.cpu_seconds, 1),
        "violations": len(score.violations),
        "failing_seeds": [seed for seed, _ in score.violations],
        "faults": dict(score.faults.most_common()),
        "counts": dict(score.counts.most_common()),
    }
    if given.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:14} {value}")
        for _, text in score.violations:
            print(f"\n{text}")
    return 1 if score.violations else 0


def table() -> int:
    """Every kind of fault at every statement of a load."""
    with Lab() as lab:
        for kind in KINDS:
            world = World(lab, conflict_status=400)
            try:
                fault_at_each_statement(world, lambda _, kind=kind: kind)
                loaded = len(world.applied())
            finally:
                world.close()
            print(f"{kind.name:16} {world.proxy.injected[kind]:3} injected, {loaded} files applied once")
    return 0


if __name__ == "__main__":
    sys.exit(main())
