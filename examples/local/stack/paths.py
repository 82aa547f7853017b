"""Where the local stack keeps its files. Everything under LOCAL goes with `make down`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "local"
CACHE = ROOT / ".cache"
LOCAL = ROOT / ".local"
ENV = LOCAL / "env"
LOGS = LOCAL / "logs"
PACKAGE = LOCAL / "package" / "firebolt-cdc.zip"
