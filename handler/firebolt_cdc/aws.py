"""The clients of AWS: each with a limit to how long it waits for an answer."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config

PATIENCE = Config(connect_timeout=10, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3})
"""AWS that says nothing is given up well within an invocation, which would end as if its file had killed it."""


def client(service: str) -> Any:
    """A client of one service, in the environment's region."""
    return boto3.client(service, config=PATIENCE)
