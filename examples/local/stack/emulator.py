"""Start ministack, the local AWS emulator, with seven of its gaps mended.

Run by path, so that nothing of this project is importable inside the emulated functions but what their package
holds. Each patch names what it replaces; if ministack no longer has it, the emulator does not start.

1. DescribeAlarms over the Query protocol leaves out most fields, and Terraform would see changes for ever.
2. An event source mapping gets at most 10 messages, whatever its batch size.
3. EventBridge delivers to queues and functions whose policies do not allow it, and knows no dead letter queue.
4. Batch operations of SQS are checked as actions of their own; IAM has only sqs:SendMessage and its like.
5. When one process of a function dies, all others of its version are ended, those that just start included: where
   starting is slow, none ever comes up again.
6. A `*` in a policy ends at a newline: the role may not read a key that holds one.
7. Now and then an answer gets lost (seen: one apply in about ten, with several requests at once). The SDK repeats its
   request under the same invocation id, and what had been done is refused as a conflict (seen: CreateAlias,
   AddPermission). A repetition gets the answer of the first.
"""

from __future__ import annotations

import asyncio
import html
import json
import logging
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import ministack
from ministack import app
from ministack.core import iam_actions, iam_evaluator, lambda_runtime, responses
from ministack.services import cloudwatch, eventbridge, lambda_svc, sqs

logger = logging.getLogger("stack.emulator")

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
"""ASGI, "HTTP & WebSocket"."""
REMEMBERED = 500
"""Answers that are kept for repetitions, which come within seconds."""


def require(module: ModuleType, name: str) -> Callable[..., Any]:
    """Return the function `module.name`, or stop the start."""
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        raise SystemExit(
            f"ministack at {ministack.__file__} has no {module.__name__}.{name}: the patches in {__file__} "
            "were made for the version that requirements/dev.txt pins"
        )
    return function


def patch(module: ModuleType, name: str, wrap: Wrapper) -> None:
    """Replace the function `module.name` by `wrap` of it."""
    setattr(module, name, wrap(require(module, name)))


def _xml(value: object, tag: str) -> str:
    """Render JSON as AWS's Query protocol does: lists as <member>, absent values left out."""
    if value is None:
        return ""
    if isinstance(value, dict):
        inner = "".join(_xml(item, name) for name, item in value.items())
    elif isinstance(value, list):
        inner = "".join(_xml(item, "member") for item in value)
    elif isinstance(value, bool):
        inner = str(value).lower()
    elif tag.endswith("Timestamp") and isinstance(value, (int, float)):
        inner = datetime.fromtimestamp(value, tz=UTC).isoformat()
    else:
        inner = html.escape(str(value))
    return f"<{tag}>{inner}</{tag}>"


def complete_alarms(describe_alarms: Callable[..., Any]) -> Callable[..., Any]:
    """Answer a Query request with all fields of the JSON answer."""

    def describe(params: dict[str, Any], cbor: Any, is_cbor: bool, is_json: bool = False) -> Any:
        if is_cbor or is_json:
            return describe_alarms(params, cbor, is_cbor, is_json)
        flat = {name: value[0] if isinstance(value, list) else value for name, value in params.items()}
        lists = {
            name: [flat[key] for key in flat if key.startswith(f"{name}.member.")]
            for name in ("AlarmNames", "AlarmTypes")
        }
        scalars = ("AlarmNamePrefix", "StateValue", "MaxRecords", "NextToken")
        request = lists | {name: flat[name] for name in scalars if name in flat}
        status, headers, body = describe_alarms(params, request, False, True)
        if status != 200:
            return describe_alarms(params, cbor, is_cbor, is_json)
        result = _xml(json.loads(body), "DescribeAlarmsResult")
        namespace = "http://monitoring.amazonaws.com/doc/2010-08-01/"
        answer = f'<DescribeAlarmsResponse xmlns="{namespace}">{result}</DescribeAlarmsResponse>'
        return 200, {**headers, "Content-Type": "application/xml"}, answer.encode()

    return describe


def whole_batches(receive: Callable[..., Any]) -> Callable[..., Any]:
    """Give an event source mapping the batch size that it asks for."""

    def receive_many(queue_url: str, max_number: int) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        while len(messages) < max_number:
            part = receive(queue_url, max_number - len(messages))
            messages += part
            if not part:
                break
        return messages

    return receive_many


def target_allows(target_arn: str, rule_arn: str) -> bool:
    """Whether the policy of a queue or function lets EventBridge deliver for this rule."""
    service, account = "events.amazonaws.com", responses.get_account_id()
    if ":sqs:" in target_arn:
        return bool(sqs.queue_policy_allows(target_arn, service, rule_arn, account))
    if ":lambda:" not in target_arn:
        return True
    function, _, _ = lambda_svc._get_base_func_record_for_ref(target_arn)
    context = iam_evaluator.EvalContext(
        principal_arn="*",
        principal_type="Service",
        principal_account="",
        action="lambda:InvokeFunction",
        resource_arn=target_arn,
        region=responses.get_region(),
        service_context={"aws:sourcearn": rule_arn, "aws:sourceaccount": account},
    )
    policy = (function or {}).get("policy")
    return bool(iam_evaluator.evaluate_resource_policy(policy, context, service=service).decision == "Allow")


