"""Every shape in which an object is announced."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from firebolt_cdc import events
from firebolt_cdc.errors import PermanentError
from firebolt_cdc.events import Origin

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def read(body: Any, **attributes: str) -> list[events.Delivery]:
    text = body if isinstance(body, str) else json.dumps(body)
    found = {name: {"stringValue": value} for name, value in attributes.items()}
    return events.from_message({"messageId": "m", "body": text, "messageAttributes": found}, NOW)


def test_an_eventbridge_event_has_a_plain_key() -> None:
    [delivery] = read({"detail": {"bucket": {"name": "b"}, "object": {"key": "a+b%20c d", "etag": "x"}}})
    assert (delivery.bucket, delivery.key, delivery.etag, delivery.origin) == ("b", "a+b%20c d", "x", Origin.S3)


def test_an_s3_notification_has_an_encoded_key_and_may_hold_several() -> None:
    record = {"s3": {"bucket": {"name": "b"}, "object": {"key": "a%2Bb+c", "eTag": '"x"'}}}
    assert [(d.key, d.etag) for d in read({"Records": [record, record]})] == [("a+b c", "x")] * 2


def test_a_payload_by_hand_has_no_etag() -> None:
    [delivery] = events.from_event(
        {"detail": {"bucket": {"name": "b"}, "object": {"key": "k"}}}, origin=Origin.S3, first_seen=NOW
    )
    assert delivery.etag is None


def test_copies_carry_where_they_came_from() -> None:
    body = events.announcement("b", "k", "e")
    [delivery] = read(body, cdc_origin="copy", cdc_first_seen="2025-12-31T23:00:00+00:00", cdc_waits="3")
    assert (delivery.origin, delivery.waits, delivery.age_seconds(NOW)) == (Origin.COPY, 3, 3600)


def test_what_the_queue_delivers_again_is_no_delivery_of_s3() -> None:
    body = json.dumps(events.announcement("b", "k", "e"))
    origins = [
        events.from_message({"body": body, "attributes": {"ApproximateReceiveCount": count}}, NOW)[0].origin
        for count in ("1", "2", "17")
    ]
    assert origins == [Origin.S3, Origin.COPY, Origin.COPY]


def test_the_test_event_of_a_notification_announces_nothing() -> None:
    assert read({"Service": "Amazon S3", "Event": "s3:TestEvent"}) == []


@pytest.mark.parametrize(
    "body",
    ["", "null", "[]", "7", "{}", '{"detail": {}}', '{"detail": {"bucket": {"name": "b"}, "object": {"key": ""}}}',
     '{"detail": {"bucket": [], "object": {"key": "k"}}}', '{"Records": [{"ses": {}}]}', '{"Records": [7]}',
     '{"detail": {"bucket": {"name": "b"}, "object": {"key": "k", "etag": 7}}}'],
)  # fmt: skip
def test_junk_is_permanent_and_says_what_is_missing(body: str) -> None:
    with pytest.raises(PermanentError, match="message m"):
        read(body)


@pytest.mark.parametrize(
    "record",
    [
        {"body": "[" * 100_000 + "]" * 100_000},
        {"body": "{}", "messageAttributes": ["cdc_waits"]},
        {"body": "{}", "attributes": "SentTimestamp"},
        {"body": "{}", "attributes": {"SentTimestamp": "9" * 30}},
        {"body": "{}", "messageAttributes": {"cdc_first_seen": {"stringValue": "2026-01-01T00:00:00"}}},
        {"body": json.dumps(events.announcement("b", "half \ud800", None))},
    ],
    ids=["deep", "attributes", "system attributes", "sent", "no zone", "surrogate"],
)
def test_a_broken_record_is_permanent(record: dict[str, Any]) -> None:
    with pytest.raises(PermanentError, match="message m"):
        events.from_message({"messageId": "m"} | record, NOW)


def test_a_count_of_waits_is_never_negative() -> None:
    [delivery] = read(events.announcement("b", "k", None), cdc_waits="-3")
    assert delivery.waits == 0


@pytest.mark.parametrize("event", [None, [], "x", 7])
def test_what_is_no_object_is_no_event(event: Any) -> None:
    assert not events.is_batch(event)
    with pytest.raises(PermanentError, match="expected a JSON object"):
        events.from_event(event, origin=Origin.S3, first_seen=NOW)


def test_only_the_queues_own_batches_are_batches() -> None:
    assert events.is_batch({"Records": [{"eventSource": "aws:sqs"}]})
    assert not events.is_batch({"Records": [{"eventSource": "aws:s3"}]})
    assert not events.is_batch({"Records": []})
    assert not events.is_batch({"detail": {}})
