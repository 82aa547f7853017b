"""The running pipeline, seen from outside: what the demo and the tests put in, and what they look at."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from firebolt.client.auth import FireboltCore
from firebolt.db import connect

from . import local
from .data import Expected
from .paths import LOCAL
from .service import StackError, wait_for

FINAL = {"completed", "failed", "skipped"}


class Pipeline:
    """Clients for the stack that is up; raises StackError when none is."""

    def __init__(self) -> None:
        self.env = local.environment()
        self.s3: Any = local.client("s3")
        self.sqs: Any = local.client("sqs")
        self.functions: Any = local.client("lambda")
        self.logs: Any = local.client("logs")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "_connection" in self.__dict__:
            self._connection.close()

    # Firebolt

    @cached_property
    def _connection(self) -> Any:
        url, database = self.env["FIREBOLT_CORE_URL"], self.env["FIREBOLT_DATABASE"]
        return connect(auth=FireboltCore(), url=url, database=database)

    def query(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement; return its rows, or nothing when it has none."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def value(self, sql: str, parameters: Sequence[Any] | None = None) -> Any:
        """The first column of the first row."""
        return self.query(sql, parameters)[0][0]

    def read(self, expected: Expected) -> pa.Table:
        """The target's rows, in the order and with the columns and types of what is expected.

        Reads Firebolt's JSON itself: the SDK takes 25 s to make Python values of 336,776 rows.
        """
        columns = ", ".join(f'"{name}"' for name in expected.rows.schema.names)
        order = ", ".join(f'"{name}"' for name in expected.key)
        request = urllib.request.Request(
            f"{self.env['FIREBOLT_CORE_URL']}/?database={self.env['FIREBOLT_DATABASE']}&output_format=JSON_Compact",
            data=f'SELECT {columns} FROM "{expected.target}" ORDER BY {order}'.encode(),
        )
        with urllib.request.urlopen(request, timeout=300) as response:
            rows = json.load(response)["data"]
        arrays = []
        for field, values in zip(expected.rows.schema, zip(*rows, strict=True), strict=True):
            texts = isinstance(next((value for value in values if value is not None), None), str)
            arrays.append((pa.array(values, pa.string()) if texts else pa.array(values)).cast(field.type))
        return pa.Table.from_arrays(arrays, schema=expected.rows.schema)

    # Files and the ledger

    def put(self, file_key: str, body: bytes) -> str:
        """Put an object below the source prefix, and return its file key, as the ledger spells it."""
        self.s3.put_object(Bucket=self.env["SOURCE_BUCKET"], Key=self.env["SOURCE_PREFIX"] + file_key, Body=body)
        return file_key

    def ledger(self, file_keys: Iterable[str] | None = None) -> dict[str, tuple[str, int, str | None]]:
        """Status, attempts and error message by file key; of all files, or of those given."""
        rows = self.query("SELECT file_key, status, attempt_count, error_message FROM cdc_processed_files")
        wanted = None if file_keys is None else set(file_keys)
        return {key: (status, tries, error) for key, status, tries, error in rows if wanted is None or key in wanted}

    def wait_for(
        self, file_keys: Iterable[str], timeout_s: float = 120, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, tuple[str, int, str | None]]:
        """Wait until each of these files has a final status; return their ledger entries."""
        wanted = set(file_keys)

        def done() -> dict[str, tuple[str, int, str | None]] | None:
            entries = self.ledger(wanted)
            final = sum(entry[0] in FINAL for entry in entries.values())
            if progress:
                progress(final, len(wanted))
            return entries if final == len(wanted) else None

        try:
            return wait_for(f"{len(wanted)} files", done, timeout_s, interval_s=0.5)
        except StackError as error:
            raise StackError(f"{error}; the ledger says {self.ledger(wanted)}") from None

    # Functions and queues

    def invoke(self, function: str, payload: object) -> Any:
        """Invoke a function's alias PROD by hand; raise StackError with its error message when it fails."""
        answer = self.functions.invoke(FunctionName=function, Qualifier="PROD", Payload=json.dumps(payload))
        result = json.loads(answer["Payload"].read())
        if answer.get("FunctionError"):
            raise StackError(f"{function}: {result.get('errorMessage', result)}")
        return result

    def load_by_hand(self, file_key: str) -> Any:
        """Invoke the loader with the payload of the deployment guide, which names bucket and key only."""
        detail = {
            "bucket": {"name": self.env["SOURCE_BUCKET"]},
            "object": {"key": self.env["SOURCE_PREFIX"] + file_key},
        }
        return self.invoke(self.env["LOADER_FUNCTION"], {"detail": detail})

    def cleanup(self, task: str) -> Any:
        """Run one task of the cleanup function: sweep, reconcile, audit or purge."""
        return self.invoke(self.env["CLEANUP_FUNCTION"], {"task": task})

    def dead_letters(self) -> list[dict[str, Any]]:
        """Look at the dead letter queue: bodies and attributes; the messages stay there."""
        answer = self.sqs.receive_message(
            QueueUrl=self.env["DLQ_URL"], MaxNumberOfMessages=10, VisibilityTimeout=0, MessageAttributeNames=["All"]
        )
        return [
            {
                "body": json.loads(message["Body"]),
                "attributes": {k: v.get("StringValue") for k, v in message.get("MessageAttributes", {}).items()},
            }
            for message in answer.get("Messages", [])
        ]

    def queue_length(self) -> int:
        """Messages in the queue, those in flight and those delayed included."""
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        answer = self.sqs.get_queue_attributes(QueueUrl=self.env["QUEUE_URL"], AttributeNames=names)
        return sum(int(answer["Attributes"].get(name, 0)) for name in names)

    def log_lines(self, function: str, since: float) -> list[str]:
        """What a function logged since `since` (a Unix time in seconds), oldest first."""
        group = f"/aws/lambda/{function}"
        pages = self.logs.get_paginator("filter_log_events").paginate(logGroupName=group, startTime=int(since * 1000))
        return [event["message"] for page in pages for event in page["events"]]

    # Faults

    def loader_pids(self) -> list[int]:
        """The loader's processes, busy or waiting for work."""
        pattern = re.compile(rf"ministack-lambda-{re.escape(self.env['LOADER_FUNCTION'])}-[^/]*/_worker\.py")
        return [pid for pid, command in _processes() if pattern.search(command) and str(LOCAL) in command]

    def kill_loaders(self) -> list[int]:
        """End the loader's processes as a crash would."""
        pids = self.loader_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return pids

    def kill_in_mid_load(self, file_key: str, timeout_s: float = 60) -> list[int]:
        """Wait until the ledger says that this file is being processed, then kill the loaders."""

        def processing() -> bool:
            status = self.ledger([file_key]).get(file_key, ("",))[0]
            if status in FINAL:
                raise StackError(f"{file_key} was {status} before the loader could be killed")
            return status == "processing"

        wait_for(f"{file_key} to be processed", processing, timeout_s, interval_s=0.02)
        time.sleep(0.1)  # from the claim into the load
        return self.kill_loaders()


def _processes() -> list[tuple[int, str]]:
    """Each process's id and command line."""
    proc = Path("/proc")
    if not (proc / "self" / "cmdline").exists():
        listing = subprocess.run(["ps", "-axo", "pid=,command="], capture_output=True, text=True, check=True).stdout
        return [(int(line.split(None, 1)[0]), line) for line in listing.splitlines()]
    found = []
    for folder in proc.glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            command = ""  # it ended while we looked
        found.append((int(folder.name), command))
    return found