def checked_targets(invoke_target: Callable[..., Any]) -> Callable[..., Any]:
    """Deliver only where the target's policy allows it; otherwise to the target's dead letter queue."""

    def invoke(target: dict[str, Any], event: dict[str, Any], rule: dict[str, Any], view: Any = None) -> None:
        rule_arn = rule.get("Arn", "")
        if ":rule/" not in rule_arn or not app.AUTH or target_allows(target["Arn"], rule_arn):
            invoke_target(target, event, rule, view)
            return
        dead_letters = target.get("DeadLetterConfig", {}).get("Arn")
        logger.warning("%s does not let %s deliver; dead letters: %s", target["Arn"], rule_arn, dead_letters)
        if dead_letters and target_allows(dead_letters, rule_arn):
            invoke_target({"Arn": dead_letters}, event, rule, view)

    return invoke


def batch_actions(extract_action: Callable[..., Any]) -> Callable[..., Any]:
    """Name the IAM action that permits a batch operation ("Actions defined by Amazon SQS", IAM reference)."""

    def extract(*args: Any, **kwargs: Any) -> Any:
        action = extract_action(*args, **kwargs)
        return action.removesuffix("Batch") if action and action.startswith("sqs:") else action

    return extract


def only_the_dead(invalidate_worker: Callable[..., Any]) -> Callable[..., Any]:
    """After an error of one process, drop those that are dead; otherwise (an update, a deletion) end all."""

    def invalidate(func_name: str, qualifier: str | None = None, account: str = "", region: str = "") -> None:
        if sys.exc_info()[0] is None:
            invalidate_worker(func_name, qualifier, account or None, region or None)
            return
        pool = f"{account}:{region}:{func_name}:{qualifier}"
        with lambda_runtime._lock:
            workers = lambda_runtime._workers.get(pool, [])
            dead = [w for w in workers if w._proc is not None and w._proc.poll() is not None]
            lambda_runtime._workers[pool] = [w for w in workers if w not in dead]
        lambda_runtime.kill_workers(dead)

    return invalidate


def any_characters(compile_pattern: Callable[..., Any]) -> Callable[..., Any]:
    """Let `*` stand for "any combination of characters" (IAM guide, policy element Resource)."""

    def compile_any(*args: Any, **kwargs: Any) -> re.Pattern[str]:
        pattern = compile_pattern(*args, **kwargs)
        return re.compile(pattern.pattern, pattern.flags | re.DOTALL)

    return compile_any


def repeatable(serve: App) -> App:
    """Do what an SDK sends again under the same invocation id only once, and give the repetition the first answer.

    Only POST: the other methods may be repeated as it is. An error is tried again, and so is the invocation of a
    function, as by AWS.
    """
    first: OrderedDict[bytes, asyncio.Task[list[Message]]] = OrderedDict()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        invocation = dict(scope.get("headers") or ()).get(b"amz-sdk-invocation-id")
        if scope.get("method") != "POST" or invocation is None or scope["path"].endswith("/invocations"):
            await serve(scope, receive, send)
            return
        request = [await receive()]
        while request[-1].get("more_body"):
            request.append(await receive())
        if invocation in first:
            logger.warning("%s is repeated", scope["path"])
        else:
            first[invocation] = asyncio.create_task(_answer(serve, scope, request))
            while len(first) > REMEMBERED:
                first.popitem(last=False)
        answer = await asyncio.shield(first[invocation])  # also where this connection is gone: the next one asks again
        if answer[0].get("status", 500) >= 400:
            first.pop(invocation, None)
        for message in answer:
            await send(message)

    return app


async def _answer(serve: App, scope: dict[str, Any], request: list[Message]) -> list[Message]:
    """What the emulator answers to a request that has been read."""
    answer: list[Message] = []
    rest = iter(request)

    async def receive() -> Message:
        message = next(rest, None)
        if message is None:
            await asyncio.Event().wait()  # it is told of no disconnection: the answer is wanted
        return message or {}

    async def send(message: Message) -> None:
        answer.append(message)

    await serve(scope, receive, send)
    return answer


def main() -> None:
    patch(cloudwatch, "_describe_alarms", complete_alarms)
    patch(sqs, "_receive_messages_for_esm", whole_batches)
    patch(eventbridge, "_invoke_target", checked_targets)
    patch(iam_actions, "extract_iam_action", batch_actions)
    patch(iam_evaluator, "_fnmatch_compile", any_characters)
    patch(lambda_svc, "invalidate_worker", only_the_dead)
    patch(app, "app", repeatable)
    require(lambda_runtime, "kill_workers")
    require(lambda_svc, "_get_base_func_record_for_ref")
    require(sqs, "queue_policy_allows")
    os.environ["BIND_HOST"] = "127.0.0.1"  # its default is every interface
    app.main()


if __name__ == "__main__":
    main()
