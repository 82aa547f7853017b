"""Logs and metrics: structured lines that a person can read, and EMF metrics with the pipeline as dimension."""

from __future__ import annotations

import logging
import sys

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

__all__ = ["MetricUnit", "beside_the_terminal", "count", "logger", "metrics"]

logger = Logger()
"""Service name and level come from POWERTOOLS_SERVICE_NAME and POWERTOOLS_LOG_LEVEL."""
metrics = Metrics()
"""Namespace from POWERTOOLS_METRICS_NAMESPACE."""

STEP_CHECK = "STEP 1: CHECK IF FILE ALREADY PROCESSED"
STEP_MARK = "STEP 2: MARK FILE AS PROCESSING"
STEP_PROCESS = "STEP 3: PROCESS FILE"
STEP_COMPLETE = "STEP 4: MARK FILE AS COMPLETED"


def count(name: str, value: float = 1, unit: MetricUnit = MetricUnit.Count) -> None:
    """Add to a metric of this invocation."""
    if not _outside_lambda:
        metrics.add_metric(name=name, unit=unit, value=value)


_outside_lambda: list[bool] = []


def beside_the_terminal() -> None:
    """For commands: log lines go to stderr, away from what the command prints; metrics, which nobody reads, nowhere."""
    _outside_lambda[:] = [True]
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
