"""Sending: delayed copies of messages that must wait, the sweep's announcements, dead letters with their reason."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from firebolt_cdc import events
from firebolt_cdc.config import Queue
from firebolt_cdc.errors import AWS_ERRORS, FailureClass, TransientError, aws_error, redact
from firebolt_cdc.events import Delivery, Origin

FIRST_DELAY_SECONDS = 5
LONGEST_DELAY_SECONDS = 120
"""SQS allows 900; a waiting file should not be late by more than it must."""


def delay_seconds(waits: int) -> int:
    """How long the copy of a message that has waited `waits` times is delayed; drawn at random, so that they spread."""
    bound = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(waits, 10))
    return random.randint(min(2, bound), bound)


class Queues:
    """The queue between rule and loader, and its dead-letter queue."""

    def __init__(self, sqs: Any, queue: Queue) -> None:
        self._sqs = sqs
        self._queue = queue

    def send_copy(self, delivery: Delivery, reason: str) -> None:
        """Put a delayed copy of a delivery on the queue. Only then may the original be acknowledged.

        A copy costs no receive of the queue's limit, and one too many is harmless.
        """
        self._send(
            self._queue.url,
            json.dumps(events.announcement(delivery.bucket, delivery.key, delivery.etag)),
            {
                events.ATTRIBUTE_ORIGIN: delivery.origin,
                events.ATTRIBUTE_FIRST_SEEN: delivery.first_seen.isoformat(),
                events.ATTRIBUTE_WAITS: str(delivery.waits + 1),
                events.ATTRIBUTE_REASON: redact(reason, 200),
            },
            delay=delay_seconds(delivery.waits),
        )

    def send_dead_letter(self, body: str, failure: FailureClass, message: str, file_key: str | None) -> None:
        """Put a message on the dead-letter queue with why it is there."""
        attributes = {"error_class": str(failure), "error_message": redact(message, 500)}
        if file_key:
            attributes["file_key"] = redact(file_key, 500)
        self._send(self._queue.dlq_url, body, attributes)

    def announce(self, objects: Iterable[tuple[str, str, str]], origin: Origin, now: datetime) -> int:
        """Send (bucket, key, etag) of file versions to the queue; returns how many.

        Raises:
            TransientError: SQS refused some; those sent before are sent.
        """
        sent = 0
        remaining = iter(objects)
        while chunk := list(islice(remaining, 10)):
            entries = [
                {
                    "Id": str(number),
                    "MessageBody": json.dumps(events.announcement(*thing)),
                    "MessageAttributes": _attributes(
                        {events.ATTRIBUTE_ORIGIN: origin, events.ATTRIBUTE_FIRST_SEEN: now.isoformat()}
                    ),
                }
                for number, thing in enumerate(chunk)
            ]
            try:
                answer = self._sqs.send_message_batch(QueueUrl=self._queue.url, Entries=entries)
            except AWS_ERRORS as error:
                raise aws_error(error, f"sending to {self._queue.url}") from error
            if answer.get("Failed"):
                raise TransientError(f"sending to {self._queue.url}: {answer['Failed'][0].get('Message', 'refused')}")
            sent += len(chunk)
        return sent

    def depth(self) -> int:
        """About how many messages the queue holds, waiting, delayed or in flight."""
        names = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesDelayed",
            "ApproximateNumberOfMessagesNotVisible",
        ]
        try:
            answer = self._sqs.get_queue_attributes(QueueUrl=self._queue.url, AttributeNames=names)
        except AWS_ERRORS as error:
            raise aws_error(error, f"asking {self._queue.url} for its depth") from error
        return sum(int(value) for value in answer["Attributes"].values())

    def _send(self, url: str, body: str, attributes: dict[str, str], delay: int = 0) -> None:
        try:
            self._sqs.send_message(
                QueueUrl=url, MessageBody=body, DelaySeconds=delay, MessageAttributes=_attributes(attributes)
            )
        except AWS_ERRORS as error:
            raise aws_error(error, f"sending to {url}") from error


def _attributes(values: dict[str, str]) -> dict[str, dict[str, str]]:
    return {name: {"DataType": "String", "StringValue": str(value)} for name, value in values.items()}


def dead_letter_body(deliveries: Sequence[Delivery]) -> str:
    """What the dead letter of a file carries: the event as it came, of the first of its deliveries."""
    return json.dumps(dict(deliveries[0].body))
