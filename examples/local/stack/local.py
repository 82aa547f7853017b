"""Bring the local stack up and down: emulator, Firebolt stand-in, package, `terraform apply`, .local/env."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.client import BaseClient
from botocore.config import Config

from .paths import CACHE, ENV, EXAMPLE, LOCAL, LOGS, PACKAGE, ROOT
from .service import Service, StackError
from .terraform import Terraform

REGION = "eu-west-1"
ACCESS_KEY = SECRET_KEY = "test"  # the emulator's root; every other key gets what IAM allows it
DATABASE = "firebolt"

EMULATOR = Service("emulator")
STANDIN = Service("standin")

Report = Callable[[str], None]


@contextmanager
def _alone() -> Iterator[None]:
    """Let one `up` or `down` run at a time; the second waits for the first."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "stack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _system_env() -> dict[str, str]:
    """A small environment: what a developer has set must not reach the emulated functions."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return kept | {"HOME": str(LOCAL), "TMPDIR": str(LOCAL / "tmp"), "PYTHONUNBUFFERED": "1"}


def build_package() -> None:
    """Build the package for this Python, under which the emulator runs the functions."""
    command = [sys.executable, str(ROOT / "handler" / "build_package.py"), "--local", "--output", str(PACKAGE)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        raise StackError(f"the package could not be built:\n{built.stdout}{built.stderr}")


def start_emulator() -> None:
    (LOCAL / "tmp").mkdir(parents=True, exist_ok=True)
    port = EMULATOR.port()
    env = _system_env() | {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "MINISTACK_REGION": REGION,
        "AUTH": "true",  # IAM policies are enforced
        # It would listen on further ports, and remove containers that another ministack may own.
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "DOCKER_HOST": f"unix://{LOCAL}/no-docker.sock",
    }
    EMULATOR.start([sys.executable, str(Path(__file__).with_name("emulator.py"))], env, port)


def start_standin() -> None:
    port = STANDIN.port()
    env = _system_env() | {
        "PYTHONPATH": str(EXAMPLE),
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
    }
    command = [sys.executable, "-m", "standin", "--port", str(port), "--state", str(LOCAL / "standin")]
    command += ["--s3-endpoint", EMULATOR.url, "--database", DATABASE]
    STANDIN.start(command, env, port)


def terraform(variables: Mapping[str, str] | None = None) -> Terraform:
    """Terraform for examples/local, told where the running servers are, and what else it is to be told."""
    return Terraform(
        EXAMPLE,
        {
            "aws_endpoint_url": EMULATOR.url,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "region": REGION,
            "firebolt_core_url": STANDIN.url,
            "firebolt_database": DATABASE,
            "package_path": str(PACKAGE),
            **(variables or {}),
        },
    )


def up(report: Report = print, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Start what does not run, apply the module as it is now, and return what .local/env says.

    `variables`: of examples/local, where another value than the default is wanted.

    Raises StackError with the reason; what was started stays up then, for `down` or another `up`.
    """
    with _alone():
        if not EMULATOR.running():
            _remove()  # an emulator that is gone took all resources with it
        report("building the package")
        build_package()
        if not EMULATOR.running():
            report("starting the AWS emulator")
            start_emulator()
        if not STANDIN.running():
            report("starting the Firebolt stand-in")
            start_standin()
        report("terraform apply (a minute or two; log: .local/logs/terraform.log)")
        tool = terraform(variables)
        tool.init(log=LOGS / "terraform-init.log")
        tool.run("apply", "-auto-approve", "-input=false", "-no-color", log=LOGS / "terraform.log")
        env = {
            "AWS_ENDPOINT_URL": EMULATOR.url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "FIREBOLT_CORE_URL": STANDIN.url,
            "FIREBOLT_DATABASE": DATABASE,
        }
        env |= tool.outputs()["env"]
        partial = ENV.with_suffix(".part")
        partial.write_text("".join(f"{name}={value}\n" for name, value in env.items()))
        partial.replace(ENV)
        return env


def down(keep_logs: bool = False) -> None:
    """Stop the servers of this checkout and remove .local; harmless when nothing runs."""
    with _alone():
        _remove(keep_logs)


def _remove(keep_logs: bool = False) -> None:
    for service in (STANDIN, EMULATOR):
        service.stop()
        if service.running():
            raise StackError(f"{service.name} does not end (log: {service.log})")
    if LOCAL.exists():
        for path in LOCAL.iterdir():
            if keep_logs and path == LOGS:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        if not keep_logs:
            LOCAL.rmdir()


def environment() -> dict[str, str]:
    """What .local/env says; raises StackError when the stack is not up."""
    if not ENV.exists() or not EMULATOR.running():
        raise StackError("the local stack is not up: run `make up`")
    return dict(line.split("=", 1) for line in ENV.read_text().splitlines())


def client(service: str) -> BaseClient:
    """A boto3 client for the emulator, as its root."""
    return boto3.client(
        service,
        endpoint_url=EMULATOR.url,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(retries={"max_attempts": 2}, read_timeout=120, s3={"addressing_style": "path"}),
    )
