"""Run the installed Terraform, also where its registry cannot be reached.

With internet nothing here matters. Without it, `terraform init` finds the AWS provider only in a mirror: a
directory laid out as `registry.terraform.io/hashicorp/aws/<version>/<os_arch>/` (Terraform's "filesystem mirror").
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .paths import CACHE, ROOT
from .service import StackError

REGISTRY = "registry.terraform.io"
REGISTRY_TIMEOUT_S = 4


def _mirrors() -> list[Path]:
    fixed = [Path.home() / ".terraform.d", Path("/usr/share/terraform"), Path("/usr/local/share/terraform")]
    candidates = [folder / "plugins" for folder in fixed] + sorted(Path("/opt").glob("*"))
    return [folder for folder in candidates if (folder / REGISTRY / "hashicorp" / "aws").is_dir()]


@cache
def _registry_reachable() -> bool:
    try:
        with urllib.request.urlopen(f"https://{REGISTRY}/.well-known/terraform.json", timeout=REGISTRY_TIMEOUT_S):
            return True
    except (urllib.error.URLError, TimeoutError):
        return False


def _environment(data_dir: Path) -> dict[str, str]:
    """The caller's environment, without AWS settings of the caller's, and with a provider source that works."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env |= {"TF_DATA_DIR": str(data_dir), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    if "TF_CLI_CONFIG_FILE" in env and not Path(env["TF_CLI_CONFIG_FILE"]).exists():
        del env["TF_CLI_CONFIG_FILE"]
    if "TF_CLI_CONFIG_FILE" not in env and not _registry_reachable():
        mirrors = _mirrors()
        if mirrors:
            config = CACHE / "terraform" / "mirror.tfrc"
            config.parent.mkdir(parents=True, exist_ok=True)
            path = json.dumps(str(mirrors[0]))
            config.write_text(f"provider_installation {{\n  filesystem_mirror {{\n    path = {path}\n  }}\n}}\n")
            env["TF_CLI_CONFIG_FILE"] = str(config)
            return env
    # The provider is 600 MB: download it once, not once for each of this repository's configurations.
    plugins = CACHE / "terraform" / "plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    env.setdefault("TF_PLUGIN_CACHE_DIR", str(plugins))
    return env | {"TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE": "1"}


class Terraform:
    """Terraform in one directory, with its working files under .cache instead of beside the code."""

    def __init__(self, directory: Path, variables: Mapping[str, str] | None = None) -> None:
        """`variables` are input variables of the configuration in `directory`."""
        if shutil.which("terraform") is None:
            raise StackError("terraform is not installed, or not on the PATH (1.9 or newer is needed)")
        self.directory = directory
        name = directory.relative_to(ROOT).as_posix().replace("/", "-")
        self.env = _environment(CACHE / "terraform" / (name if name != "." else "root"))
        self.env |= {f"TF_VAR_{key}": value for key, value in (variables or {}).items()}

    def run(self, *args: str, log: Path | None = None, allowed: tuple[int, ...] = (0,)) -> int:
        """Run `terraform args`, its output to `log` or the terminal; raise StackError on another exit status."""
        command = ["terraform", *args]
        if log is None:
            status = subprocess.run(command, cwd=self.directory, env=self.env, check=False).returncode
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as output:
                status = subprocess.run(
                    command, cwd=self.directory, env=self.env, check=False, stdout=output, stderr=output
                ).returncode
        if status not in allowed:
            detail = f":\n{log.read_text(errors='replace')[-4000:]}" if log else ""
            raise StackError(f"terraform {args[0]} in {self.directory} ended with status {status}{detail}")
        return status

    def init(self, *options: str, log: Path | None = None) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "terraform-init.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # Terraform's plugin cache bears one init at a time
            self.run("init", "-input=false", "-no-color", *options, log=log)

    def outputs(self) -> dict[str, Any]:
        """The values of all outputs."""
        answer = subprocess.run(
            ["terraform", "output", "-json"], cwd=self.directory, env=self.env, check=True, capture_output=True
        )
        return {name: output["value"] for name, output in json.loads(answer.stdout).items()}
