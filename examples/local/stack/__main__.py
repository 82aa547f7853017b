"""`python -m stack up | down | demo | validate | terraform …`, as the Makefile calls it."""

from __future__ import annotations

import argparse
import sys

from .paths import CACHE, ENV, ROOT
from .service import StackError
from .terraform import Terraform


def _validate() -> None:
    """Validate the root module and every example."""
    examples = sorted({path.parent for path in (ROOT / "examples").glob("*/*.tf")})
    for directory in [ROOT, *examples]:
        tool = Terraform(directory)
        tool.init("-backend=false", log=CACHE / "terraform" / "init.log")
        print(f"{directory.relative_to(ROOT)}: ", end="", flush=True)
        tool.run("validate", "-no-color")


def _terraform(args: list[str]) -> None:
    """Run Terraform in the root module."""
    tool = Terraform(ROOT)
    tests = [arg for arg in args if arg.startswith("-test-directory=")]
    tool.init("-backend=false", *tests, log=CACHE / "terraform" / "init.log")
    tool.run(*args)


def main() -> int:
    parser = argparse.ArgumentParser(prog="stack", description="The local stack")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="start it and leave it running")
    verbs.add_parser("down", help="stop it and remove what it left")
    demo = verbs.add_parser("demo", help="start it, show the pipeline at work, stop it")
    demo.add_argument("--json", action="store_true", help="print the findings as JSON at the end")
    demo.add_argument("--keep", action="store_true", help="leave the stack running")
    verbs.add_parser("validate", help="terraform validate for the module and every example")
    passed = verbs.add_parser("terraform", help="run terraform in the root module")
    passed.add_argument("args", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    try:
        if args.verb == "validate":
            _validate()
        elif args.verb == "terraform":
            _terraform(args.args)
        elif args.verb == "demo":
            from .demo import demo as show

            return show(as_json=args.json, keep=args.keep)
        else:
            from . import local

            if args.verb == "down":
                local.down()
            else:
                local.up()
                print(f"The stack is up: {ENV.relative_to(ROOT)} says where. Stop it with `make down`.")
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
