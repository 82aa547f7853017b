"""`python -m assumptions --core-url URL --database D`: what the loader assumes of a Firebolt engine, asked of one.

For managed Firebolt: --account A --engine E --database D, and a service account in the environment variables
FIREBOLT_CLIENT_ID and FIREBOLT_CLIENT_SECRET. Scratch tables of the name assumption_<random>_* are made and dropped.
Exit code 1 if an assumption does not hold, 2 if the engine answered no question.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("POWERTOOLS_SERVICE_NAME", "assumptions")
os.environ.setdefault("POWERTOOLS_METRICS_NAMESPACE", "FireboltCdc")

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from assumptions.bench import Bench, Core, ServiceAccount
from assumptions.questions import QUESTIONS, Answer, Verdict, ask

STYLES = {Verdict.HOLDS: "green", Verdict.FAILS: "bold red", Verdict.INFORMATION: "cyan", Verdict.UNASKED: "yellow"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, print, and say by the exit code whether all that was asked holds."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.account and not (given.engine and {"FIREBOLT_CLIENT_ID", "FIREBOLT_CLIENT_SECRET"} <= os.environ.keys()):
        parser.error("--account needs --engine, FIREBOLT_CLIENT_ID and FIREBOLT_CLIENT_SECRET")
    if (given.location is None) is not (given.pattern is None):
        parser.error("--location and --pattern go together")
    bench = _bench(given)
    try:
        answers = [ask(bench, assumption) for assumption in QUESTIONS]
    finally:
        for table in bench.drop():
            print(f"could not be dropped, if it was made: {table}", file=sys.stderr)
    if given.json:
        print(json.dumps([vars(answer) for answer in answers], ensure_ascii=False, indent=2))
    else:
        show(answers)
    if all(answer.verdict is Verdict.UNASKED for answer in answers):
        return 2
    return 1 if any(answer.verdict is Verdict.FAILS for answer in answers) else 0


def show(answers: Sequence[Answer]) -> None:
    """The answers as a table."""
    table = Table("assumption", "answer", "what was seen", show_lines=True)
    for answer in answers:
        style = STYLES[answer.verdict]
        table.add_row(escape(answer.assumption), f"[{style}]{answer.verdict}[/]", escape(answer.seen))
    Console().print(table)


def _bench(given: argparse.Namespace) -> Bench:
    location = (given.location, given.pattern) if given.location else None
    if given.core_url:
        where = {"url": given.core_url, "database": given.database}
        return Bench(Core(), where, parquet_url=given.parquet_url, location=location)
    account = ServiceAccount(
        os.environ["FIREBOLT_CLIENT_ID"], os.environ["FIREBOLT_CLIENT_SECRET"], use_token_cache=False
    )
    where = {"account_name": given.account, "engine_name": given.engine, "database": given.database}
    return Bench(account, where, parquet_url=given.parquet_url, location=location)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m assumptions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    engine = parser.add_mutually_exclusive_group(required=True)
    engine.add_argument("--core-url", help="a Firebolt Core's URL")
    engine.add_argument("--account", help="a managed Firebolt account's name, with --engine")
    parser.add_argument("--engine")
    parser.add_argument("--database", required=True)
    parser.add_argument("--parquet-url", help="s3://… of one Parquet object with rows that the engine may read")
    parser.add_argument("--location", help="a LOCATION's name, with --pattern")
    parser.add_argument("--pattern", help="the key of one Parquet object below the LOCATION's URL")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
