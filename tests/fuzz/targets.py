"""What is fuzzed: bytes become a case of plain JSON values, and running a case may only raise errors that name what is wrong.

A case is JSON, so that what was found can be kept under ``corpus/`` and read. :data:`TARGETS` has for each subject a function that
makes a case, and one that runs it.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Case = dict[str, Any]


class Feed:
    """Choices, read from bytes; at their end each choice is the first.

    Args:
        data: the bytes.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def below(self, number: int) -> int:
        """A number from 0, below another of at most 256."""
        self.at += 1
        return self.data[self.at - 1] % number if self.at <= len(self.data) else 0

    def of(self, values: Any) -> Any:
        """One of several values."""
        return values[self.below(len(values))]

    def raw(self, most: int = 24) -> bytes:
        """Some bytes as they are."""
        size = self.below(most)
        self.at += size
        return self.data[self.at - size : self.at]

    def text(self, words: Any) -> str:
        """Words and raw text, one after the other."""
        pieces = []
        for _ in range(1 + self.below(8)):
            pieces.append(self.raw().decode("utf-8", "replace") if self.below(6) == 5 else self.of(words))
        return "".join(pieces)


_ODD: list[Any] = [
    None, True, False, 0, -1, 10**30, 1.5, float("nan"), float("inf"), "", " ", "\ud800", "\x00", "{}", "[]", "null", '{"a": 1}', "[1]",
    "é😀", "a" * 300, [], {}, [None], {"": None}, [[]], [[{}]], "<tool_call>", '<tool_call>{"name": "f", "arguments": {}}</tool_call>',
    "<|im_end|>", "<image>", "not/there.png", "http://127.0.0.1:9/x.png", "data:image/png;base64,AAAA", "file:///nope",
    '{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a": NaN}', "[" * 200, 2**63, "1e999", '"\\ud800"',
]  # fmt: skip
_ROLES = [
    "user", "assistant", "system", "tool", "ipython", "developer", "human", "gpt", "function_call", "observation", "tool_call",
    "tool_response", "function", "", None, 3, ["user"], "User",
]  # fmt: skip
_CALL = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": {"a": 1, "b": [None, {"c": "x"}]}}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "does",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": ["string", "null"]}}, "required": ["a"]},
    },
}  # fmt: skip
_ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image_url", "image_url": {"url": "nope.png"}}]},
            {"role": "assistant", "content": None, "tool_calls": [_CALL], "reasoning_content": "think", "weight": 1},
            {"role": "tool", "tool_call_id": "c1", "name": "f", "content": {"t": [1, 2.5, None]}},
            {"role": "assistant", "content": "a", "train": True},
        ],
        "tools": [_TOOL],
    },
    {
        "conversations": [
            {"from": "human", "value": "<image> q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
            {"from": "observation", "value": '{"r": 1}'},
            {"from": "gpt", "value": "a", "loss": True},
        ],
        "tools": '[{"name": "f", "parameters": {}}]',
        "image": "nope.png",
    },
    {"input": "q", "output": "a", "image": None},
    {"instruction": "q", "input": "", "output": "a"},
    {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
    },
]  # fmt: skip


def _mutated(value: Any, feed: Feed, depth: int = 0) -> Any:
    """A JSON value with some of its parts replaced, dropped, doubled or renamed."""
    move = feed.below(12)
    if move == 1:
        return feed.of(_ODD)
    if move == 2:
        return feed.of(_ROLES)
    if move == 3 and depth < 6:
        return [_mutated(value, feed, depth + 1)]
    if move == 4 and depth < 6:
        return {feed.of(["a", "", "role", "content", "function", "text"]): _mutated(value, feed, depth + 1)}
    if move == 5:
        try:
            return json.dumps(value)
        except ValueError:
            return value
    if isinstance(value, dict):
        changed = {}
        for key, inner in value.items():
            what = feed.below(10)
            if what == 9:
                continue
            name = key if what < 8 else feed.of([*value, "image", "type", "value", "weight", ""])
            changed[name] = _mutated(inner, feed, depth + 1) if what % 2 else inner
        return changed
    if isinstance(value, list):
        changed_list = [
            _mutated(inner, feed, depth + 1) if feed.below(3) else inner for inner in value if feed.below(9) != 8
        ]
        return changed_list * 2 if move == 6 else changed_list[::-1] if move == 7 else changed_list
    return value


