"""A server process of the local stack: started once, found again later, stopped only if it is ours.

The process holds a lock on its state file as long as it lives (it inherits the open file). So a state file that
can be locked is a leftover of a process that is gone, whatever its pid means today; one that cannot be locked
names a living process of ours.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .paths import LOCAL, LOGS


class StackError(Exception):
    """The local stack cannot go on; the message says why and what to do."""


T = TypeVar("T")


def wait_for(what: str, probe: Callable[[], T | None], timeout_s: float, interval_s: float = 0.1) -> T:
    """Call `probe` until it answers something other than None or False; raise StackError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise StackError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(interval_s)


@dataclass(frozen=True)
class Service:
    """A named server; its state file, which is its lock, and its log live under .local."""

    name: str

    @property
    def _state_path(self) -> Path:
        return LOCAL / "run" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name}.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._state()['port']}"

    def _state(self) -> dict[str, int]:
        if not self._state_path.exists():
            return {}
        state: dict[str, int] = json.loads(self._state_path.read_text())
        return state

    def running(self) -> bool:
        if not self._state_path.exists():
            return False
        with self._state_path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def port(self) -> int:
        """The port of the last start, so that a restart is found where it was; otherwise a free one."""
        port = self._state().get("port")
        return port if port is not None and _bindable(port) else _free_port()

    def start(self, command: Sequence[str], env: Mapping[str, str], port: int, timeout_s: float = 60) -> None:
        """Start `command` in a process group of its own and wait until it listens on `port`."""
        if self.running():
            raise StackError(f"{self.name} is running already")
        for folder in (LOGS, self._state_path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with self._state_path.open("a+") as state, self.log.open("ab") as output:
            fcntl.flock(state, fcntl.LOCK_EX)
            process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=LOCAL,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[state.fileno()],
                start_new_session=True,
            )
            state.truncate(0)
            json.dump({"pid": process.pid, "port": port}, state)

        def listening() -> bool:
            if process.poll() is not None:
                tail = self.log.read_text(errors="replace")[-3000:]
                raise StackError(f"{self.name} ended with status {process.returncode}:\n{tail}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(f"{self.name} to listen on port {port} (log: {self.log})", listening, timeout_s)

    def stop(self) -> bool:
        """End the process and its children, if it runs; return whether it did."""
        return self._signal(signal.SIGTERM, 3) or self._signal(signal.SIGKILL, 5)

    def kill(self) -> bool:
        """End the process as a crash would."""
        return self._signal(signal.SIGKILL, 5)

    def _signal(self, number: signal.Signals, patience_s: float) -> bool:
        """Send a signal to the process group; return whether the process ran and is gone now."""
        if not self.running():
            return False
        with suppress(ProcessLookupError):  # it ended by itself just now
            os.killpg(self._state()["pid"], number)
        deadline = time.monotonic() + patience_s
        while self.running():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
