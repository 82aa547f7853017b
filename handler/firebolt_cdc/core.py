"""Firebolt Core's single writer: finding and ending the transaction of a writer that died.

A Core allows one write transaction at a time and keeps an abandoned one for up to 24 hours (Firebolt documentation,
"Firebolt Core differences" and "Explicit transactions"); the oldest open one has the right to write, even if it has
only read. So each transaction leaves a note with its id before its first write, and takes it away at the end; who is
refused looks for notes that outlived their writer and rolls their transactions back. A note too many is harmless:
ending an ended transaction is an error that means it ended.
"""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from firebolt_cdc.config import Config
from firebolt_cdc.errors import AWS_ERRORS, aws_error, redact
from firebolt_cdc.telemetry import logger

GRACE_SECONDS = 30.0
"""How long after its deadline a writer is taken for dead; covers clocks that differ."""
REQUEST_SECONDS = 10.0
NOTE_ERRORS: tuple[type[Exception], ...] = (*AWS_ERRORS, httpx.HTTPError, ValueError, KeyError, TypeError)
"""What reading and settling one note may raise; none of it is a reason not to look at the next."""


class Writers:
    """The notes of a pipeline's writers, in the staging area."""

    def __init__(self, s3: Any, config: Config) -> None:
        self._s3 = s3
        self._bucket = config.staging.bucket
        self._prefix = f"{config.staging.prefix}writers/"
        self._url = str(config.firebolt.core_url)
        self._database = config.firebolt.database

    def note(self, transaction_id: str, seconds: float) -> None:
        """Leave a note: this transaction writes, and its writer lives for `seconds` at most."""
        body = json.dumps({"transaction_id": transaction_id, "until": time.time() + seconds + GRACE_SECONDS})
        try:
            self._s3.put_object(Bucket=self._bucket, Key=self._key(transaction_id), Body=body.encode())
        except AWS_ERRORS as error:
            raise aws_error(error, "leaving a writer's note in the staging area") from error

    def forget(self, transaction_id: str) -> None:
        """Take a note away; one that cannot be taken away is only looked at once too often."""
        try:
            self._s3.delete_object(Bucket=self._bucket, Key=self._key(transaction_id))
        except AWS_ERRORS as error:
            logger.warning("a writer's note stays until the next refusal", error=str(error))

    def end_dead(self) -> int:
        """Roll back the transactions of writers that are past their time; returns how many notes were settled."""
        settled = 0
        try:
            listing = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix)
        except AWS_ERRORS as error:
            raise aws_error(error, "listing the writers' notes in the staging area") from error
        for thing in listing.get("Contents", []):
            try:
                note = json.loads(self._s3.get_object(Bucket=self._bucket, Key=thing["Key"])["Body"].read())
                transaction_id, until = str(note["transaction_id"]), float(note["until"])
                if until < time.time():
                    self._roll_back(transaction_id)
                    self.forget(transaction_id)
                    settled += 1
            except NOTE_ERRORS as error:
                # a living writer took its own note away meanwhile, or the engine did not answer: look next time
                logger.info("a writer's note could not be settled", note=thing["Key"], error=redact(str(error)))
        return settled

    def _roll_back(self, transaction_id: str) -> None:
        answer = httpx.post(
            self._url,
            params={"database": self._database, "transaction_id": transaction_id},
            content="ROLLBACK",
            timeout=REQUEST_SECONDS,
        )
        logger.warning(
            "a dead writer's transaction was ended", transaction_id=transaction_id, answer=answer.status_code
        )

    def _key(self, transaction_id: str) -> str:
        return f"{self._prefix}{transaction_id}.json"