def _formats() -> list[str]:
    from torchtune.data.formats import list_formats

    return list_formats()


# --- output of models ------------------------------------------------------------------------------------------------

_BITS = [
    '{"name": "f", "arguments": {"a": 1}}', '{"name"', ": ", '"f"', '"arguments"', "{", "}", "[", "]", '"', "'", ",", "\n", " ", "\\", "\\u00", "\ud800",
    "f(a=1)", "f(", ")", "a=", "None", "True", "null", "1e400", "-", "0x", "<", ">", "/", "=", "call:f{", "<|\"|>", "functions.f:0", "functions.",
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>", "</parameter>", "<arg_key>", "</arg_key>",
    "<arg_value>", "</arg_value>", "text", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "to=functions.f", "<|python_tag|>", "```json", "```", "\x00", "[" * 400, "{\"a\":" * 400,
]  # fmt: skip


def make_parse(feed: Feed) -> Case:
    from torchtune.data.formats import get_format

    name = feed.of(_formats())
    words = [*get_format(name).controls, *get_format(name).stop, *_BITS]
    tools = _mutated([_TOOL], feed) if feed.below(3) == 2 else [_TOOL]
    return {
        "format": name,
        "output": feed.text(words) + feed.text(words),
        "tools": tools,
        "segments": feed.below(2) == 1,
    }


def run_parse(case: Case) -> None:
    """Reads it. A reader that fails within is a fault too, though ``parse`` tells of it without raising."""
    from torchtune.data.formats import ParsedMessage, get_format
    from torchtune.data.formats._base import Segment

    fmt = get_format(case["format"])
    output: Any = case["output"]
    if case["segments"]:
        output = [Segment(piece, n % 2 == 1, 0, True) for n, piece in enumerate(fmt.pattern.split(output)) if piece]
    try:
        parsed = fmt.parse(output, case["tools"])
    except ValueError as error:  # of the tools
        _named(error)
        return
    assert isinstance(parsed, ParsedMessage)
    assert parsed.complete in (True, False)
    json.dumps(parsed.to_dict())
    for call in parsed.unparsed:
        assert call.reason
        failed = call.reason.startswith("the reader of format")
        assert not failed or "failed: ValueError" in call.reason or "failed: RecursionError" in call.reason, call.reason


# --- rows ------------------------------------------------------------------------------------------------------------

_OPTIONS = [
    {},
    {"nulls": "drop"},
    {"nulls": "keep"},
    {"parse_text_calls": True},
    {"new_system_prompt": "x"},
    {"masking_strategy": "train_on_last"},
]


def make_transform(feed: Feed) -> Case:
    which = feed.below(len(_ROWS))
    return {
        "transform": ["OpenAI", "ShareGPT", "InputOutput", "Alpaca", "ChosenRejected"][which],
        "row": _mutated(_ROWS[which], feed),
        "options": feed.of(_OPTIONS) if which < 2 else {},
        "format": feed.of(_formats()),
    }


def run_transform(case: Case) -> None:
    """From a row to messages, to text: each step may refuse it by a ``ValueError``."""
    from torchtune import data
    from torchtune.data.formats import get_format

    if not isinstance(case["row"], dict):  # rows of a dataset are objects
        return
    transform = getattr(data, f"{case['transform']}ToMessages")(**case["options"])
    try:
        sample = transform(case["row"])
        messages = sample["messages"] if "messages" in sample else sample["chosen"]
        data.validate_messages(messages, sample.get("tools"))
        segments = get_format(case["format"]).render(messages, sample.get("tools"))
    except ValueError as error:
        _named(error)
        return
    "".join(segment.text for segment in segments if segment.media is None)


