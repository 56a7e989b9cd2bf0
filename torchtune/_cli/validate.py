"""``tune validate``"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from torchtune import _recipe_registry as registry

_EPILOG = """examples:
  $ tune validate my_config.yaml
  Config is well-formed!

  $ tune validate my_config.yaml --recipe lora_finetune_single_device    # and that recipe reads every key

exit status: 0 well-formed, 2 wrong arguments or (with strict: true) unknown keys, 1 a file or component that is not there
"""


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds ``validate`` to the parser of ``tune``."""
    parser = subparsers.add_parser(
        "validate",
        prog="tune validate",
        usage="tune validate <config> [--recipe NAME]",
        help="Check a config without running it",
        description="Check that each component of a config exists and takes its arguments, and that its keys are read.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="a YAML file, or the name of a config, see `tune ls`")
    parser.add_argument("--recipe", help="the recipe to check the keys against; default every recipe it may be for")
    parser.set_defaults(func=lambda args: check(args, parser))


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Prints that a config is well-formed, or ends with all that is wrong with it."""
    name = str(args.config)
    known = registry.find_config(name)
    file = args.config if args.config.is_file() or known is None else known
    keys = _declared_keys(name, args.recipe, parser)

    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from torchtune.config import ConfigError, InstantiationError, check_keys, validate
    from torchtune.config._errors import describe, remember_source

    try:
        cfg = OmegaConf.load(file)
        if not isinstance(cfg, DictConfig):
            parser.error(f"{args.config} holds no keys with values")
        remember_source(cfg, str(args.config))
        lacking = registry.missing_keys(args.recipe or "", cfg)  # type: ignore[arg-type]
        if lacking:
            parser.error(lacking)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                check_keys(cfg, keys or map(str, cfg))
                validate(cfg)
            finally:
                sys.stderr.writelines(f"warning: {warning.message}\n" for warning in caught)
    except ConfigError as error:
        parser.error(str(error))
    except (InstantiationError, OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        also = getattr(error, "also", "")
        sys.stderr.write(f"{also}\n" * bool(also) + f"{describe(error)}\n")
        sys.exit(1)
    print("Config is well-formed!")


def _declared_keys(config: str, recipe_name: str | None, parser: argparse.ArgumentParser) -> set[str]:
    """The keys that the recipes for a config read; of all recipes, for a config that none of them lists."""
    if recipe_name is not None:
        recipe = registry.find_recipe(recipe_name)
        file = registry.recipe_file(recipe) if recipe else Path(recipe_name)
        if not file.is_file():
            parser.error(f"no recipe '{recipe_name}': neither a file nor a name from `tune ls`")
        return set(registry.config_keys(file))
    recipes = registry.recipes_of_config(config) or registry.get_all_recipes()
    declared = [registry.config_keys(file) for file in {registry.recipe_file(r) for r in recipes} if file.is_file()]
    return set().union(*declared) if declared and all(declared) else set()
