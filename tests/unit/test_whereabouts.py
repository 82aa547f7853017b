"""What happens to a file next: one sentence for each state that a file can be in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from firebolt_cdc.config import Config
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.files import FileVersion, identify
from firebolt_cdc.protocol import OTHER_ORDER, LedgerRow, Turn
from firebolt_cdc.storage import ObjectInfo
from firebolt_cdc.whereabouts import Applied, Holding, Recorded, Whereabouts, keys, next_step

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CHANGE, FULL = "fair/sessions/20260101-1.parquet", "fair/sessions/LOAD00000001.parquet"
OTHER = "fair/new/20260101-1.parquet"
RETRY = "firebolt-cdc retry fair/sessions/20260101-1.parquet --yes"


def config(**changes: Any) -> Config:
    return Config.model_validate(
        {
            "name": "test",
            "source": {"bucket": "source", "prefix": "dms/"},
            "firebolt": {"database": "d", "core_url": "http://127.0.0.1:1"},
            "queue": {"url": "q", "arn": "q", "dlq_url": "d", "dlq_arn": "d"},
            "staging": {"bucket": "module"},
            "tables": {"fair/sessions": {"target": "sessions", "mode": "merge", "primary_key": ["sid"]}},
            **changes,
        }
    )


def turn(name: str = "sessions", **changes: Any) -> Turn:
    return Turn(
        **{
            "name": name,
            "pipeline": "source/dms/",
            "holder": None,
            "live": False,
            "generation": 1,
            "order_format": "file",
            **changes,
        }
    )


def row(status: str, recorded: str | None = None, alone: int = 0, **changes: Any) -> dict[str, Any]:
    return {"status": status, "recorded_status": recorded or status, "alone_count": alone, **changes}


def line(generation: int = 1, target: str = "sessions", load_id: str = "abc", **changes: Any) -> dict[str, Any]:
    return {"generation": generation, "target": target, "load_id": load_id, **changes}


def say(
    recorded: dict[str, Any] | None = None,
    *lines: dict[str, Any],
    key: str = CHANGE,
    gone: bool = False,
    modified: datetime = NOW,
    waiting: int = 0,
    turns: tuple[Turn, ...] = (turn(), turn("*source/dms/")),
    **changes: Any,
) -> str:
    """The sentence for a file with this ledger row and these lines in `cdc_applied`."""
    settings = config(**changes)
    version = FileVersion("source", f"dms/{key}", "e1")
    try:
        source, refusal = identify(settings, version), None
    except PermanentError as error:
        source, refusal = None, error
    ledger = ()
    if recorded is not None:
        columns = {"file_id": version.file_id, "claim_id": None, "error_class": None, "error_message": None}
        ledger = (Recorded(LedgerRow(**columns | recorded), "e1", 1, NOW),)
    applied = tuple(
        Applied(
            of.applied_id(a["target"], a["generation"]),
            of.file_id,
            of.etag,
            a["target"],
            a["generation"],
            a["load_id"],
            NOW,
            1,
            a.get("note"),
        )
        for a in lines
        for of in (FileVersion("source", f"dms/{key}", a.get("etag", "e1")),)
    )
    info = None if gone else ObjectInfo(version, 1, modified)
    held = {t.name: Holding(t, NOW) for t in turns}
    return next_step(Whereabouts(version, key, info, source, refusal, ledger, applied, held), settings, waiting)


BUSY = (turn(holder="w", live=True),)


@pytest.mark.parametrize(
    ("recorded", "lines", "said"),
    [
        (row("completed"), [line()], "It is in the target."),
        (None, [line()], "It is in the target."),
        (row("skipped"), [line()], "It is in the target."),
        (row("failed"), [line()], "It is in the target; the next sweep corrects its line in the ledger."),
        (
            row("completed"),
            [line(load_id="settled-permanent", note="settled by hand: unwanted")],
            "It was settled by hand: unwanted; it counts as applied, so nothing loads it.",
        ),
        (
            None,
            [line(load_id="adopted")],
            "It counts as applied since a ledger made by hand was adopted, so nothing loads it.",
        ),
    ],
)
def test_what_is_applied(recorded: dict[str, Any] | None, lines: list[dict[str, Any]], said: str) -> None:
    assert say(recorded, *lines) == said
    assert say(recorded, *lines, gone=True) == said, "the object need not be there any more"
    assert say(recorded, *lines, turns=BUSY) == said


def test_what_is_applied_without_deduplication() -> None:
    assert say(row("completed"), line(), deduplication_enabled=False) == (
        "It is in the target; deduplication is off, so each further delivery loads it again."
    )


def test_what_has_no_line_in_the_ledger() -> None:
    assert say() == "No event has announced it yet: the next reconciliation (hourly by default) sends it to the queue."
    assert say(waiting=3).startswith(
        "No worker has taken it yet: it may be among the 3 messages of the queue; if no ev"
    )
    assert say(turns=BUSY) == (
        "It waits on the queue for the turn of sessions; if no event has announced it, the next reconciliation (hourly "
        "by default) sends it to the queue."
    )
    since = {"bucket": "source", "prefix": "dms/", "start_after": NOW}
    assert say(source=since) == (
        f"No event has announced it yet: the reconciliation leaves it out, for it is older than "
        f"source_bucket.start_after ({NOW}); firebolt-cdc load {CHANGE} --yes loads it."
    )
    assert "sends it" in say(source=since, modified=NOW + timedelta(seconds=1))
    assert "it waits: the table has no row in cdc_tables: run the migrate function" in say(turns=())
    assert "it is refused: the target belongs to the pipeline else/" in say(turns=(turn(pipeline="else/"),))
    assert "it is held: the table's rows are ordered by 'number:n'" in say(turns=(turn(order_format="number:n"),))
    assert "it is held: DMS has reloaded the table" in say(None, line(etag="e0"), key=FULL)
    assert say(None, line(etag="e0"), key=CHANGE).startswith("No event has"), "other content of a file of changes"


@pytest.mark.parametrize(
    ("recorded", "free", "busy"),
    [
        (
            row("pending"),
            "It is on the queue, or goes there with the next sweep.",
            "It waits on the queue for the turn of sessions.",
        ),
        (
            row("failed", alone=2, error_class="transient"),
            "It is tried again by itself (2 of 3 attempts).",
            "It is tried again by itself (2 of 3 attempts), when the turn of sessions is free.",
        ),
        (
            row("pending", "failed", alone=3),
            "A person asked for it again, with a fresh budget of attempts. It is on the queue, or goes there with the "
            "next sweep.",
            "A person asked for it again, with a fresh budget of attempts. It waits on the queue for the turn of "
            "sessions.",
        ),
    ],
)
def test_what_is_tried_again(recorded: dict[str, Any], free: str, busy: str) -> None:
    assert (say(recorded), say(recorded, turns=BUSY)) == (free, busy)
    assert say(recorded, gone=True) == "Its object is gone from S3: the next try ends as failed, class gone."
    assert say(recorded, turns=(turn(pipeline="else/"),)).startswith(
        "When it is tried again, it is refused: the target"
    )


def test_a_person_asked_for_what_had_failed_for_good() -> None:
    for failure in ("permanent", "held"):
        assert say(row("pending", "failed", error_class=failure)).startswith("A person asked for it again")


def test_what_only_a_person_moves() -> None:
    assert say(row("failed", alone=1, error_class="permanent")) == (
        f"Given up: mend the cause (the ledger's message), then {RETRY}"
    )
    assert say(row("failed", alone=3, error_class="transient")) == (
        f"Given up after 3 of 3 attempts: mend the cause (the ledger's message), then {RETRY}"
    )
    assert say(row("failed", error_class="gone"), gone=True) == (
        "Given up, and its object is gone from S3: have it written again, or count it as dealt with: "
        f"firebolt-cdc settle {CHANGE} --reason TEXT --yes"
    )
    assert say(row("pending", error_class="held", error_message="decide")) == "Held: decide"
    assert say(row("pending", error_class="held", error_message="decide"), turns=BUSY) == "Held: decide"
    other = row("pending", error_class="held", error_message=f"{OTHER_ORDER} 'number:n', and so on")
    assert say(other, turns=(turn(order_format="number:n"),)).startswith("Held: the table's rows are ordered by")
    assert say(other).endswith("the next sweep sends it to the queue.")
    assert say(
        row("failed", alone=1, error_class="permanent"), key="fair/sessions/my file/20260101-1.parquet"
    ).endswith("firebolt-cdc retry 'fair/sessions/my file/20260101-1.parquet' --yes")


def test_a_file_in_the_hands_of_a_worker() -> None:
    mine = row("processing", claim_id="w")
    assert say(mine, turns=BUSY) == f"A worker is loading it now, until {NOW} at the latest."
    moved = (turn(), turn("before", holder="w", live=True))
    assert say(mine, turns=moved).startswith("A worker is loading it"), "under the turn that its table had"
    for other in (turn(), turn(holder="w"), turn(holder="x", live=True)):
        assert say(mine, turns=(other,)) == (
            "Its worker is gone without a word: the next sweep sends it to the queue again."
        )


def test_a_line_that_says_done_where_nothing_is_applied() -> None:
    sent = "the next reconciliation (hourly by default) sends it to the queue."
    assert (
        say(row("completed"))
        == f"The ledger says completed, but cdc_applied does not have it for the table as it is: {sent}"
    )
    assert say(row("completed"), line(target="before")).startswith("The ledger says completed"), "in another target"
    assert say(row("skipped")) == f"It was skipped, but a table takes it now: {sent}"


def test_generations() -> None:
    second = (turn(generation=2, superseded_before=NOW),)
    older = NOW - timedelta(seconds=1)
    superseded = "Superseded by a reload: it is older than the full load with which sessions began anew."
    for recorded in (None, row("skipped"), row("completed"), row("failed", error_class="permanent")):
        assert say(recorded, line(1), modified=older, turns=second) == superseded
    assert say(row("completed"), line(1), gone=True, turns=second) == (
        "Superseded by a reload of sessions, which began without it: its object is gone from S3."
    )
    assert say(row("completed"), line(1), line(2), turns=second) == "It is in the target."
    assert say(row("completed"), line(1), turns=second).startswith("The ledger says completed"), "written again since"
    assert say(row("pending"), line(2)) == "It is on the queue, or goes there with the next sweep.", "in a shadow only"


def test_files_of_tables_that_the_map_does_not_list() -> None:
    assert say(key=OTHER).startswith(
        "No event has announced it yet: the next reconciliation (hourly by default) sends "
    )
    assert "; it fails then: s3://source/dms/fair/new/20260101-1.parquet: the table fair/new is not in" in say(
        key=OTHER
    )
    assert say(row("failed", error_class="permanent"), key=OTHER).startswith("Given up: mend the cause")
    assert say(row("pending", "failed"), key=OTHER).startswith("The next try fails: s3://source/dms/fair/new/")
    skipped = say(row("skipped"), key=OTHER, unlisted_tables="skip")
    assert skipped.startswith("Skipped: s3://source/dms/fair/new/20260101-1.parquet: the table fair/new is not in")
    assert say(row("completed"), line(target="new"), key=OTHER) == (
        "It was applied to new; no table of the map takes it now, so nothing more happens."
    )
    assert say(key="fair/sessions/notes.txt").startswith(
        "This pipeline leaves it alone: s3://source/dms/fair/sessions/"
    )


def test_files_of_unlisted_tables_that_are_appended() -> None:
    append: dict[str, Any] = {"key": OTHER, "unlisted_tables": "append"}
    assert say(row("completed"), line(target="fair__new"), **append) == "It is in the target."
    assert say(row("pending"), **append) == "It is on the queue, or goes there with the next sweep."
    own = (turn("*source/dms/"), turn("fair__new"))
    assert say(row("pending"), turns=own, **append).startswith("When it is tried again, it waits: fair__new has a turn")
    delisted = (turn("*source/dms/"), turn("fair__new", listed=False, generation=2, superseded_before=NOW))
    assert "it is refused: the unlisted table fair/new" in say(row("pending"), turns=delisted, **append)
    assert say(row("completed"), line(2, "fair__new"), turns=delisted, **append) == "It is in the target."


def test_names() -> None:
    settings = config()
    assert keys(settings, CHANGE) == [f"dms/{CHANGE}"]
    assert keys(settings, f"dms/{CHANGE}") == [f"dms/{CHANGE}", f"dms/dms/{CHANGE}"]
    assert keys(settings, f"s3://source/dms/{CHANGE}") == [f"dms/{CHANGE}"]
    assert keys(config(source={"bucket": "source"}), CHANGE) == [CHANGE]
    with pytest.raises(PermanentError, match="this pipeline reads the bucket source"):
        keys(settings, f"s3://other/dms/{CHANGE}")