# --- configs ---------------------------------------------------------------------------------------------------------

_YAML = [
    "model", "optimizer", "_component_", "a", "b", ": ", ":", "\n", "  ", "- ", "torch.optim.AdamW", "torchtune.models.llama2.llama2", "nope.x", "..", "1",
    "1e-3", "null", "~", "{}", "[]", "{", "}", "[", "]", "${a}", "${a.b}", "${", "}", "${oc.env:NOPE}", "${oc.decode:x}", "${recipes:quickstart}", "&x", "*x", "<<", "!!python/object/apply:os.system [true]",
    "!x", "|", ">", "'", '"', "#", "%", "@", "---", "\t", "lr", "config", "seed: 1\n", "model:\n  _component_: torchtune.models.llama2.llama2\n  num_layers: 2\n",
    "strict: true\n", "???", "\x00", "é", "? ", "output_dir: x\n", "0o7", "1_000", ".inf", "2001-01-01", "true",
]  # fmt: skip
_OVERRIDES = ["=", "model=x", "~model", "~", "a.b.c=1", "a=${b}", "a={", "a=[1,", "model._component_=torch.optim.AdamW", "~model._component_", "a..b=1", ".=1", "[0]=1", "a[0]=1", "a=!!python/name:os.system", "--flag", "a=", "=1", "lr=None", "config=1"]  # fmt: skip


def make_config(feed: Feed) -> Case:
    overrides = [feed.of(_OVERRIDES) if feed.below(3) else feed.text([*_YAML, "="]) for _ in range(feed.below(4))]
    return {"yaml": feed.text(_YAML) + "\n" + feed.text(_YAML) + feed.text(_YAML), "overrides": overrides}


def run_config(case: Case) -> None:
    """As a recipe does: reads the file and the overrides, checks keys and components, logs it, saves it."""
    import warnings

    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from torchtune import config
    from torchtune.config._parse import TuneRecipeArgumentParser
    from torchtune.config._utils import _merge_yaml_and_cli_args
    from torchtune.training import check_recipe
    from torchtune.training.metric_logging import save_config

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "config.yaml"
        path.write_text(case["yaml"], encoding="utf-8", errors="replace")
        arguments = ["--config", str(path), *(a for a in case["overrides"] if a not in ("-h", "--help", "--"))]
        try:
            values, overrides = TuneRecipeArgumentParser().parse_known_args(arguments)
            cfg = _merge_yaml_and_cli_args(values, overrides)
            unknown = config.check_keys(cfg, ("model", "optimizer", "seed"))
            config.validate(cfg)
            config.log_config("Fuzz", cfg)
            check_recipe(cfg, unknown, ("model",))
            OmegaConf.update(cfg, "output_dir", folder, force_add=True)
            save_config(cfg)
        except (
            config.ConfigError,
            config.InstantiationError,
            OmegaConfBaseException,
            YAMLError,
            AssertionError,
        ) as error:
            assert str(error)
        except (ValueError, TypeError) as error:
            _named(error)
        except SystemExit:  # argparse has said why
            pass


# --- checkpoint folders ----------------------------------------------------------------------------------------------

_MANIFEST = {
    "format": 1,
    "epoch": 0,
    "time_ns": 5,
    "files": {"model.safetensors": {"size": 8, "sha256": "00"}, "recipe_state.pt": {"size": 3, "sha256": "00"}},
}
_INDEX = {"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
_HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}}
_MODEL = {
    "model_type": "llama",
    "vocab_size": 4,
    "hidden_size": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "architectures": ["x"],
}


