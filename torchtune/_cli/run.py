"""``tune run``"""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys
from pathlib import Path

from torchtune import _recipe_registry as registry

_EPILOG = """examples:
  # in this process, on one device
  $ tune run lora_finetune_single_device --config llama3_2/1B_lora_single_device

  # with torchrun, on four devices; its options stand before the recipe
  $ tune run --nproc-per-node 4 full_finetune_distributed --config llama3_2/1B_full

  # with values of your own: key=value sets one, ~key removes one
  $ tune run lora_finetune_single_device --config my_config.yaml model.lora_rank=16 ~seed

  # a recipe of your own
  $ tune run ./my_recipe.py --config my_config.yaml
"""

# torchrun's options, some with a short flag, and choices where there are any. Kept here so that the parser needs no torch; a
# test compares them with the installed torchrun's.
_TORCHRUN_VALUES = (
    "nnodes nproc-per-node rdzv-backend rdzv-endpoint rdzv-id rdzv-conf max-restarts monitor-interval start-method "
    "event-log-handler role log-dir redirects tee local-ranks-filter duplicate-stdout-filters duplicate-stderr-filters "
    "node-rank master-addr master-port local-addr logs-specs numa-binding signals-to-handle shutdown-timeout"
)
_TORCHRUN_SWITCHES = ("standalone", "module", "no-python", "run-path", "virtual-local-rank")
_SHORT = {"redirects": "-r", "tee": "-t", "module": "-m"}
_CHOICES = {
    "start-method": ("spawn", "fork", "forkserver"),
    "numa-binding": ("node", "socket", "exclusive", "core-complex"),
}
# Any of these says where the processes meet; without them they meet on a free port of this machine.
_MEETING = {"nnodes", "rdzv_backend", "rdzv_endpoint", "node_rank", "master_addr", "master_port", "standalone"}


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds ``run`` to the parser of ``tune``."""
    parser = subparsers.add_parser(
        "run",
        prog="tune run",
        usage="tune run [TORCHRUN-OPTIONS] <recipe> --config <config> [RECIPE-OPTIONS]",
        help="Run a recipe with a config, on one device or with torchrun",
        description="Run a recipe with a config. With any option of torchrun, torchrun starts it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", type=str, help="name of a recipe, see `tune ls`, a Python file, or a module's name")
    parser.add_argument(
        "recipe_args",
        nargs=argparse.REMAINDER,
        help="what the recipe gets: --config with a name or a file, then key=value overrides",
    )
    torchrun = parser.add_argument_group("torchrun's options", "see `torchrun --help`; they stand before the recipe")
    for name in _TORCHRUN_VALUES.split():
        choices = _CHOICES.get(name)
        torchrun.add_argument(*_spellings(name), choices=choices, default=argparse.SUPPRESS, metavar="VALUE")
    for name in _TORCHRUN_SWITCHES:
        torchrun.add_argument(*_spellings(name), action="store_true", default=argparse.SUPPRESS)
    parser.set_defaults(func=lambda args: run(args, parser))


def _spellings(name: str) -> list[str]:
    """The flags of an option, also with underscores; the first long one names the destination."""
    flags = [*([_SHORT[name]] if name in _SHORT else []), f"--{name}"]
    return [*flags, *([f"--{name.replace('-', '_')}"] if "-" in name else [])]


def torchrun_options(args: argparse.Namespace) -> list[str]:
    """The options for torchrun that were given, as a command line."""
    options = []
    for key, value in vars(args).items():
        if key in ("recipe", "recipe_args", "func"):
            continue
        flag = f"--{key.replace('_', '-')}"
        options.append(flag if value is True else f"{flag}={value}")
    return options


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Runs a recipe here, or with torchrun if any option of torchrun was given."""
    options = torchrun_options(args)
    recipe = registry.find_recipe(args.recipe)
    recipe_args = _with_config_file(args.recipe_args, parser)
    if options and recipe is not None and not recipe.supports_distributed:
        parser.error(
            f"Recipe {recipe.name} does not support distributed training.Please run without torchrun commands."
        )
    if recipe is not None:
        _check_keys(recipe.name, recipe_args, parser)
    script = str(registry.recipe_file(recipe)) if recipe is not None else args.recipe
    is_module = recipe is None and not Path(script).is_file()
    if is_module and not getattr(args, "no_python", False) and not _module_exists(script):
        sys.stderr.write(f"tune run: '{script}' is neither a recipe of `tune ls` nor a Python file.{_hint(script)}\n")
        sys.stderr.write(f"ImportError: No module named {script}\n")
        sys.exit(1)
    if options:
        if is_module and not {"module", "no_python"} & set(vars(args)):
            options.append("--module")
        if not _MEETING & set(vars(args)):
            options.append("--standalone")
        _run_torchrun([*options, script, *recipe_args])
    else:
        _run_here(script, recipe_args, is_module)


def _with_config_file(recipe_args: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The recipe's arguments, with a file in the place of the config's name."""
    found = [i for i, arg in enumerate(recipe_args) if arg == "--config" or arg.startswith("--config=")]
    if not found:
        if {"-h", "--help"} & set(recipe_args):
            return recipe_args
        parser.error("The '--config' argument is required.")
    at = found[0]
    after = recipe_args[at + 1 : at + 2]
    joined = recipe_args[at].partition("=")[2]
    name = joined or (after[0] if after and recipe_args[at] == "--config" else "")
    if not name or name.startswith("-"):
        parser.error("The '--config' argument needs a value: a name from `tune ls`, or a YAML file.")
    file = registry.find_config(name)
    if file is None and not Path(name).is_file():
        parser.error(f"Config '{name}' not found: neither a file nor a name from `tune ls`.{_hint(name)}")
    return [*recipe_args[:at], "--config", str(file or name), *recipe_args[at + (1 if joined else 2) :]]


def _check_keys(recipe: str, recipe_args: list[str], parser: argparse.ArgumentParser) -> None:
    """Ends with an error if the config, with its overrides, lacks what makes this recipe."""
    if "--config" not in recipe_args:
        return
    import yaml

    at = recipe_args.index("--config") + 1
    try:
        values = yaml.safe_load(Path(recipe_args[at]).read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return  # the recipe itself tells more
    if not isinstance(values, dict):
        return
    for override in [*recipe_args[: at - 1], *recipe_args[at + 1 :]]:
        path, _, value = override.removeprefix("~").partition("=")
        *sections, key = path.split(".")
        node = values
        for section in sections:
            if not isinstance(node.get(section), dict):
                node[section] = {}
            node = node[section]
        if override.startswith("~"):
            node.pop(key, None)
        elif not sections and isinstance(node.get(key), dict) and value != "null":
            node[key]["_component_"] = value  # as overrides of a section do
        else:
            node[key] = None if value == "null" else value
    found = registry.missing_keys(recipe, values)
    if found:
        parser.error(found)


def _module_exists(name: str) -> bool:
    sys.path.insert(0, str(Path.cwd()))  # where `python -m` looks first
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _hint(name: str) -> str:
    from torchtune.utils._text import nearest

    return nearest(name, registry.names())


def _run_here(script: str, recipe_args: list[str], is_module: bool) -> None:
    sys.argv = [script, *recipe_args]
    if is_module:
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(script, run_name="__main__")


def _run_torchrun(arguments: list[str]) -> None:
    from torch.distributed import run as torchrun

    torchrun.main(arguments)
