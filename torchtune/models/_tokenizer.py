"""Tokenizers of families that need none of their own: built from the files of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.models._builders import make_function
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer
from torchtune.modules.transforms.tokenizers._builder import read_special_tokens, read_template

if TYPE_CHECKING:
    from torchtune.data._message import Message
    from torchtune.data.formats import Segment


class FormatTokenizer(HuggingFaceModelTokenizer):
    """Tokenizer of a Hugging Face model that can write conversations by our own chat format, in place of its template.

    Where ``format_options`` are given, as for families whose template has no tools, :attr:`format` writes all; else the
    template of the checkpoint does.

    Args:
        tokenizer_json_path (str): the ``tokenizer.json``.
        chat_format (str): name of the family's format in :mod:`torchtune.data.formats`.
        format_options (Mapping[str, Any] | None): options of the format, such as ``tool_convention="hermes"``.
        **kwargs (Any): other arguments of :class:`~torchtune.modules.transforms.tokenizers.HuggingFaceModelTokenizer`.

    Raises:
        ValueError: if there is neither chat template nor ``format_options``, or an option has no such value.
    """

    def __init__(
        self,
        tokenizer_json_path: str,
        *,
        chat_format: str,
        format_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer_json_path, chat_format=chat_format, **kwargs)
        if format_options:
            from torchtune.data.formats import get_format

            self.format_options = dict(format_options)
            self._format = get_format(chat_format, **self.format_options)

    def _render(self, messages: Sequence[Message], tools: Any, prompt: bool) -> list[Segment]:
        if not self.format_options:
            return super()._render(messages, tools, prompt)
        segments = self.format.render(messages, tools, add_generation_prompt=prompt)  # type: ignore[arg-type]
        known = self._control_ids()
        return [s._replace(special=False) if s.special and s.text not in known else s for s in segments]


def hf_tokenizer(
    family: str, title: str, *, module: str, chat_format: str | None = None
) -> Callable[..., FormatTokenizer]:
    """Makes a family's tokenizer builder, ``<family>_tokenizer``, from files of its checkpoints.

    ``chat_format`` is None where the family's format has its name; ``title`` is what the docstring calls it.
    """
    own_format = chat_format or family

    def build(path: str, prompt_template: Any, kwargs: dict[str, Any], **options: Any) -> FormatTokenizer:
        files: dict[str, Any] = {
            f"{name}_path": str(Path(path).with_name(file))
            for name, file in (
                ("tokenizer_config_json", "tokenizer_config.json"),
                ("generation_config", "generation_config.json"),
            )
            if Path(path).with_name(file).is_file()
        }
        name = kwargs.pop("chat_format", None)
        options["chat_format"] = own_format if name in (None, "official") else name
        return FormatTokenizer(path, prompt_template=read_template(prompt_template), **files, **options, **kwargs)

    parameters = [_parameter("path", annotation=str), *_chat_parameters(None)]
    doc = f"""Build the tokenizer of {title} from the files of a checkpoint.

Args:
    path (str): the ``tokenizer.json``; ``tokenizer_config.json``, with the chat template, and ``generation_config.json``
        lie beside it.
    max_seq_len (int | None): length that conversations are cut to, or None.
    prompt_template (Any): dotted path of a prompt template, or a dict of role -> (before, after), or None.
    truncation_type (str): the side that turns are dropped from, "right" or "left".
    kwargs (Any): other arguments of the tokenizer, such as ``train_on`` and ``format_options``.

Returns:
    FormatTokenizer: the tokenizer.

Raises:
    ValueError: if a file is missing, or an option has no such value."""
    return make_function(f"{family}_tokenizer", module, parameters, doc, build, FormatTokenizer)


def tokenizer_builder(
    tokenizer: Callable[..., Any],
    name: str,
    title: str,
    files: Mapping[str, str],
    *,
    module: str,
    special_tokens: bool = True,
    template: str | None = None,
    optional: Sequence[str] = (),
) -> Callable[..., Any]:
    """Makes a family's tokenizer builder, which takes what a config holds.

    Args:
        files (Mapping[str, str]): the tokenizer's arguments that are files, and what they are.
        special_tokens (bool): whether it takes control tokens from a file.
        template (str | None): its default prompt template.
        optional (Sequence[str]): files whose default is None, though they are needed.
    """

    def build(prompt_template: Any, kwargs: dict[str, Any], **options: Any) -> Any:
        if any(options[file] is None for file in files):
            given = ", ".join(f"{file}={options[file]!r}" for file in files)
            raise ValueError(f"{name} needs {' and '.join(files)}: {' and '.join(files.values())}; found {given}.")
        found = read_special_tokens(options.pop("special_tokens_path", None))
        if found is not None:
            options["special_tokens"] = found
        return tokenizer(prompt_template=read_template(prompt_template), **options, **kwargs)

    parameters = [
        _parameter(file, None, "str | None") if file in optional else _parameter(file, annotation=str) for file in files
    ]
    about = "".join(f"    {file}: the {what}.\n" for file, what in files.items())
    if special_tokens:
        parameters.append(_parameter("special_tokens_path", None, "str | None"))
        about += (
            "    special_tokens_path: a ``tokenizer.json`` to take the control tokens from; the family's by default.\n"
        )
    doc = f"""Build the tokenizer of {title}.

Args:
{about}    max_seq_len: length that conversations are cut to, or None.
    prompt_template: dotted path of a prompt template, or a dict of role -> (before, after), or None.
    truncation_type: the side that tokens are dropped from, "right" or "left".
    kwargs: other arguments of the tokenizer, such as ``chat_format`` and ``train_on``.

Returns:
    the tokenizer.

Raises:
    ValueError: if a file is missing, or an option has no such value."""
    return make_function(name, module, [*parameters, *_chat_parameters(template)], doc, build, tokenizer)


def _parameter(name: str, default: Any = Parameter.empty, annotation: Any = Any) -> Parameter:
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


def _chat_parameters(template: str | None) -> list[Parameter]:
    """What all builders take."""
    return [
        _parameter("max_seq_len", None, "int | None"),
        _parameter("prompt_template", template),
        _parameter("truncation_type", "right", str),
        Parameter("kwargs", Parameter.VAR_KEYWORD, annotation=Any),
    ]
