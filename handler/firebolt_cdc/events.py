"""What was delivered: S3 events in every shape in which they reach the loader, read into `Delivery`s.

Shapes: an EventBridge event (bare, or the body of a queue message), an S3 notification (`Records[]`, whose keys are
URL-encoded), and a payload typed by hand, which has neither etag nor size (the loader looks the object up).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_plus

from firebolt_cdc.errors import PermanentError

ATTRIBUTE_ORIGIN = "cdc_origin"
ATTRIBUTE_FIRST_SEEN = "cdc_first_seen"
ATTRIBUTE_WAITS = "cdc_waits"
ATTRIBUTE_REASON = "cdc_reason"


class Origin(StrEnum):
    """Who sent a delivery. Only S3's own count as duplicate deliveries."""

    S3 = "s3"
    COPY = "copy"
    """The queue again, because the worker that got the message first died. A delayed copy keeps its first origin."""
    SWEEP = "sweep"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Delivery:
    """One announcement of one object."""

    bucket: str
    key: str
    etag: str | None
    origin: Origin
    first_seen: datetime
    waits: int = 0
    message_id: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The event as it came; copies and dead letters carry it on unchanged."""

    def age_seconds(self, now: datetime) -> float:
        """Seconds since this announcement was first seen."""
        return max(0.0, (now - self.first_seen).total_seconds())


def is_batch(event: Any) -> bool:
    """Whether Lambda was invoked by the event source mapping of the queue."""
    records = event.get("Records") if isinstance(event, dict) else None
    return (
        isinstance(records, list)
        and bool(records)
        and all(isinstance(record, dict) and record.get("eventSource") == "aws:sqs" for record in records)
    )


def from_message(record: Mapping[str, Any], now: datetime) -> list[Delivery]:
    """Read one SQS record. An S3 test event announces nothing and gives an empty list.

    Raises:
        PermanentError: the body announces no object.
    """
    message_id = str(record.get("messageId", ""))
    try:
        body = json.loads(record["body"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PermanentError(f"message {message_id}: the body is not JSON") from error
    if not isinstance(body, dict):
        raise PermanentError(f"message {message_id}: the body is not a JSON object")
    if body.get("Event") == "s3:TestEvent":
        return []
    attributes, system = record.get("messageAttributes") or {}, record.get("attributes") or {}
    if not isinstance(attributes, dict) or not isinstance(system, dict):
        raise PermanentError(f"message {message_id}: its attributes are not a JSON object")
    named = _attribute(attributes, ATTRIBUTE_ORIGIN)
    sent_ms = str(system.get("SentTimestamp"))
    try:
        origin = Origin(named) if named else Origin.S3
        if origin is Origin.S3 and str(system.get("ApproximateReceiveCount", "1")) != "1":
            origin = Origin.COPY
        seen = _attribute(attributes, ATTRIBUTE_FIRST_SEEN)
        sent = datetime.fromtimestamp(int(sent_ms) / 1000, UTC) if sent_ms.isdecimal() else now
        return from_event(
            body,
            origin=origin,
            first_seen=_moment(seen) if seen else sent,
            waits=max(0, int(_attribute(attributes, ATTRIBUTE_WAITS) or 0)),
            message_id=message_id,
        )
    except (ValueError, OverflowError, OSError) as error:
        raise PermanentError(f"message {message_id}: unreadable attributes: {error}") from error


def from_event(
    event: Mapping[str, Any],
    *,
    origin: Origin,
    first_seen: datetime,
    waits: int = 0,
    message_id: str | None = None,
) -> list[Delivery]:
    """Read one event (EventBridge, hand-typed, or S3 notification).

    Raises:
        PermanentError: it announces no object. The message says what is missing.
    """
    found: list[tuple[str, str, str | None]] = []
    where = f"message {message_id}" if message_id else "the event"
    if not isinstance(event, dict):
        raise PermanentError(f"{where}: expected a JSON object, found {type(event).__name__}")
    if isinstance(event.get("detail"), dict):
        found.append(_object(event["detail"], where, decode=False))
    elif isinstance(event.get("Records"), list) and event["Records"]:
        for record in event["Records"]:
            if not isinstance(record, dict) or not isinstance(record.get("s3"), dict):
                raise PermanentError(f"{where}: Records[] without s3: not an S3 notification")
            found.append(_object(record["s3"], where, decode=True))
    else:
        raise PermanentError(
            f'{where}: expected {{"detail": {{"bucket": {{"name": …}}, "object": {{"key": …}}}}}}, '
            f"found the keys {sorted(map(str, event))[:10]}"
        )
    return [Delivery(bucket, key, etag, origin, first_seen, waits, message_id, event) for bucket, key, etag in found]


def announcement(bucket: str, key: str, etag: str | None) -> dict[str, Any]:
    """The event that the loader, the sweep and the operator send for a file version, in EventBridge's shape."""
    thing = {"key": key} | ({"etag": etag} if etag else {})
    return {
        "source": "firebolt-cdc",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": bucket}, "object": thing},
    }


def plain_etag(etag: str) -> str:
    """S3's API quotes etags, its events do not."""
    return etag.strip().removeprefix("W/").strip('"')


def _object(detail: Mapping[str, Any], where: str, *, decode: bool) -> tuple[str, str, str | None]:
    bucket = detail.get("bucket")
    name = bucket.get("name") if isinstance(bucket, dict) else None
    thing = detail.get("object")
    key = thing.get("key") if isinstance(thing, dict) else None
    if not isinstance(name, str) or not name or not isinstance(key, str) or not key:
        raise PermanentError(f"{where}: bucket.name or object.key is missing or not text")
    etag = thing.get("etag", thing.get("eTag")) if isinstance(thing, dict) else None
    if etag is not None and not isinstance(etag, str):
        raise PermanentError(f"{where}: object.etag is not text")
    if any("\ud800" <= character <= "\udfff" for character in f"{name}{key}{etag}"):
        raise PermanentError(f"{where}: bucket.name, object.key or object.etag holds half of a surrogate pair")
    return name, unquote_plus(key) if decode else key, plain_etag(etag) if etag else None


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{ATTRIBUTE_FIRST_SEEN} {text!r} has no zone")
    return moment.astimezone(UTC)


def _attribute(attributes: Mapping[str, Any], name: str) -> str | None:
    value = attributes.get(name)
    return str(value.get("stringValue")) if isinstance(value, dict) and value.get("stringValue") is not None else None
