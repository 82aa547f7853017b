"""Every failure has a class, and this module is the one place that decides which.

| class       | meaning                                        | what happens                                    |
| ----------- | ---------------------------------------------- | ----------------------------------------------- |
| `conflict`  | another transaction committed first            | tried again at once, with jitter                |
| `transient` | engine, network or AWS did not do it this time | tried again later, `max_attempts` times alone;  |
|             |                                                | after an outage of AWS as often as it takes     |
| `permanent` | this file cannot be applied as it is           | `failed`, dead-letter queue, a person decides   |
| `gone`      | the object was deleted or overwritten          | `failed`, dead-letter queue                     |
| `held`      | applying it needs a decision (a reload)        | `pending`, alarmed, waits for the operator      |
"""

from __future__ import annotations

import re
from enum import StrEnum

import httpx
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnectionError
from firebolt.utils.exception import (
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    FireboltError,
    QueryTimeoutError,
)


class FailureClass(StrEnum):
    """The classes of the table above; stored as `error_class` in the ledger."""

    CONFLICT = "conflict"
    TRANSIENT = "transient"
    PERMANENT = "permanent"
    GONE = "gone"
    HELD = "held"


class CdcError(Exception):
    """Base of all classified failures. The message names the file or table, what was wrong, what to do."""

    failure_class = FailureClass.TRANSIENT


class ConflictError(CdcError):
    """Another transaction committed first (or this one was lost before COMMIT): nothing was written."""

    failure_class = FailureClass.CONFLICT


class TransientError(CdcError):
    """Did not work this time; the same attempt may work later."""


class OutageError(TransientError):
    """AWS did not answer, or is overloaded: says nothing of the file, so it costs no attempt."""


class TimedOutError(TransientError):
    """A statement was cut off at its time limit: it is slow, or the engine does not answer."""


class EngineRejectedError(TransientError):
    """The engine answered the statement with an error that is neither a conflict nor an outage.

    Of a batch, any file may be the cause: it is split at once.
    """


class TooSlowError(EngineRejectedError):
    """The statements that apply rows were cut off at the end of the invocation, and the engine answered after that.

    So it is no outage: the rows are too many for the time, or the engine is too busy.
    """


class UnexpectedError(EngineRejectedError):
    """An error that no rule here knows: logged with its traceback, and treated like a rejection by the engine."""


class LedgerUnavailableError(TransientError):
    """The ledger could not be read or written: nothing may be loaded."""


class TimeShortError(TransientError):
    """What is left of this invocation is too little to begin; the file was not tried."""


class BlockedError(ConflictError):
    """Others committed first until too little time was left: says nothing of the file, so it costs no attempt."""


class TurnLostError(ConflictError):
    """Another worker holds the table's turn: this worker's lease ran out and it must stop."""


class PermanentError(CdcError):
    """This file cannot be applied as it is; trying again gives the same answer."""

    failure_class = FailureClass.PERMANENT


class SupersededError(PermanentError):
    """The file is older than the full load with which its table's present generation began: nothing is to be done."""


class DriftError(PermanentError):
    """The file's columns do not fit its target's, and no policy says to change the target.

    `change` says the same as the message, for the ledger: columns, types, and the DDL that would help.
    """

    def __init__(self, file: str, table: str, column: str, change: str, ddl: str | None) -> None:
        super().__init__(f"{file}: {change}; then run `firebolt-cdc retry`")
        self.table, self.column, self.change, self.ddl = table, column, change, ddl


class GoneError(CdcError):
    """The object was deleted, or holds another version than the one that was announced."""

    failure_class = FailureClass.GONE


class HeldError(CdcError):
    """Applying the file needs an operator's decision."""

    failure_class = FailureClass.HELD


# The engine's words for a lost commit race. "Failed to commit transaction, error: 'detected N conflicts with N
# transactions on transaction commit', code: 9" was reported from production; "cannot be retried" is what the engine
# says when its own retries ran out. Whole phrases: a conflict costs no attempt, and the names and values that a
# rejection quotes may hold any word ("serialized_by", Arrow's "Couldn't deserialize").
_CONFLICT = re.compile(
    r"detected \d+ conflicts? with \d+ transactions?|failed to commit transaction\b.*\bcode: 9\b"
    r"|\b(transaction|write-write|serialization) (conflict|failure)\b|could not serialize access"
    r"|conflicts? with (a |an |another |other )?(concurrent )?transactions?\b",
    re.IGNORECASE | re.DOTALL,
)
# Firebolt Core: at most one write transaction in the cluster. Its refusal is a wait, not a failure.
_SINGLE_WRITER = re.compile(r"(one|single|another|concurrent) write transaction", re.IGNORECASE)
_OUTAGE = re.compile(
    r"cannot be retried|engine .*(not running|stopped|starting|restart|unavailable)|service unavailable"
    r"|bad gateway|gateway time|too many requests|connection (reset|refused|closed)|shutting down"
    r"|transaction .*(not found|does not exist|aborted|expired|is not active)|current transaction is aborted",
    re.IGNORECASE,
)

