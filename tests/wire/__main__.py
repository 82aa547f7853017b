"""`python -m wire --histories 2000 --seed 1`: a campaign and its score; exit code 1 if it found a violation."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import sys
import time

os.environ.update(
    POWERTOOLS_SERVICE_NAME="wire", POWERTOOLS_METRICS_NAMESPACE="FireboltCdc", POWERTOOLS_LOG_LEVEL="CRITICAL"
)

from spread import spread
from wire.campaign import SLICE, Score, run_slice
from wire.guide import report
from wire.knockouts import KNOCK_OUTS
from wire.table import KINDS, fault_at_each_statement
from wire.world import HARD, LOG, Lab, World


def main() -> int:
    """Run, print, and say by the exit code whether the promise held."""
    parser = argparse.ArgumentParser(prog="python -m wire", description=__doc__)
    parser.add_argument("--histories", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    parser.add_argument("--knock-out", choices=sorted(KNOCK_OUTS), help="take one safety mechanism away")
    parser.add_argument("--table", action="store_true", help="instead: every fault at each statement that it fits")
    parser.add_argument("--guide", action="store_true", help="instead: the deployment guide's protocol, and ours")
    given = parser.parse_args()

    if given.table:
        return table()
    if given.guide:
        with Lab() as lab:
            return report(lab, given.histories, given.seed)
    score, began = Score(), time.monotonic()
    run = functools.partial(run_slice, given.seed, given.knock_out, given.keep_going)
    with contextlib.closing(spread(run, given.histories, SLICE, given.jobs)) as slices:
        for part in slices:
            score.add(part)
            score.seconds = time.monotonic() - began
            for seed, text in part.violations:
                print(f"seed {seed}: {text.splitlines()[0]}", file=sys.stderr)
            if not given.json and score.histories % 50 == 0:
                speed = score.histories / score.seconds
                broken = len(score.violations)
                print(f"{score.histories} histories, {speed:.1f}/s, {broken} violations", file=sys.stderr)
            if score.violations and not given.keep_going:
                break
    result = {
        "histories": score.histories,
        "seeds": [given.seed, given.seed + given.histories - 1],
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
    """Every kind of the families at each statement of a load that it fits."""
    with Lab() as lab:
        for kind, target in itertools.product(KINDS, (LOG, HARD)):
            world = World(lab, conflict_status=400)
            try:
                fault_at_each_statement(world, target, lambda _, kind=kind: (kind,))
                loaded = len(world.applied())
            finally:
                world.close()
            print(f"{kind.name:16} {target:4} {world.proxy.injected[kind]:3} injected, {loaded} files applied once")
    return 0


if __name__ == "__main__":
    sys.exit(main())
