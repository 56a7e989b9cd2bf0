"""The entry point of ``tune``, and its parser."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Callable

from torchtune._cli import cat, cp, data, download, ls, run, validate

# Each adds its parser with `add(subparsers)`, in the order of the help.
_COMMANDS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (
    download.add,
    ls.add,
    cp.add,
    run.add,
    validate.add,
    cat.add,
    data.add,
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``tune`` with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="tune",
        description="Fine-tune language models: find, copy and run recipes and configs, fetch weights.",
    )
    parser.set_defaults(func=lambda args: parser.print_help())
    subparsers = parser.add_subparsers(title="subcommands")
    for add in _COMMANDS:
        add(subparsers)
    return parser


def _collect_garbage_seldom() -> None:
    """Half of the time that importing torch takes, and most of what leaving it takes, is spent looking for garbage."""
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)  # the process ends: nothing is left to be found


def main() -> None:
    """Runs ``tune`` with the arguments of the command line."""
    _collect_garbage_seldom()
    args = make_parser().parse_args()
    try:
        args.func(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `tune ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
