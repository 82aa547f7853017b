"""A deployed pipeline, found by its loader function: what every command of `firebolt-cdc` works on."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from dataclasses import dataclass, field

import boto3

from firebolt_cdc import config as configuration
from firebolt_cdc.config import Config
from firebolt_cdc.deadline import Deadline
from firebolt_cdc.engine import Engine
from firebolt_cdc.errors import AWS_ERRORS, aws_error

COMMAND_SECONDS = 300.0
ALIAS = "PROD"


@dataclass(frozen=True)
class Pipeline:
    """A pipeline, as its loader function sees it."""

    function: str
    config: Config
    engine: Engine
    deadline: Deadline
    environment: Mapping[str, str] = field(default_factory=dict)
    """The loader's environment variables."""
    version: str = ""
    """The version of the loader to which the alias points."""


def find(function: str, seconds: float = COMMAND_SECONDS) -> Pipeline:
    """The pipeline of a loader function (name or ARN); its engine's connections are closed when the command ends.

    Raises:
        CdcError: the function or its configuration cannot be read.
    """
    try:
        found = boto3.client("lambda").get_function_configuration(FunctionName=function, Qualifier=ALIAS)
    except AWS_ERRORS as error:
        raise aws_error(error, f"reading the function {function}:{ALIAS} (is --function right?)") from error
    environment = found.get("Environment", {}).get("Variables", {})
    config = configuration.load(environment)
    deadline = Deadline(seconds)
    engine = Engine.of(config, deadline)
    atexit.register(engine.close)
    return Pipeline(found["FunctionName"], config, engine, deadline, environment, found["Version"])
