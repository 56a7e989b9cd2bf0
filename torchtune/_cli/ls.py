"""``tune ls``"""

from __future__ import annotations

import argparse

from torchtune._recipe_registry import get_all_recipes

_NONE = "<>"
_WIDTH = 40
_EPILOG = """examples:
  $ tune ls
  RECIPE                                   CONFIG
  full_finetune_single_device              llama2/7B_full_low_memory
  ...

`tune cp` copies any of these files, `tune cat` shows a config, `tune run` runs a recipe with a config.
"""


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds ``ls`` to the parser of ``tune``."""
    parser = subparsers.add_parser(
        "ls",
        prog="tune ls",
        help="List all recipes and configs",
        description="List the recipes that come with torchtune, each with its configs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=list_recipes)


def list_recipes(args: argparse.Namespace) -> None:
    """Prints a line per recipe and config; the recipe's name stands on its first line only."""
    print(f"{'RECIPE':<{_WIDTH}} {'CONFIG':<{_WIDTH}}")
    for recipe in get_all_recipes():
        name = recipe.name
        for config in [config.name for config in recipe.configs] or [_NONE]:
            print(f"{name:<{_WIDTH}} {config:<{_WIDTH}}")
            name = ""
