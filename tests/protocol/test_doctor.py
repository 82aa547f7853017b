"""`firebolt-cdc doctor`, on what Terraform makes of AWS: each of its questions can be answered by a no."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

import boto3
import pytest
import typer
from botocore.exceptions import ClientError

from firebolt_cdc import cli, deployed
from support import Pipeline, sessions

ALL_WELL = {
    "The loader and its configuration can be read",
    "The alias PROD points to a published version",
    "The ledger can be read",
    "The schema is one that this version works with",
    "Every table of the map has its turn",
    "No turn is held past its lease",
    "The engine can read the source",
    "The source bucket can be listed",
    "The source bucket sends events to EventBridge",
    "The rule hands new objects to the queue",
    "The loader takes messages from the queue",
    "Files may wait as long as they must",
    "The cleanup function sweeps",
    "The cleanup function reconciles",
    "The dead-letter queues are empty",
    "The deduplication steps are called",
    "No 'Error checking if file processed' in the last day",
}
STEPS, INTAKE = "The deduplication steps are called", "The loader takes messages from the queue"


class Stack:
    """What the module makes: loader, alias, mapping, rules, log group."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.name = pipeline, pipeline.config["name"]
        self.loader, self.log_group = f"{self.name}-loader", f"/aws/lambda/{self.name}-loader"
        self.functions, self.rules, self.logs = (boto3.client(name) for name in ("lambda", "events", "logs"))
        attributes = pipeline.sqs.get_queue_attributes(QueueUrl=pipeline.queue, AttributeNames=["QueueArn"])
        self.queue_arn = attributes["Attributes"]["QueueArn"]
        pipeline.configure(queue=pipeline.config["queue"] | {"arn": self.queue_arn})
        self.announces, self.loops = True, "Allow"
        role = boto3.client("iam").create_role(RoleName=self.name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        package = io.BytesIO()
        with zipfile.ZipFile(package, "w") as archive:
            archive.writestr("loader.py", "")
        self.arn = self.functions.create_function(
            FunctionName=self.loader,
            Runtime="python3.13",
            Role=role,
            Handler="loader.handler",
            Code={"ZipFile": package.getvalue()},
            Environment={"Variables": self.environment()},
        )["FunctionArn"]
        version = self.functions.publish_version(FunctionName=self.loader)["Version"]
        self.functions.create_alias(FunctionName=self.loader, Name="PROD", FunctionVersion=version)
        self.mapping = self.functions.create_event_source_mapping(
            EventSourceArn=self.queue_arn, FunctionName=f"{self.arn}:PROD", Enabled=True
        )["UUID"]
        self.rules.put_rule(Name=f"{self.name}-objects", EventPattern=json.dumps({"source": ["aws.s3"]}))
        for task in ("sweep", "reconcile"):
            self.rules.put_rule(Name=f"{self.name}-{task}", ScheduleExpression="rate(5 minutes)")
        self.logs.create_log_group(logGroupName=self.log_group)
        self.logs.create_log_stream(logGroupName=self.log_group, logStreamName="s")

    def notification(self, parsed: dict[str, Any], **_: Any) -> None:
        """moto 5.2 keeps a bucket's EventBridgeConfiguration and leaves it out of its answer."""
        if self.announces:
            parsed["EventBridgeConfiguration"] = {}

    def recursion(self, **_: Any) -> tuple[Any, dict[str, str]]:
        """moto 5.2 does not know GetFunctionRecursionConfig."""
        return mock.Mock(status_code=200), {"RecursiveLoop": self.loops}

    def environment(self, **more: str) -> dict[str, str]:
        return {"CDC_CONFIG_BUCKET": self.pipeline.module_bucket, "CDC_CONFIG_KEY": "config/config.json", **more}

    def log(self, message: str) -> None:
        line = {"timestamp": int(time.time() * 1000), "message": json.dumps({"message": message})}
        self.logs.put_log_events(logGroupName=self.log_group, logStreamName="s", logEvents=[line])

    def load(self, minutes_ago: int, arn: str | None = None) -> None:
        """Load a file as the loader does; its line in the ledger is so old."""
        key = f"fair/sessions/20241124-{minutes_ago}.parquet"
        self.pipeline.put(key, sessions(("I", minutes_ago, "x")))
        self.pipeline.by_hand(key, invoked_function_arn=arn or f"{self.arn}:PROD")
        self.pipeline.sql(
            f"UPDATE cdc_processed_files SET first_seen_at = CURRENT_TIMESTAMP - INTERVAL '{minutes_ago}' MINUTE "
            "WHERE file_key = ?",
            key,
        )


@pytest.fixture
def stack(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    opened: list[deployed.Pipeline] = []

    def find(function: str) -> deployed.Pipeline:
        opened.append(deployed.find(function))
        return opened[-1]

    def client(service: str, **options: Any) -> Any:
        made = real(service, **options)
        if service == "s3":
            made.meta.events.register("after-call.s3.GetBucketNotificationConfiguration", stack.notification)
        if service == "lambda":
            made.meta.events.register("before-call.lambda.GetFunctionRecursionConfig", stack.recursion)
        return made

    real, stack = boto3.client, Stack(pipeline)
    monkeypatch.setattr(cli, "_pipeline", find)
    monkeypatch.setattr(boto3, "client", client)
    yield stack
    for one in opened:
        one.engine.close()


@pytest.fixture
def examined(stack: Stack, capsys: pytest.CaptureFixture[str]) -> Any:
    """Asks the doctor; (good, answer) of each question."""

    def ask() -> dict[str, tuple[bool, str]]:
        capsys.readouterr()
        try:
            cli.doctor(stack.loader, as_json=True)
            code = 0
        except typer.Exit as end:
            code = end.exit_code
        found = {f["question"]: (f["good"], f["answer"]) for f in json.loads(capsys.readouterr().out)}
        assert code == (0 if all(good for good, _ in found.values()) else 1)
        return found

    return ask


def bad(found: dict[str, tuple[bool, str]]) -> set[str]:
    return {question for question, (good, _) in found.items() if not good}


def test_all_is_well(stack: Stack, examined: Any) -> None:
    found = examined()
    assert (set(found), bad(found)) == (ALL_WELL, set())
    assert found["The alias PROD points to a published version"][1] == f"version 1 of {stack.loader}"
    assert found[STEPS][1] == "none in the last day, and no file came"
    assert found["The rule hands new objects to the queue"][1] == f"the rule {stack.name}-objects is enabled"
    assert found["The cleanup function sweeps"][1] == f"the rule {stack.name}-sweep is enabled, rate(5 minutes)"


def test_files_without_their_steps(stack: Stack, examined: Any) -> None:
    """A loader that claims files and logs no step is another than ours, or its log does not arrive."""
    stack.load(0)
    assert bad(examined()) == set(), "its line in the log may still be on its way"
    stack.load(5, arn="firebolt-cdc load")
    stack.load(6, arn=f"{stack.arn}-other:PROD")
    stack.load(25 * 60)
    assert bad(examined()) == set(), "others', and before the time that is looked at"
    stack.load(7)
    found = examined()
    assert bad(found) == {STEPS}
    answer = found[STEPS][1]
    assert answer.startswith(f"the ledger has 1 new file(s) of the last day that {stack.loader} claimed, newest at ")
    assert f"/aws/lambda/{stack.loader} has no line 'STEP 1: CHECK IF FILE ALREADY PROCESSED'" in answer
    stack.log("STEP 1: CHECK IF FILE ALREADY PROCESSED")
    found = examined()
    assert (bad(found), found[STEPS][1][:33]) == (set(), "1 in the last day, the newest at ")


def test_files_without_their_steps_where_the_log_is_to_have_none(stack: Stack, examined: Any) -> None:
    stack.load(7)
    variables = stack.environment(POWERTOOLS_LOG_LEVEL="WARNING")
    stack.functions.update_function_configuration(FunctionName=stack.loader, Environment={"Variables": variables})
    version = stack.functions.publish_version(FunctionName=stack.loader)["Version"]
    stack.functions.update_alias(FunctionName=stack.loader, Name="PROD", FunctionVersion=version)
    found = examined()
    said = "loader.log_level = WARNING leaves them out of the log; the ledger has 1 new file(s) of the last day"
    assert found[STEPS] == (True, said)
    assert found["The alias PROD points to a published version"][1] == f"version {version} of {stack.loader}"


def test_an_alias_of_unpublished_code(stack: Stack, examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.functions.delete_alias(FunctionName=stack.loader, Name="PROD")
    stack.functions.create_alias(FunctionName=stack.loader, Name="PROD", FunctionVersion="$LATEST")
    assert bad(examined()) == {"The alias PROD points to a published version"}


def test_errors_in_the_log(stack: Stack, examined: Any) -> None:
    stack.log("Error checking if file processed")
    assert bad(examined()) == {"No 'Error checking if file processed' in the last day"}


def test_rules_that_somebody_disabled_or_removed(stack: Stack, examined: Any) -> None:
    questions = {
        "objects": "The rule hands new objects to the queue",
        "sweep": "The cleanup function sweeps",
        "reconcile": "The cleanup function reconciles",
    }
    for name in questions:
        stack.rules.disable_rule(Name=f"{stack.name}-{name}")
    found = examined()
    assert bad(found) == set(questions.values())
    for name, question in questions.items():
        assert f"aws events enable-rule --name {stack.name}-{name}" in found[question][1]
        stack.rules.delete_rule(Name=f"{stack.name}-{name}")
    found = examined()
    assert bad(found) == {questions["objects"]}, "a schedule that is off has no rule"
    assert 'cleanup.sweep_schedule = "off"' in found[questions["sweep"]][1]
    assert 'cleanup.reconcile_schedule = "off"' in found[questions["reconcile"]][1]


def test_a_loader_that_is_paused_or_gone(stack: Stack, examined: Any) -> None:
    stack.functions.update_event_source_mapping(UUID=stack.mapping, Enabled=False)
    found = examined()
    assert bad(found) == {INTAKE}
    assert found[INTAKE][1].startswith("paused: files wait in the queue. To resume, set loader = { paused = false }")
    assert f"--uuid {stack.mapping} --enabled" in found[INTAKE][1]
    stack.functions.delete_event_source_mapping(UUID=stack.mapping)
    found = examined()
    assert (bad(found), "nothing takes messages" in found[INTAKE][1]) == ({INTAKE}, True)


def test_a_turn_past_its_lease_and_a_target_without_one(stack: Stack, examined: Any) -> None:
    stack.pipeline.sql(
        "UPDATE cdc_tables SET holder = 'w', lease_until = CURRENT_TIMESTAMP - INTERVAL '1' HOUR "
        "WHERE turn = 'sessions'"
    )
    stack.pipeline.sql("DELETE FROM cdc_tables WHERE turn = 'events'")
    found = examined()
    assert bad(found) == {"Every table of the map has its turn", "No turn is held past its lease"}
    assert "run `firebolt-cdc migrate --yes`" in found["Every table of the map has its turn"][1]


def test_a_loop_that_lambda_would_stop(stack: Stack, examined: Any) -> None:
    stack.loops = "Terminate"
    found = examined()
    assert bad(found) == {"Files may wait as long as they must"}
    assert "--recursive-loop Allow" in found["Files may wait as long as they must"][1]


def test_an_engine_that_may_not_read_the_source(stack: Stack, examined: Any) -> None:
    question = "The engine can read the source"
    assert examined()[question] == (True, "not tried: there is no file yet")
    stack.load(10)
    assert examined()[question][1].endswith("20241124-10.parquet has 1 rows")
    name, object_key = stack.pipeline.bucket, "firebolt_dms_job/fair/sessions/20241124-10.parquet"
    stack.pipeline.s3.put_object(Bucket=name, Key=object_key, Body=b"junk")
    found = examined()
    assert question in bad(found)
    assert "give the role of firebolt.s3_role_arn the module's output firebolt_s3_policy" in found[question][1]


def test_events_and_dead_letters(stack: Stack, examined: Any) -> None:
    pipeline = stack.pipeline
    stack.announces = False
    pipeline.sqs.send_message(QueueUrl=pipeline.dlq, MessageBody="x")
    assert bad(examined()) == {"The source bucket sends events to EventBridge", "The dead-letter queues are empty"}


def test_rights_that_are_missing_are_readable_answers(
    stack: Stack, examined: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(service: str, **_: Any) -> Any:
        client = real(service)
        if service in ("events", "logs"):
            client.meta.events.register("before-call", refuse)
        if service == "lambda":
            client.meta.events.register("before-call.lambda.ListEventSourceMappings", refuse)
        return client

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "x")

    real = boto3.client
    monkeypatch.setattr(boto3, "client", denied)
    found = examined()
    assert bad(found) == {
        "The rule hands new objects to the queue",
        INTAKE,
        "The cleanup function sweeps",
        "The cleanup function reconciles",
        STEPS,
        "No 'Error checking if file processed' in the last day",
    }
    assert {found[q][1].partition(":")[2] for q in bad(found)} == {
        " access denied; check the role's policy, the bucket policy and the key"
    }
