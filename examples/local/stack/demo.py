"""`make demo`: the pipeline at work on real data, told step by step, each step checked."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from . import data, local
from .paths import LOGS, ROOT
from .pipeline import Pipeline
from .service import StackError

KILLED_FILE = "fair/events/LOAD00000001.parquet"
KILLED_ROWS = 200_000
POISON_FILE = "fair/sessions/2024/11/25/20241125-080000000.parquet"
LATE_FILE = 3  # which of the change files is held back until all others are applied


class Story:
    """What is told on the screen, and what was found on the way."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = 160
        self.began = time.monotonic()
        self.findings: list[dict[str, Any]] = []

    def chapter(self, title: str) -> None:
        self.console.print(f"\n[bold]{title}[/bold]")

    def say(self, text: str) -> None:
        self.console.print(f"  [dim]{time.monotonic() - self.began:5.0f} s[/dim]  {text}", soft_wrap=True)

    def check(self, ok: bool, what: str, detail: object = "") -> None:
        """Record one finding; a failed one is shown with its detail and fails the demo in the end."""
        self.findings.append({"ok": ok, "what": what, "detail": str(detail)})
        self.say(f"[green]✓[/green] {what}" if ok else f"[red]✗ {what}[/red]  {detail}")

    @property
    def failures(self) -> int:
        return sum(not finding["ok"] for finding in self.findings)

    @contextmanager
    def waiting(self, what: str) -> Iterator[Any]:
        with self.console.status(f"  {what}") as status:
            yield lambda done, total: status.update(f"  {what}: {done} of {total}")


def _put_all(story: Story, pipeline: Pipeline, files: list[data.File], what: str) -> None:
    """Put files, wait for them, and check that each is completed."""
    rows = sum(file.rows for file in files)
    objects = "1 object" if len(files) == 1 else f"{len(files)} objects"
    story.say(f"{objects} with {rows:,} rows put into s3://{pipeline.env['SOURCE_BUCKET']}")
    began = time.monotonic()
    for file in files:
        pipeline.put(file.key, file.body)
    with story.waiting("loaded") as progress:
        entries = pipeline.wait_for([file.key for file in files], 420, progress)
    wrong = {key: entry for key, entry in entries.items() if entry[0] != "completed"}
    story.check(not wrong, f"{what}: all completed in {time.monotonic() - began:.0f} s", wrong)


def full_load(story: Story, pipeline: Pipeline) -> None:
    story.chapter("1  Full load: four tables as DMS writes them")
    _put_all(story, pipeline, data.dataset().full_load, "full load")


def crash(story: Story, pipeline: Pipeline) -> None:
    story.chapter("2  A loader is killed in the middle of a load")
    rows = [{"event_id": number, "sid": number % 1000, "name": "click"} for number in range(KILLED_ROWS)]
    pipeline.put(KILLED_FILE, data.event_file(rows))
    pids = pipeline.kill_in_mid_load(KILLED_FILE)
    story.check(bool(pids), f"SIGKILL for {len(pids)} loader processes while {KILLED_FILE} was being loaded")
    story.say("nobody does anything about it; we look again at the end")
    time.sleep(3)  # the emulator must notice that these processes are gone before it may use them again


def changes(story: Story, pipeline: Pipeline) -> None:
    story.chapter("3  Changes: inserts, updates, deletes, and one file that comes late")
    files = list(data.dataset().changes)
    late = files.pop(LATE_FILE)
    _put_all(story, pipeline, files, "changes")
    story.say(f"{late.key} arrives only now, after {len(files) - LATE_FILE} files that are newer")
    _put_all(story, pipeline, [late], "late file")


def rows(story: Story, pipeline: Pipeline) -> None:
    story.chapter("4  What arrived, row for row and column for column")
    for expected in data.dataset().expected:
        with story.waiting(f"reading {expected.target} back"):
            found = pipeline.read(expected)
        same = found.equals(expected.rows)
        story.check(
            same,
            f"{expected.target}: {found.num_rows:,} rows, equal to the source",
            f"{found.num_rows:,} rows where {expected.rows.num_rows:,} were expected"
            if found.num_rows != expected.rows.num_rows
            else "other values than expected",
        )


def duplicate(story: Story, pipeline: Pipeline) -> None:
    story.chapter("5  The same file again")
    first = data.dataset().full_load[0]
    answer = pipeline.load_by_hand(first.key)
    before = pipeline.value("SELECT COUNT(*) FROM cdc_duplicate_deliveries")
    body = json.loads(answer.get("body", "{}"))
    story.check(body.get("message") == "File already processed", f"invoked by hand: {json.dumps(body)}", answer)
    pipeline.put(first.key, first.body)
    deadline = time.monotonic() + 60
    delivered = before
    while delivered <= before and time.monotonic() < deadline:
        delivered = pipeline.value("SELECT COUNT(*) FROM cdc_duplicate_deliveries")
        time.sleep(0.5)
    story.check(delivered > before, "delivered by S3 again: refused, and counted as a duplicate delivery")
    total, unique, duplicates = pipeline.query(
        'SELECT COUNT(*) AS total_rows, COUNT(DISTINCT "flight_id") AS unique_ids, '
        'COUNT(*) - COUNT(DISTINCT "flight_id") AS duplicates FROM flights'
    )[0]
    story.check(duplicates == 0, f"flights: {total:,} rows, {unique:,} keys, {duplicates} duplicates")


