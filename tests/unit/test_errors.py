"""The class of each failure, and messages that fit into ledger, log and queue attributes."""

from __future__ import annotations

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from firebolt.utils.exception import FireboltError

from firebolt_cdc.errors import FailureClass, OutageError, PermanentError, aws_error, engine_error, redact


def test_a_message_is_one_line_of_characters_that_sqs_takes() -> None:
    assert redact("a\nb\t c\x85d") == "a b c d"
    assert redact("k\x01\x1f\0\ud800\ufffe") == "k" + "\ufffd" * 5
    assert redact("é日😀") == "é日😀"
    assert redact("a" * 20, 5) == "aaaa…"


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("Failed to commit, error: 'detected 2 conflicts with 1 transactions on transaction commit', code: 9",
         FailureClass.CONFLICT),
        ("Failed to commit transaction, error: 'lost the race', code: 9", FailureClass.CONFLICT),
        ("could not serialize access due to concurrent update", FailureClass.CONFLICT),
        ("write-write conflict on the tablet", FailureClass.CONFLICT),
        ("the statement conflicts with a concurrent transaction", FailureClass.CONFLICT),
        ("another write transaction is active; at most one is allowed", FailureClass.CONFLICT),
        ("null value in NOT NULL column 'serialized_by'", FailureClass.TRANSIENT),
        ("Couldn't deserialize thrift: TProtocolException: Invalid data", FailureClass.TRANSIENT),
        ("the value 'conflicts with all' on column 'conflict on' is out of range, code: 9", FailureClass.TRANSIENT),
        ("column 'detected 2 conflicts' does not exist", FailureClass.TRANSIENT),
    ],
)  # fmt: skip
def test_only_a_lost_commit_race_is_a_conflict(said: str, failure: FailureClass) -> None:
    """A conflict costs no attempt: what is none, and is refused each time, would be tried for ever."""
    assert engine_error(FireboltError(said), "COMMIT").failure_class is failure


def test_an_archived_object_is_told_as_such() -> None:
    answer = {"Error": {"Code": "InvalidObjectState"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    error = aws_error(ClientError(answer, "GetObject"), "reading s3://b/k")  # type: ignore[arg-type]
    assert isinstance(error, PermanentError)
    assert "archive" in str(error)


def refusal(code: str, status: int) -> ClientError:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "HeadObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (EndpointConnectionError(endpoint_url="u"), True),
        (ConnectTimeoutError(endpoint_url="u"), True),
        (ConnectionClosedError(endpoint_url="u"), True),
        (ReadTimeoutError(endpoint_url="u"), True),
        (ResponseStreamingError(error="cut off"), True),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), True),
        (refusal("503", 503), True),
        (refusal("InternalError", 500), True),
        (refusal("SlowDown", 503), True),
        (refusal("ThrottlingException", 400), True),
        (refusal("KMS.ThrottlingException", 400), True),
        (refusal("RequestLimitExceeded", 400), True),
        (refusal("429", 429), True),
        (refusal("AccessDenied", 403), False),
        (refusal("NoSuchBucket", 404), False),
        (refusal("InvalidRange", 416), False),
        (refusal("400", 400), False),
        (NoCredentialsError(), False),
    ],
)
def test_an_outage_of_aws_is_told_from_what_it_refuses(error: BotoCoreError | ClientError, outage: bool) -> None:
    """An outage costs no attempt: what is none, and comes each time, would be tried for ever."""
    classified = aws_error(error, "looking up s3://b/k")
    assert isinstance(classified, OutageError) is outage
    assert classified.failure_class is FailureClass.TRANSIENT
