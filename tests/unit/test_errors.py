"""The class of each failure, and messages that fit into ledger, log and queue attributes."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError
from firebolt.utils.exception import FireboltError

from firebolt_cdc.errors import FailureClass, PermanentError, aws_error, engine_error, redact


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