_BUSY = frozenset(
    {
        "BandwidthLimitExceeded",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Codes by which AWS says that the same request may work later, whatever the status, as botocore reads them."""


def engine_error(error: Exception, doing: str) -> CdcError:
    """Classify what the Firebolt SDK (or httpx below it, whose errors leak through) raised while `doing`.

    Never `gone`: whether an object exists is asked of S3, not read out of the engine's wording.
    """
    text = f"{doing}: {_readable(error)}"
    if isinstance(error, (AuthenticationError, AuthorizationError, ConfigurationError)):
        return TransientError(f"{text} (check the Firebolt credentials in Secrets Manager and the account)")
    if isinstance(error, QueryTimeoutError):
        return TimedOutError(text)
    if isinstance(error, (httpx.HTTPError, TimeoutError, OSError)):
        return TransientError(text)
    message = str(error)
    if _CONFLICT.search(message) or _SINGLE_WRITER.search(message):
        return ConflictError(text)
    if _OUTAGE.search(message):
        return TransientError(text)
    return EngineRejectedError(text)


def aws_error(error: BotoCoreError | ClientError, doing: str) -> CdcError:
    """Classify what boto3 raised while `doing`. A missing or overwritten object is `gone`; an outage says no more."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in {"NoSuchKey", "404", "NotFound"} or (
            status == 404 and code not in {"NoSuchBucket", "ResourceNotFoundException"}
        ):
            return GoneError(f"{doing}: the object no longer exists")
        if code in {"PreconditionFailed", "412"} or status == 412:
            return GoneError(
                f"{doing}: the object was overwritten since it was announced; the newer version has an event of its own"
            )
        if code == "InvalidObjectState":
            return PermanentError(
                f"{doing}: the object lies in an archive (storage class GLACIER or DEEP_ARCHIVE): restore it, then run "
                "`firebolt-cdc retry FILE`"
            )
        if denied(error):
            return TransientError(f"{doing}: access denied; check the role's policy, the bucket policy and the key")
        if status >= 500 or status == 429 or code.removeprefix("KMS.") in _BUSY:
            return OutageError(f"{doing}: {_readable(error)}")
    if isinstance(error, (NoConnectionError, HTTPClientError, IncompleteReadError)):
        return OutageError(f"{doing}: {_readable(error)}")
    return TransientError(f"{doing}: {_readable(error)}")


ENGINE_ERRORS: tuple[type[Exception], ...] = (
    FireboltError,
    httpx.HTTPError,
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
)
"""What a call into the Firebolt SDK may raise: its own errors, httpx errors that leak through, and, where an
answer is not the JSON that it expects, the plain errors of reading it (AttributeError, TypeError: a token's junk)."""

AWS_ERRORS: tuple[type[Exception], ...] = (BotoCoreError, ClientError)


def denied(error: Exception) -> bool:
    """Whether AWS refused for want of a permission."""
    if not isinstance(error, ClientError):
        return False
    answer = error.response
    code, status = answer.get("Error", {}).get("Code", ""), answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return code in {"AccessDenied", "AccessDeniedException", "403"} or status == 403


def classified(error: Exception, doing: str) -> CdcError:
    """Any error as a classified one; the caller logs the traceback of those that no rule knows."""
    if isinstance(error, CdcError):
        return error
    return UnexpectedError(f"{doing}: unexpected {_readable(error)} (a defect of the loader; please report it)")


_UNSENDABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML 1.0 lacks: SQS refuses a message with one of them (API reference, SendMessage)."""


def redact(text: str, limit: int = 1000) -> str:
    """A message fit for ledger, log and queue attributes: one line, bounded, no literal of credentials."""
    text = re.sub(r"(?i)(aws_(?:secret_access_key|session_token|access_key_id)\s*=>?\s*)'[^']*'", r"\1'***'", text)
    text = re.sub(r"(?i)(client_secret|access_token|authorization)([\"'=: ]+)[^\s\"',]+", r"\1\2***", text)
    text = " ".join(_UNSENDABLE.sub("\ufffd", text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _readable(error: Exception) -> str:
    message = str(error).strip()
    return redact(f"{type(error).__name__}: {message}" if message else type(error).__name__)
