"""Loading files from the operator's machine: the loader's own code, with more time and memory than Lambda gives.

It claims the table's turn like any loader, with a lease as long as `--max-duration`, so nobody else loads the table
meanwhile. A command that is stopped gives the turn back; one that is killed holds it until the lease ends.
"""

from __future__ import annotations

import functools
import os
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from firebolt_cdc import files, loader, migrations
from firebolt_cdc.config import Config
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import FailureClass, PermanentError
from firebolt_cdc.events import Delivery, Origin
from firebolt_cdc.ledger import ANEW, with_conflict_retries
from firebolt_cdc.loader import Ending, Outcome
from firebolt_cdc.sql import marks
from firebolt_cdc.storage import ObjectInfo, Storage

BUSY_SECONDS = 5.0
"""Between two looks at a table that another worker is loading."""
LONGEST_SECONDS = 12 * 3600
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])$")
_URL = re.compile(r"s3://([^/]+)/(.+)$", re.DOTALL)


@dataclass
class OwnMachine:
    """What Lambda's context says of an invocation, said of this process: the time it is given, half the memory here."""

    seconds: float
    function_name: str = "firebolt-cdc"
    invoked_function_arn: str = "firebolt-cdc load"
    aws_request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    memory_limit_in_mb: int | str = field(
        default_factory=lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**21
    )

    def __post_init__(self) -> None:
        self._deadline = Deadline(self.seconds)

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until `seconds` have passed."""
        return int(self._deadline.remaining_seconds() * 1000)


def duration_seconds(text: str) -> float:
    """A duration such as `90s`, `30m` or `2h`.

    Raises:
        PermanentError: it is none, or shorter than a minute or longer than LONGEST_SECONDS.
    """
    match = _DURATION.match(text)
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not 60 <= seconds <= LONGEST_SECONDS:
        raise PermanentError(f"{text!r} is no duration: expected 1m to {LONGEST_SECONDS // 3600}h, such as 90m or 2h")
    return seconds


def look_up(config: Config, storage: Storage, name: str) -> ObjectInfo:
    """The object that an operator names by its file_key or as s3://bucket/key.

    Raises:
        PermanentError: it is in another bucket than the pipeline's, or a file that no table takes.
        GoneError, TransientError: S3 has no such object, or does not say.
    """
    match = _URL.match(name)
    bucket, key = (match[1], match[2]) if match else (config.source.bucket, config.source.prefix + name)
    info = storage.look_up(bucket, key)
    files.identify(config, info.version)
    return info


def load(config: Config, objects: Sequence[ObjectInfo], seconds: float) -> list[Outcome]:
    """Load files, waiting for tables that others are loading; what had failed, was held or skipped begins anew.

    Raises:
        CdcError: the ledger cannot be read or written; nothing was loaded.
    """
    context = OwnMachine(seconds)
    deadline = Deadline.of(context)
    engine = Engine.of(config, deadline)
    try:
        migrations.require(engine)
        begin_anew(engine, deadline, [info.version.file_id for info in objects])
    finally:
        engine.close()
    outcomes: dict[str, Outcome] = {}
    rest = list(objects)
    while rest:
        with loader.worker(config, context) as work:
            ended = work.run([_delivery(info) for info in rest])
        outcomes |= {outcome.file_key: outcome for outcome, _ in ended}
        busy = {o.file_key for o, _ in ended if o.ending is Ending.WAITING and o.failure is FailureClass.CONFLICT}
        rest = [info for info in rest if files.file_key(config, info.version.key) in busy]
        if deadline.remaining_seconds() < loader.START_SECONDS + BUSY_SECONDS:
            break
        if rest:
            time.sleep(BUSY_SECONDS)
    return list(outcomes.values())


def begin_anew(engine: Engine, deadline: Deadline, file_ids: Sequence[str]) -> None:
    """As the guide's UPDATE by hand: files that code gave up on, or holds, are `pending` with a fresh budget."""
    sql = (
        f"UPDATE cdc_processed_files SET {ANEW} WHERE (status IN ('failed', 'skipped') OR error_class = 'held') "
        f"AND file_id IN ({marks(file_ids)})"
    )
    with_conflict_retries(deadline, functools.partial(engine.query, sql, list(file_ids)))


def _delivery(info: ObjectInfo) -> Delivery:
    version = info.version
    return Delivery(version.bucket, version.key, version.etag, Origin.OPERATOR, datetime.now(UTC))
