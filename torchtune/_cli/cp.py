"""``tune cp``"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from torchtune._recipe_registry import find_config, find_recipe, names, recipe_file

_EPILOG = """examples:
  $ tune cp lora_finetune_distributed .
  Copied file to ./lora_finetune_distributed.py

  $ tune cp llama3_2/1B_lora my_config          # the suffix is added
  Copied file to my_config.yaml

  $ tune cp llama3_2/1B_lora new/place.yaml --make-parents
  Copied file to new/place.yaml
"""


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds ``cp`` to the parser of ``tune``."""
    parser = subparsers.add_parser(
        "cp",
        prog="tune cp",
        usage="tune cp <recipe|config> destination [OPTIONS]",
        help="Copy a recipe or config to a place of your own",
        description="Copy a recipe or config to a place of your own, to change it there.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=str, help="name of a recipe or config, see `tune ls`")
    parser.add_argument("destination", type=Path, help="file or folder to copy to")
    parser.add_argument("-n", "--no-clobber", action="store_true", help="leave a file that is there already as it is")
    parser.add_argument("--make-parents", action="store_true", help="create the folders above the destination")
    parser.set_defaults(func=lambda args: copy(args, parser))


def copy(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Copies a file, or ends with an error of the parser that says why not."""
    source, name = _source(args.file, parser)
    destination: Path = args.destination
    if destination.is_dir():
        shown = os.path.join(destination, name)  # keeps the './' of a person who wrote '.'
        shown = f".{os.sep}{name}" if str(destination) == "." else shown
    else:
        shown = str(destination.with_name(destination.name + source.suffix) if not destination.suffix else destination)
    target = Path(shown)
    if args.no_clobber and target.exists():
        print(f"File already exists at {target.resolve()}, not overwriting.")
        return
    if args.make_parents:
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        parser.error(
            f"Cannot create regular file: '{shown}'. No such file or directory. If the specified destination's parent "
            "directory does not exist and you would like to create it on-the-fly, use the --make-parents flag."
        )
    print(f"Copied file to {shown}")


def _source(name: str, parser: argparse.ArgumentParser) -> tuple[Path, str]:
    """The file of a recipe or config, and its name in a folder: several recipes may be one file."""
    recipe = find_recipe(name)
    if recipe is not None:
        return recipe_file(recipe), f"{name.split('/')[-1]}.py"
    config = find_config(name)
    if config is not None:
        return config, config.name
    from torchtune.utils._text import nearest

    hint = nearest(name, names())
    parser.error(f"Invalid file name: {name}. Try `tune ls` to see all available files to copy.{hint}")
