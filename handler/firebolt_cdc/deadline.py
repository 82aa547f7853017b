"""How much of an invocation is left: the Lambda's time, never the engine's."""

from __future__ import annotations

import time
from typing import Protocol


class LambdaContext(Protocol):
    """What the handlers use of Lambda's context object."""

    function_name: str
    invoked_function_arn: str
    aws_request_id: str
    memory_limit_in_mb: int | str

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda ends the process."""


class Deadline:
    """A moment on this process's monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @classmethod
    def of(cls, context: LambdaContext) -> Deadline:
        """The moment at which Lambda ends this invocation."""
        return cls(context.get_remaining_time_in_millis() / 1000)

    def remaining_seconds(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self._end - time.monotonic())