def poison(story: Story, pipeline: Pipeline) -> None:
    story.chapter("6  A broken file between two good ones")
    sound = data.session_file([data.session(sid) for sid in range(1, 500)])
    neighbours = {
        POISON_FILE.replace("080000000", "075900000"): data.session_file([data.session(1)]),
        POISON_FILE.replace("080000000", "080100000"): data.session_file([data.session(2)]),
    }
    for key, body in {POISON_FILE: sound[: len(sound) // 2], **neighbours}.items():
        pipeline.put(key, body)
    entries = pipeline.wait_for([POISON_FILE, *neighbours], 120)
    status, attempts, error = entries[POISON_FILE]
    story.check(status == "failed", f"the broken file is failed after {attempts} attempt(s): {error}", entries)
    story.check(all(entries[key][0] == "completed" for key in neighbours), "its neighbours are completed", entries)
    mine: list[dict[str, Any]] = []
    deadline = time.monotonic() + 30
    while not mine and time.monotonic() < deadline:  # sent after the ledger's line is written
        letters = pipeline.dead_letters()
        mine = [letter for letter in letters if POISON_FILE in json.dumps(letter["body"])]
        time.sleep(0.5)
    reason = mine[0]["attributes"].get("error_class") if mine else None
    story.check(len(mine) == 1, f"its message is in the dead letter queue, with its reason (class {reason})", letters)


def healed(story: Story, pipeline: Pipeline) -> None:
    story.chapter("7  The killed load has healed by itself")
    with story.waiting("the lease ends, the sweep sends the file again"):
        status, attempts, error = pipeline.wait_for([KILLED_FILE], 300)[KILLED_FILE]
    story.check(status == "completed", f"{KILLED_FILE} is completed, attempt {attempts}", error)
    total, unique = pipeline.query("SELECT COUNT(*), COUNT(DISTINCT event_id) FROM events")[0]
    story.check(total == unique == KILLED_ROWS, f"events: {total:,} rows, {unique:,} ids, of {KILLED_ROWS:,} put")


def ledger(story: Story, pipeline: Pipeline) -> None:
    story.chapter("8  The ledger")
    table = Table("file_key", "status", "attempts", "rows read", "applied", "deleted", "error", box=None)
    table.columns[0].no_wrap = True
    for key, status, attempts, read, upserted, deleted, error in pipeline.query(
        "SELECT file_key, status, attempt_count, rows_read, rows_upserted, rows_deleted, error_message "
        "FROM cdc_processed_files ORDER BY processed_at, file_key"
    ):
        colour = "red" if status == "failed" else "green"
        numbers = ["" if number is None else f"{number:,}" for number in (attempts, read, upserted, deleted)]
        table.add_row(key, f"[{colour}]{status}[/{colour}]", *numbers, (error or "")[:60])
    story.console.print(table)
    count = pipeline.value("SELECT COUNT(*) FROM cdc_processed_files")
    files = pipeline.value("SELECT COUNT(DISTINCT file_key) FROM cdc_processed_files")
    story.check(count == files, f"{count} lines for {files} files: never two for one version")


def second_plan(story: Story) -> None:
    story.chapter("9  terraform plan, a second time")
    log = LOGS / "terraform-plan.log"
    with story.waiting("planning"):
        options = ["-detailed-exitcode", "-input=false", "-no-color"]
        status = local.terraform().run("plan", *options, log=log, allowed=(0, 2))
    story.check(status == 0, "no changes", log.read_text()[-2000:] if status else "")


def _tell(story: Story) -> None:
    story.chapter("0  Start: AWS emulator, Firebolt stand-in, package, terraform apply")
    local.down()
    local.up(report=story.say)
    with Pipeline() as pipeline:
        loader = pipeline.env["LOADER_FUNCTION"]
        story.say(f"the Terraform module is applied; its functions, such as {loader}, are real processes")
        for scene in (full_load, crash, changes, rows, duplicate, poison, healed, ledger):
            scene(story, pipeline)
    second_plan(story)


def demo(as_json: bool = False, keep: bool = False) -> int:
    """Tell the story; return 0 when every check held. The stack is stopped afterwards, unless `keep`."""
    story = Story()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop everything on a plain `kill`, too
    stopped = True
    try:
        _tell(story)
        stopped = False
    except StackError as error:
        story.check(False, "the demo could not go on", error)
    except KeyboardInterrupt:
        story.check(False, "interrupted")
    finally:
        if not keep:
            local.down(keep_logs=story.failures > 0 or stopped)
    seconds = time.monotonic() - story.began
    checks = len(story.findings)
    if as_json:
        print(json.dumps({"ok": not story.failures, "seconds": round(seconds), "checks": story.findings}, indent=2))
    verdict = "[green]all hold[/green]" if not story.failures else f"[red]{story.failures} failed[/red]"
    story.console.print(f"\n{checks} checks in {seconds:.0f} s: {verdict}")
    if story.failures and not keep:
        story.console.print(f"Logs: {LOGS.relative_to(ROOT)}")
    return 1 if story.failures else 0
