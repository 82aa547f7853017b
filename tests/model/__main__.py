"""`python -m model`: explore, run the controls, walk at random; prints a score, ends with 1 if a promise broke."""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable

from model.machine import Setup
from model.scenarios import CONTROLS, DEEP, EXHAUSTIVE, RANDOM
from model.search import Trace, explore, walks
from spread import spread

SLICE = 250
"""Random histories that a process runs at one go."""


def histories(setup: Setup, number: int, seed: int, jobs: int, ignore: Iterable[str] = ()) -> tuple[Counter[str], str]:
    """Random histories: how often which promise broke, and the first that broke one, with its seed `<seed>/<n>`."""
    found, first = Counter[str](), ""
    for flaws, trace in spread(functools.partial(walks, setup, seed, ignore), number, SLICE, jobs):
        found.update(flaws)
        first = first or trace
    return found, first


def main() -> int:
    """Run it all; 0 if every promise was kept and every control was seen to break one."""
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("--histories", type=int, default=2000, help="random histories")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of those histories")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--deep", action="store_true", help="explore the bigger worlds too (minutes, gigabytes)")
    parser.add_argument("--json", action="store_true", help="print the score as JSON")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    traces: list[str] = []

    def score(what: str, good: bool, result: str, trace: Trace | str | None, **numbers: float) -> None:
        rows.append({"what": what, "good": good, "result": result, **numbers})
        if trace and not arguments.json:
            traces.append(f"{what}: {trace}")
        if not arguments.json:
            shown = ", ".join(f"{value:,} {name}" for name, value in numbers.items())
            print(f"{'ok ' if good else 'BAD'} {what:<50} {result}; {shown}", flush=True)

    for name, setup in (EXHAUSTIVE | (DEEP if arguments.deep else {})).items():
        r = explore(setup)
        result = r.trace.flaw if r.trace else "every promise kept"
        score(name, r.trace is None, result, r.trace, states=r.states, steps=r.transitions, seconds=round(r.seconds, 1))
    for name, control in CONTROLS.items():
        r = explore(control.setup, control.ignore)
        good = r.trace is not None and r.trace.flaw == control.breaks
        tries = max(1, arguments.histories // 20)
        found, _ = histories(control.at_random, tries, arguments.seed, arguments.jobs, control.ignore)
        length = len(r.trace.moves) if r.trace else 0
        result = f"{r.trace.flaw} after {length} steps" if r.trace else "NOT FOUND"
        score(f"control: {name}", good, result, r.trace, violating=found.total(), histories=tries)
    began = time.monotonic()
    found, first = histories(RANDOM, arguments.histories, arguments.seed, arguments.jobs)
    seconds = round(time.monotonic() - began, 1)
    result = ", ".join(f"{flaw}: {n}" for flaw, n in found.items()) or "every promise kept"
    name = f"random histories (--seed {arguments.seed})"
    score(name, not found, result, first, histories=arguments.histories, seconds=seconds)
    if arguments.json:
        print(json.dumps({"seed": arguments.seed, "rows": rows}, indent=2))
    else:
        print("", *traces, sep="\n\n")
    return 0 if all(row["good"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
