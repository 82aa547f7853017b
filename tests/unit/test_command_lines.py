"""Every `firebolt-cdc …` that the documents or the product's messages name can be typed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from firebolt_cdc import cli
from support import repository

COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
[_, USAGE_ERROR, *_] = typer.BadParameter.mro()  # click's, or that of the click within typer
SPAN = re.compile(r"`(firebolt-cdc [^`]+)`")
CALL = re.compile(r"firebolt-cdc\s+(?P<name>[\w-]+)(?P<rest>[^`]*)")
PLACEHOLDER = re.compile(r"[A-Z]+|…|fair/\S+|s3://\S+|sessions")
VALUE = "VALUE"


def documents() -> list[Path]:
    return [repository() / "README.md", *sorted((repository() / "docs").glob("*.md"))]


def modules() -> list[Path]:
    return sorted((repository() / "handler/firebolt_cdc").glob("*.py"))


def in_document(text: str) -> Iterator[str]:
    """What stands in a code block or between backticks."""
    fenced = False
    prose = []
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            prose.append(line)
        elif line.strip().startswith("firebolt-cdc "):
            yield line.split(" #")[0].strip()
    yield from (" ".join(span.split()) for span in SPAN.findall("\n".join(prose)))


def in_module(text: str) -> Iterator[str]:
    """What stands in its strings, with VALUE for what is filled in."""
    tree = ast.parse(text)
    inner = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            said = "".join(str(p.value) if isinstance(p, ast.Constant) else VALUE for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inner:
            said = node.value
        else:
            continue
        for part in said.split("firebolt-cdc ")[1:]:
            yield f"firebolt-cdc {part}"


def arguments(command: Any, rest: str) -> list[str]:
    """The words that belong to a call, of those that follow its name: prose goes on behind it."""
    takes_value = {name for p in command.params if not getattr(p, "is_flag", False) for name in p.opts}
    found: list[str] = []
    words = iter(rest.split())
    for word in words:
        bare = re.sub(rf"(?<=[a-z]){VALUE}$|[.,;:)]+$", "", word)
        if bare.startswith("--"):
            found.append(bare)
            if bare in takes_value:
                found.append(next(words).strip("\"'.,;:)"))
        elif PLACEHOLDER.fullmatch(bare):
            found.append(bare)
        else:
            break
        if bare != word:
            break
    return found


def parse(line: str) -> bool:
    """Whether a line is a call; raises ValueError if it is one that cannot be typed.

    A call may be abridged to the arguments that matter where it stands.
    """
    found = CALL.match(line)
    if found is None or found["name"] == VALUE:
        return False
    name = found["name"]
    if name not in COMMANDS:
        raise ValueError(f"no command {name!r}")
    try:
        COMMANDS[name].make_context(name, ["--function", "f", *arguments(COMMANDS[name], found["rest"])])
    except USAGE_ERROR as error:
        if type(error).__name__ != "MissingParameter":
            raise ValueError(error.format_message()) from error
    return True


@pytest.mark.parametrize("path", [*documents(), *modules()], ids=lambda path: path.name)
def test_the_commands_that_are_named_can_be_typed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for line in in_document(text) if path.suffix == ".md" else in_module(text):
        try:
            parse(line)
        except ValueError as error:
            pytest.fail(f"{line[:120]!r}: {error}")


def test_they_are_found() -> None:
    documented = [line for path in documents() for line in in_document(path.read_text(encoding="utf-8")) if parse(line)]
    said = [line for path in modules() for line in in_module(path.read_text(encoding="utf-8")) if parse(line)]
    assert len(documented) > 50
    assert len(said) > 30


@pytest.mark.parametrize(
    "line", ["firebolt-cdc reload TABLE --all", "firebolt-cdc rety FILE", "firebolt-cdc retry --class hold --yes"]
)
def test_what_cannot_be_typed_is_seen(line: str) -> None:
    with pytest.raises(ValueError, match=r"rety|hold|--all"):
        parse(line)
