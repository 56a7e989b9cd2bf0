"""The command line of a recipe: ``--config`` and overrides."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf

from torchtune import _recipe_registry
from torchtune.config._errors import remember_source
from torchtune.config._utils import _merge_yaml_and_cli_args


class TuneRecipeArgumentParser(argparse.ArgumentParser):
    """Reads ``--config``, a YAML file or a name from ``tune ls``, and leaves ``key=value`` overrides to the caller."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config_path = ""
        self.add_argument(
            "--config",
            type=str,
            required=True,
            metavar="FILE",
            help="a YAML file, or the name of a config that comes with torchtune (see `tune ls`)",
        )

    def parse_known_args(self, *args: Any, **kwargs: Any) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        """Parses arguments.

        Args:
            *args: the command line; default ``sys.argv[1:]``.
            **kwargs: as :meth:`argparse.ArgumentParser.parse_known_args` takes them.

        Returns:
            the config's values as attributes, and the other arguments.

        Raises:
            ValueError: for options other than ``--config``.
            FileNotFoundError: if there is no such config.
            AssertionError: if the config has a key named ``config``.
        """
        options, rest = super().parse_known_args(*args, **kwargs)
        flags = [arg for arg in rest if arg.startswith("--")]
        if flags:
            raise ValueError(
                f"Additional flag arguments not supported: {flags}. Set config keys as key=value, without dashes; "
                "options of torchrun go before the recipe's name."
            )
        self.config_path = find_config(options.config)
        try:
            loaded: Any = OmegaConf.load(self.config_path)
        except OSError as error:
            if error.errno is not None:  # the file can't be read
                raise
            raise ValueError(f"{self.config_path} holds no keys with values ({error})") from error
        values: Any = OmegaConf.to_container(loaded, resolve=False) if isinstance(loaded, Container) else loaded
        if not isinstance(values, dict):
            raise ValueError(f"{self.config_path} holds a {type(values).__name__}; expected keys with values")
        assert "config" not in values, f"{self.config_path}: 'config' is reserved for --config, rename this key"
        return argparse.Namespace(**values), rest


def find_config(name: str) -> str:
    """The path of a config: an existing file, or a name that ``tune ls`` lists; else ``name`` itself."""
    if not Path(name).is_file():
        known = _recipe_registry.find_config(name)
        if known is not None:
            return str(known)
    return name


def parse(recipe_main: Callable[[DictConfig], Any]) -> Callable[..., Any]:
    """Decorates a recipe's main function: it is called with the config of the command line, then the program ends.

    Args:
        recipe_main: takes the config; what it returns is the exit status. Of errors that have a true attribute ``plain``
            only the message is shown, unless the config's ``log_level`` is DEBUG.

    Returns:
        The decorated function, which takes no arguments and ends the program with ``recipe_main``'s status.

    Example:
        >>> @parse
        ... def main(cfg: DictConfig) -> None: ...
    """

    @functools.wraps(recipe_main)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        parser = TuneRecipeArgumentParser(
            description=recipe_main.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        values, overrides = parser.parse_known_args()
        conf = _merge_yaml_and_cli_args(values, overrides)
        remember_source(conf, parser.config_path)
        try:
            sys.exit(recipe_main(conf))
        except Exception as error:
            if not getattr(error, "plain", False) or str(conf.get("log_level")).upper() == "DEBUG":
                raise
            sys.exit(f"Error: {error}\n(log_level=DEBUG shows where in the code)")

    return wrapper
