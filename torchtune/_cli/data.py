"""``tune data check`` and ``tune data show``"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchtune.data.checks import CheckReport

#: The names stand here too, since the help of every command is made without an import of what knows them.
_STYLES = (
    "how rows are written: openai, sharegpt, preference, or as in a public set: glaive, xlam, hermes, toolace, apigen_mt, "
    "when2call; default: by the columns"
)
_TRAIN_ON = (
    "message, sampled, calls, no_reasoning, or a factor on the loss of a part (header, content, reasoning, call, result, "
    "end) such as call=2; several, with commas, hold together; default: message"
)
#: The same error in more rows than these is printed once, with all their lines.
_ALIKE = 3

_CHECK_EPILOG = """examples:
  $ tune data check rows.jsonl --model llama3_1                          # a format alone: everything but lengths
  $ tune data check rows.jsonl --model ./Llama-3.1-8B --max-seq-len 4096 # the folder with the tokenizer's files
  $ tune data check rows.jsonl --model qwen3 --json > report.json
  $ tune data check rows.jsonl --model qwen3 --fix good.jsonl

exit status: 0 no error, 1 errors in the rows, 2 wrong arguments
"""
_SHOW_EPILOG = """examples:
  $ tune data show rows.jsonl --row 3 --model ./Llama-3.1-8B             # trained tokens in colour
  $ tune data show rows.jsonl --row 3 --model ./Llama-3.1-8B --ids
  $ tune data show rows.jsonl --row 1-50 --model llama3_1 --html rows.html
"""


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds ``data`` to the parser of ``tune``."""
    parser = subparsers.add_parser(
        "data", prog="tune data", help="Check rows of a data set, and see them as a model does"
    )
    parser.set_defaults(func=lambda args: parser.print_help())
    commands = parser.add_subparsers(title="subcommands")
    _add_check(commands)
    _add_show(commands)


def _add_command(commands: argparse._SubParsersAction, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    """A subcommand with the arguments that both have."""
    parser = commands.add_parser(
        name,
        prog=f"tune data {name}",
        help=text,
        description=text + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", metavar="FILE_OR_HUB", help="a JSON, JSONL, Parquet or CSV file, or a data set's name"
    )
    parser.add_argument("--style", metavar="NAME", default="auto", help=_STYLES)
    parser.add_argument("--conversation-column", metavar="NAME", help="default: messages or conversations")
    parser.add_argument("--tools-column", metavar="NAME", default="tools", help="default: tools")
    parser.add_argument("--tools", metavar="FILE", help="JSON file with the tools of rows that have none of their own")
    parser.add_argument(
        "--parse-text-calls", action="store_true", help="read <tool_call> in the assistant's text as calls"
    )
    parser.add_argument("--split", default="train", help="the split of a data set; default: train")
    parser.add_argument(
        "--chat-format", metavar="NAME", help="write all rows in this format, or 'official': the model's own"
    )
    parser.add_argument(
        "--format-option", metavar="KEY=VALUE", action="append", default=[], help="an option of the format"
    )
    parser.add_argument("--train-on", metavar="WHAT", type=_train_on, default="message", help=_TRAIN_ON)
    return parser


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(commands, "check", "Name every error of every row, with its line", _CHECK_EPILOG)
    model_help = "a format's name (see torchtune.data.formats), or a folder with a tokenizer's files"
    parser.add_argument("--model", metavar="NAME_OR_FOLDER", help=model_help)
    parser.add_argument("--builtin-tools", metavar="NAME", nargs="+", default=[], help="may be called undeclared")
    parser.add_argument("--max-seq-len", metavar="N", type=int, help="rows with more tokens are errors")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--fix", metavar="OUT", help="write the rows that are right or can be repaired without guessing"
    )
    parser.add_argument("--processes", metavar="N", type=int, help="default: one for each core, where that pays")
    parser.set_defaults(func=lambda args: check(args, parser))