def _file(value: Any, feed: Feed) -> str:
    """A file's bytes in base 64: JSON, changed as JSON, or cut, or with a byte changed."""
    try:
        text = json.dumps(_mutated(value, feed) if feed.below(4) else value).encode("utf-8", "replace")
    except ValueError:
        text = b"{}"
    damage = feed.below(8)
    if damage == 1:
        text = text[: feed.below(256)]
    elif damage == 2 and text:
        at = feed.below(256) % len(text)
        text = text[:at] + feed.raw(8) + text[at + 1 :]
    elif damage == 3:
        text = feed.raw(200)
    return base64.b64encode(text).decode()


def make_checkpoint(feed: Feed) -> Case:
    names = ["epoch_0", "step_3", "epoch_1", ".epoch_1.tmp", ".epoch_0.old", "epoch_x", "epoch_-1", "recipe_state"]
    folders = [feed.of(names) for _ in range(1 + feed.below(3))]
    return {
        "manifests": {name: _file(_MANIFEST, feed) for name in folders},
        "index": _file(_INDEX, feed),
        "header": _file(_HEADER, feed),
        "config": _file(_MODEL, feed),
        "metadata": base64.b64encode(feed.raw(100)).decode(),
        "size": feed.of([None, 0, 1, 2**40, -1]),
        "files": feed.of([[], ["model-1.safetensors"], ["../x"], {"filename_format": "m-{}-{}", "max_filename": "00002"}, {"filename_format": "{", "max_filename": "1"}, ["a" * 300]]),
    }  # fmt: skip


def run_checkpoint(case: Case) -> None:
    """A run that looks for where to go on, and a model that is loaded from a strange folder."""
    from torchtune.training.checkpointing import _folders
    from torchtune.training.checkpointing._checkpointer import FullModelHFCheckpointer
    from torchtune.training.checkpointing._dcp import latest_dcp_folder
    from torchtune.training.checkpointing._utils import safe_torch_load

    def guarded(action: Callable[[], Any]) -> None:
        try:
            action()
        except (ValueError, KeyError, OSError) as error:
            _named(error)

    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        source = Path(name) / "source"
        source.mkdir()
        for folder, manifest in case["manifests"].items():
            (out / folder).mkdir(parents=True)
            (out / folder / _folders.MANIFEST_FNAME).write_bytes(base64.b64decode(manifest))
            (out / folder / "recipe_state.pt").write_bytes(b"abc")
            (out / folder / ".metadata").write_bytes(base64.b64decode(case["metadata"]))
        header = base64.b64decode(case["header"])
        size = len(header) if case["size"] is None else case["size"] % 2**64
        (source / "model-1.safetensors").write_bytes(struct.pack("<Q", size) + header + bytes(8))
        (source / "model.safetensors.index.json").write_bytes(base64.b64decode(case["index"]))
        (source / "config.json").write_bytes(base64.b64decode(case["config"]))
        guarded(lambda: _folders.find_resume_point(out))
        guarded(lambda: _folders.find_resume_point(out, "../source/config.json"))
        guarded(lambda: latest_dcp_folder(out))
        guarded(lambda: _folders.drop_old_recipe_states(out, keep=1))
        guarded(lambda: _folders.prune(out, 1, "epoch"))
        guarded(lambda: safe_torch_load(source / "model-1.safetensors"))
        for kind in ("LLAMA3", "AUTO"):
            for files in ([], case["files"]):
                guarded(
                    lambda kind=kind, files=files: FullModelHFCheckpointer(str(source), files, kind).load_checkpoint()
                )
        assert (source / "config.json").is_file()


def _named(error: BaseException) -> None:
    """Holds that an error says what is wrong: it has words, and more than the one of a missing key."""
    text = str(error)
    assert len(text.split()) >= 3, f"an error without an explanation: {error!r}"


class Target(NamedTuple):
    """A subject: how a case of it is made, and what runs it."""

    make: Callable[[Feed], Case]
    run: Callable[[Case], None]


TARGETS = {
    "parse": Target(make_parse, run_parse),
    "transform": Target(make_transform, run_transform),
    "config": Target(make_config, run_config),
    "checkpoint": Target(make_checkpoint, run_checkpoint),
}
