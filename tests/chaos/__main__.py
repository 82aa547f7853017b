"""`python -m chaos --files 1000 --kills 50 --seed 1 [--json]`: a campaign and its score; exit code 1 if anything was
loaded twice, lost, or left undone. A stack that runs is used and left running."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from chaos.campaign import Campaign, Score, Setting, variables
from stack import local
from stack.paths import ENV
from stack.pipeline import Pipeline

BIG_MEMORY_MB = 10240
"""Of the loader that reads the big file: Lambda's most. A loader of 2048 MB refuses the file."""


def main() -> int:
    """Run, print, and say by the exit code whether the promise held."""
    default = Setting()
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--files", type=int, default=default.files, help="small files")
    parser.add_argument("--tables", type=int, default=default.tables, help="merge and append by turns")
    parser.add_argument("--kills", type=int, default=default.kills, help="loader processes to end with SIGKILL")
    parser.add_argument("--restarts", type=int, default=default.restarts, help="of the engine, with SIGKILL")
    parser.add_argument("--duplicates", type=float, default=default.duplicates, help="share of files announced again")
    parser.add_argument("--big-rows", type=int, default=default.big_rows, help="rows of the one big file; 0: none")
    parser.add_argument("--big-seconds", type=int, default=default.big_seconds, help="timeout of its loader")
    parser.add_argument("--seconds", type=float, help="how long deliveries and faults last")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--json", action="store_true", help="print the score as JSON")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    given["seconds"] = given["seconds"] or max(20.0, given["files"] * 0.6)
    console = Console(stderr=as_json, highlight=False)

    def report(text: str) -> None:
        console.print(f"  {text}", style="dim")

    running = ENV.exists() and local.EMULATOR.running() and local.STANDIN.running()
    setting, good = Setting(**given), False
    try:
        big = (setting.big_seconds, BIG_MEMORY_MB) if setting.big_rows else ()
        local.up(report, variables(setting.tables, *big))
        with Pipeline() as pipeline:
            campaign = Campaign(setting, pipeline, report)
            if setting.big_rows:
                campaign.starve()
                local.up(report, variables(setting.tables))
            campaign.deliver()
            score = campaign.finish()
        good = score.good
        if as_json:
            print(score.as_json())
        else:
            show(console, score)
    finally:
        if not running:
            local.down(keep_logs=not good)
    return 0 if good else 1


def show(console: Console, score: Score) -> None:
    """The score as a table."""
    table = Table("whole-stack chaos", "", title_justify="left")
    for name, value in vars(score).items():
        if name not in ("setting", "findings"):
            table.add_row(name.replace("_", " "), f"{value:,}")
    table.add_row("seed", str(score.setting.seed))
    console.print(table)
    for finding in score.findings:
        console.print(finding, style="red")
    console.print("every promise kept" if score.good else "BROKEN", style="green" if score.good else "bold red")


if __name__ == "__main__":
    sys.exit(main())
