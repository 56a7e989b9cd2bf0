"""``tune cat``"""

from __future__ import annotations

import argparse
from pathlib import Path

from torchtune._recipe_registry import find_config, find_recipe

_EPILOG = """examples:
  $ tune cat llama3_2/1B_lora
  $ tune cat my_config.yaml --sort
"""


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds ``cat`` to the parser of ``tune``."""
    parser = subparsers.add_parser(
        "cat",
        prog="tune cat",
        usage="tune cat <config> [--sort]",
        help="Print a config",
        description="Print a config of torchtune, or any YAML file, without its comments.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config_name", type=str, help="name of a config, see `tune ls`, or a YAML file")
    parser.add_argument("--sort", action="store_true", help="sort the keys")
    parser.set_defaults(func=lambda args: show(args, parser))


def show(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Prints a config, or ends with an error of the parser that says why not."""
    name: str = args.config_name
    if find_recipe(name) is not None:
        print(f"'{name}' is a recipe, not a config. Please use a config name.")
        return
    file = find_config(name) or Path(name)
    if file.suffix not in (".yaml", ".yml"):
        parser.error(f"Invalid config format: '{name}'. Must be YAML (.yaml/.yml)")
    if not file.is_file():
        parser.error(f"Config '{name}' not found.")

    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        print(OmegaConf.to_yaml(OmegaConf.load(file), sort_keys=args.sort), end="")
    except (yaml.YAMLError, OmegaConfBaseException, OSError) as error:
        parser.error(f"Error parsing config '{name}': {error}")