def _add_show(commands: argparse._SubParsersAction) -> None:
    parser = _add_command(
        commands, "show", "Show rows as the model reads them, what is trained in colour", _SHOW_EPILOG
    )
    parser.add_argument("--model", metavar="NAME_OR_FOLDER", required=True, help="as for tune data check")
    parser.add_argument(
        "--row", metavar="N", help="a row's number from 1, or several: 3, 1-20, 2,5,9; default 1 (--html: 1-50)"
    )
    parser.add_argument("--ids", action="store_true", help="show the id of each token")
    parser.add_argument("--html", metavar="OUT", help="write a page to read in a browser")
    parser.set_defaults(func=lambda args: show(args, parser))


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Prints what is wrong with rows; ends with 1 if anything is."""
    from torchtune.data.checks import check_rows

    try:
        report = check_rows(
            args.source,
            model=args.model,
            builtin_tools=args.builtin_tools,
            max_seq_len=args.max_seq_len,
            fix=args.fix,
            processes=args.processes,
            **_common(args),
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if args.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        _print_report(report, args.source)
    sys.exit(0 if report.ok else 1)


def show(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Prints rows as the model reads them, or writes a page of them."""
    from torchtune.data._show import print_row, read_views, write_html

    try:
        wanted = _row_numbers(args.row or ("1-50" if args.html else "1"))
        views = read_views(args.source, wanted, model=args.model, **_common(args))
        if args.html:
            count = write_html(args.html, views, title=args.source, ids=args.ids)
            print(f"Wrote {count} rows to {args.html}")
            return
        for view in views:
            print_row(view, source=args.source, ids=args.ids)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def _common(args: argparse.Namespace) -> dict[str, Any]:
    """The options of both commands."""
    names = (
        "style",
        "conversation_column",
        "tools_column",
        "tools",
        "parse_text_calls",
        "split",
        "chat_format",
        "train_on",
    )
    return {**{name: getattr(args, name) for name in names}, "format_options": _format_options(args.format_option)}


def _format_options(given: list[str]) -> dict[str, Any]:
    """Options from ``key=value``; a value is JSON, or else text."""
    options: dict[str, Any] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"--format-option {item!r}: expected KEY=VALUE")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def _train_on(text: str) -> Any:
    """What is trained, from ``sampled``, ``call=2``, or several with commas."""
    from torchtune.data._selectors import read_selector

    items: list[Any] = []
    for item in text.split(","):
        part, equals, factor = item.strip().partition("=")
        try:
            items.append({part: float(factor)} if equals else part)
        except ValueError:
            raise argparse.ArgumentTypeError(f"the factor for {part!r} must be a number; found {factor!r}") from None
    try:
        read_selector(items, "it")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return items


def _row_numbers(text: str) -> list[int]:
    """The numbers in ``3``, ``1-20`` or ``2,5,9``, sorted."""
    numbers: set[int] = set()
    for item in text.split(","):
        first, dash, last = item.partition("-")
        try:
            start, stop = int(first), int(last if dash else first)
        except ValueError:
            start, stop = 0, 0
        if not 1 <= start <= stop:
            raise ValueError(f"--row {text!r}: expected a number from 1, a range such as 1-20, or several with commas")
        numbers.update(range(start, stop + 1))
    return sorted(numbers)


def _print_report(report: CheckReport, source: str) -> None:
    """Errors, one a line, then the numbers."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for error in report.errors:
        alike.setdefault((error.message, error.kind, error.text), []).append(error.line)
    for error in report.errors:
        lines = alike[error.message, error.kind, error.text]
        if len(lines) <= _ALIKE or error.line == lines[0]:
            message = "" if error.message is None else f" message {error.message}:"
            field = f" [{error.field}]" if error.field else ""
            more = f" (and {len(lines) - 1} more: lines {_ranges(lines[1:])})" if len(lines) > _ALIKE else ""
            print(_plain(f"{source}:{error.line}:{message} {error.kind}: {error.text}{field}{more}"))
    counts = dict(report.counts)
    kinds = counts.pop("errors", {})
    print(
        ("\n" if report.errors else "")
        + f"{report.rows} row{'s' * (report.rows != 1)}: {counts.pop('good')} good, {counts.pop('bad')} with errors"
    )
    print("  " + ", ".join(f"{number} {name}" for name, number in counts.items()))
    if kinds:
        print("  errors: " + ", ".join(f"{number} {kind}" for kind, number in kinds.items()))
    if report.lengths and report.lengths["rows"]:
        for name, numbers in (("tokens per row", report.lengths), ("trained per row", report.lengths["trained"])):
            shown = ", ".join(f"{key} {numbers[key]}" for key in ("min", "median", "mean", "p95", "max", "total"))
            print(f"  {name}: {shown}")
    if report.tools:
        used = list(report.tools.items())
        more = f", and {len(used) - 20} more" if len(used) > 20 else ""
        print(f"  {len(used)} tools by calls: " + _plain(", ".join(f"{name} {n}" for name, n in used[:20])) + more)
    for note in report.notes:
        print(f"  note: {note}")
    if report.fix is not None:
        fix = report.fix
        print(f"wrote {fix['written']} rows to {fix['file']}, {len(fix['repaired'])} of them repaired:")
        for one in fix["repaired"]:
            print(_plain(f"  line {one['line']}: {'; '.join(one['repairs'])}"))
        print(f"left out {len(fix['left_out'])} rows" + (f", at lines {fix['left_out']}" if fix["left_out"] else ""))


def _ranges(numbers: list[int]) -> str:
    """Numbers as ``2-40, 42``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _plain(text: str) -> str:
    """Text of rows without what would steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
