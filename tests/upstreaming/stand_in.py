"""Makes a tree in the shape of torchtune's data package, from its public names and recorded behaviour, in several variants."""

from __future__ import annotations

import subprocess
from pathlib import Path

FACTS = Path(__file__).parent.parent / "assets" / "upstreaming" / "facts.jsonl"

LICENCE = "# Copyright (c) the owners of this tree.\n# All rights reserved.\n#\n# See the file LICENSE.\n\n"
IMPORTS = "from enum import Enum\nfrom typing import Any, Literal, Mapping, Optional, Union\n"
OWN_IMPORTS = (
    "from torchtune.data._utils import format_content_with_images, load_image\n"
    "from torchtune.modules.transforms import Transform\n"
)

MESSAGE = '''
Role = Literal["system", "user", "assistant", "ipython", "tool"]


class Message:
    """One message."""

    def __init__(
        self,
        role: Role,
        content: Union[str, list[dict[str, Any]]],
        masked: bool = False,
        ipython: bool = False,
        eot: bool = True,
    ):
        self.role = role
        self.content = [{"type": "text", "content": content}] if isinstance(content, str) else content
        self.masked, self.ipython, self.eot = masked, ipython, eot
        if ipython and self.contains_media:
            raise ValueError(f"Media tokens in tool calls are not supported. Both are set in message: {self.text_content}")
        if ipython and role != "assistant":
            raise ValueError(
                f"Only assistant messages can be tool calls. Found role {role} in message: {self.text_content}"
            )

    @classmethod
    def from_dict(cls, d: dict) -> "Message":
        return cls(**{key: d[key] for key in ("role", "content", "masked", "ipython", "eot") if key in d})

    def get_media(self):
        return [part["content"] for part in self.content if part["type"] == "image"]

    @property
    def contains_media(self) -> bool:
        return bool(self.get_media())

    @property
    def text_content(self) -> str:
        return "".join(part["content"] for part in self.content if part["type"] == "text")

    def __repr__(self) -> str:
        return f"Message(role={self.role!r}, content={[part['content'] for part in self.content]!r})"
'''

MASKING = """
class MaskingStrategy(Enum):
    TRAIN_ON_ALL = "train_on_all"
    TRAIN_ON_ASSISTANT = "train_on_assistant"
    TRAIN_ON_LAST = "train_on_last"


def mask_messages(messages: list[Message], masking_strategy: MaskingStrategy) -> None:
    strategy = MaskingStrategy(masking_strategy)
    last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=-1)
    for i, m in enumerate(messages):
        trained = {"train_on_all": m.role != "system", "train_on_assistant": m.role == "assistant"}
        m.masked = not trained.get(strategy.value, i == last)


def _strategy(train_on_input, masking_strategy):
    if train_on_input is not None:
        return "train_on_all" if train_on_input else "train_on_assistant"
    return masking_strategy


def _check_columns(column_map, key):
    if column_map and key not in column_map:
        raise ValueError(f"Expected a key of '{key}' in column_map but found {list(column_map)}.")
"""

VALIDATE = '''
{decorator}def validate_messages(
    messages: list[Message],
) -> None:
    """Checks the order of roles."""
    if len(messages) < 2:
        raise ValueError(f"Messages must be at least length 2, but got {{len(messages)}} messages")
    before = None
    for i, message in enumerate(messages):
        role = message.role
        if role == "system" and i > 0:
            raise ValueError(f"System message at index {{i}} in messages, but system messages must come first")
        if role == "user" and before is not None and before.role == "user":
            raise ValueError(f"Two consecutive user messages at index {{i}} and {{i - 1}} in messages")
        if role == "assistant" and (before is None or before.role in ("system", "assistant")):
            raise ValueError(
                f"Assistant message before expected user, tool or ipython message at index {{i}} in messages"
            )
        if role in ("tool", "ipython") and not (before is not None and before.ipython):
            raise ValueError(f"Tool or ipython message at index {{i}} must follow an ipython message")
        before = message
'''

# In this variant content that is null takes the text of the message before it, as recorded.
OPENAI_LOOP = '''
class OpenAIToMessages(Transform):
    """OpenAI rows."""

    def __init__(
        self,
        train_on_input: Optional[bool] = None,
        column_map: Optional[dict[str, str]] = None,
        new_system_prompt: Optional[str] = None,
        masking_strategy: Optional[str] = "train_on_assistant",
    ):
        _check_columns(column_map, "messages")
        self._column_map = column_map or {"messages": "messages"}
        self.new_system_prompt = new_system_prompt
        self._masking_strategy = _strategy(train_on_input, masking_strategy)

    def _parts(self, content):
        parts = []
        for part in content:
            if part["type"] == "text":
                parts.append({"type": "text", "content": part["text"]})
            elif part["type"] == "image_url":
                parts.append({"type": "image", "content": load_image(part["image_url"]["url"])})
        return parts

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        # The list that is given back.
        built = []
        if self.new_system_prompt is not None:
            built.append(Message(role="system", content=self.new_system_prompt, masked=True))
        for message in sample[self._column_map["messages"]]:
            if message["role"] == "system" and self.new_system_prompt is not None:
                continue
            if isinstance(message["content"], str):
                content = message["content"]
            elif isinstance(message["content"], list):
                content = self._parts(message["content"])
            built.append(
                Message(
                    role=message["role"],
                    content=content,
                )
            )
        mask_messages(built, self._masking_strategy)

        # Done.
        return {"messages": built}
'''

SHAREGPT_LOOP = '''
class ShareGPTToMessages(Transform):
    """ShareGPT rows."""

    def __init__(
        self,
        train_on_input: Optional[bool] = None,
        column_map: Optional[dict[str, str]] = None,
        new_system_prompt: Optional[str] = None,
        image_dir=None,
        image_tag: Optional[str] = "<image>",
        masking_strategy: Optional[str] = "train_on_assistant",
    ):
        _check_columns(column_map, "conversations")
        self._column_map = column_map or {"conversations": "conversations"}
        self.new_system_prompt = new_system_prompt
        self.image_tag = image_tag
        self._masking_strategy = _strategy(train_on_input, masking_strategy)

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """Turns a row into messages."""
        names = {"system": "system", "human": "user", "gpt": "assistant"}
        built = []
        if self.new_system_prompt is not None:
            built.append(Message(role="system", content=self.new_system_prompt, masked=True))
        has_image = "image" in sample
        for message in sample[self._column_map["conversations"]]:
            role = names[message["from"]]
            content = message["value"]
            if role == "system" and self.new_system_prompt is not None:
                continue
            if role == "user" and has_image and self.image_tag in content:
                content = format_content_with_images(content, image_tag=self.image_tag, images=[sample["image"]])
            built.append(Message(role=role, content=content))
        mask_messages(built, self._masking_strategy)
        return {"messages": built}
'''

# The same behaviour in another shape: locals, comprehensions, a table of the class, a result built up in steps.
OPENAI_OTHER = (
    OPENAI_LOOP[: OPENAI_LOOP.index("    def __call__")]
    + """    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        prompt = self.new_system_prompt
        chat = sample[self._column_map["messages"]]
        made = [] if prompt is None else [Message("system", prompt, True)]
        for i, turn in enumerate(chat):
            role = turn["role"]
            if not (role == "system" and prompt is not None):
                text = turn["content"]
                made += [Message(role, text if isinstance(text, str) else self._parts(text))]
        mask_messages(made, self._masking_strategy)
        out = {"messages": made}
        return out
"""
)

SHAREGPT_OTHER = (
    SHAREGPT_LOOP[: SHAREGPT_LOOP.index("    def __call__")].replace(
        "    def __init__",
        '    NAMES = {\n        "gpt": "assistant",\n        "human": "user",\n        "system": "system",\n    }\n\n    def __init__',
    )
    + """    @staticmethod
    def _content(turn, row, tag):
        if turn["from"] == "human" and "image" in row and tag in turn["value"]:
            return format_content_with_images(turn["value"], image_tag=tag, images=[row["image"]])
        return turn["value"]

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        prompt = self.new_system_prompt
        head = [] if prompt is None else [Message("system", prompt, True)]
        tail = [
            Message(role=self.NAMES[turn["from"]], content=self._content(turn, sample, self.image_tag))
            for turn in sample.get(self._column_map["conversations"])
            if prompt is None or turn["from"] != "system"
        ]
        mask_messages(head + tail, self._masking_strategy)
        return dict(messages=head + tail)
"""
)

# A third: single quotes, the column kept under a name of its own, the table of speakers in the module.
OPENAI_TERSE = OPENAI_OTHER.replace('sample[self._column_map["messages"]]', "sample[self._column]").replace(
    "        self.new_system_prompt = new",
    "        self._column = (column_map or {}).get('messages', 'messages')\n        self.new_system_prompt = new",
)
SHAREGPT_TERSE = (
    SHAREGPT_LOOP.replace('        names = {"system": "system", "human": "user", "gpt": "assistant"}\n', "")
    .replace("names[", "_NAMES[")
    .replace('message["from"]', "message['from']")
    + "\n\n_NAMES = {'human': 'user', 'gpt': 'assistant', 'system': 'system'}\n"
)

_DECORATOR = (
    "\n# Checks are cheap.\ndef _plain(function):\n    return function\n\n\n# What follows is decorated.\n@_plain\n"
)
_HEAD = LICENCE + IMPORTS + "\n" + OWN_IMPORTS + "\n"
VARIANTS = {
    "loops": _HEAD + "\n".join([MESSAGE, MASKING, OPENAI_LOOP, SHAREGPT_LOOP, VALIDATE.format(decorator="")]),
    "turned around": LICENCE
    + '"""Messages."""\n\nfrom __future__ import annotations\n\n'
    + IMPORTS
    + "\n"
    + OWN_IMPORTS.splitlines(keepends=True)[1]
    + OWN_IMPORTS.splitlines(keepends=True)[0]
    + VALIDATE.format(decorator=_DECORATOR)
    + "\n".join([SHAREGPT_OTHER, OPENAI_OTHER, MASKING, MESSAGE]),
    "terse": (
        IMPORTS + "from torchtune.modules.transforms import Transform\nfrom torchtune.data._utils import *\n"
    ).replace("import *", "import format_content_with_images, load_image")
    + "\n".join([MESSAGE, VALIDATE.format(decorator=""), OPENAI_TERSE, MASKING, SHAREGPT_TERSE]),
}

_PREFERENCE_LOSS = '''
LossArgs = TypeVar("LossArgs")


@dataclass
class DPOLoss:
    """Names of typing and dataclasses are used and never imported, as recorded."""

    beta: float = 0.1
    label: Optional[float] = None

    def forward(self, chosen: float, rejected: float) -> Tuple[float, float]:
        return self.beta * chosen, self.beta * rejected
'''

FILES = {
    "torchtune/__init__.py": "",
    "torchtune/data/__init__.py": (
        "from torchtune.data._messages import (\n    mask_messages, Message, OpenAIToMessages, Role, ShareGPTToMessages,"
        " validate_messages\n)\n"
    ),
    "torchtune/data/_utils.py": """
def load_image(path):
    return f"image of {path}"


def format_content_with_images(content, *, image_tag, images):
    texts = content.split(image_tag)
    parts = [{"type": "text", "content": texts[0]}]
    for image, text in zip(images, texts[1:]):
        parts += [{"type": "image", "content": image}, {"type": "text", "content": text}]
    return [part for part in parts if part["content"]]
""",
    "torchtune/modules/__init__.py": "",
    "torchtune/modules/transforms/__init__.py": (
        "from typing import Any, Mapping, Protocol\n\n\nclass Transform(Protocol):\n"
        "    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:\n        pass\n"
    ),
    "torchtune/modules/transforms/tokenizers/__init__.py": '''
def render(messages):
    """The text of Llama 3's tokens: ipython marks a call, eot decides how a message ends."""
    text = "<|begin_of_text|>"
    for m in messages:
        role = "ipython" if m.role == "tool" else m.role
        tag, end = "<|python_tag|>" if m.ipython else "", "<|eot_id|>" if m.eot else "<|eom_id|>"
        text += f"<|start_header_id|>{role}<|end_header_id|>\\n\\n{tag}{m.text_content.strip()}{end}"
    return text
''',
    "torchtune/datasets/__init__.py": """
from torchtune.data import validate_messages
from torchtune.modules.transforms.tokenizers import render


class SFTDataset:
    def __init__(self, rows, message_transform):
        self.rows, self.message_transform = rows, message_transform

    def __getitem__(self, index):
        messages = self.message_transform(self.rows[index])["messages"]
        validate_messages(messages)
        return render(messages)
""",
    "torchtune/rlhf/__init__.py": "",
    "torchtune/rlhf/loss/__init__.py": "from .dpo import DPOLoss\n",
    "torchtune/rlhf/loss/dpo.py": LICENCE + "from typing import Any\n\n" + _PREFERENCE_LOSS,
    "docs/source/index.rst": (
        "Welcome\n=======\n\n.. toctree::\n   :caption: Basics\n\n   basics/messages\n\n"
        ".. toctree::\n   :caption: Finetuning Tutorials\n   :hidden:\n\n   tutorials/first_run\n   tutorials/chat\n\nEnd.\n"
    ),
    "pytest.ini": "[pytest]\naddopts = -p no:cacheprovider\n",
    ".gitignore": "__pycache__/\n",
    "tests/torchtune/data/test_messages.py": """
import json
from pathlib import Path

import pytest
from torchtune import data
from torchtune.data import Message, OpenAIToMessages, ShareGPTToMessages

FACTS = [json.loads(line) for line in (Path(__file__).parent / "facts.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("fact", FACTS, ids=[fact["name"] for fact in FACTS])
def test_recorded_behaviour(fact):
    def run():
        if fact["target"] == "validate_messages":
            return data.validate_messages([Message(**message["$message"]) for message in fact["messages"]])
        transform = getattr(data, fact["target"])(**fact["kwargs"])
        return [vars(message) for message in transform(fact["row"])["messages"]]

    if "raises" in fact:
        with pytest.raises(ValueError):
            run()
    else:
        assert run() == fact.get("output")


def test_images_stay():
    row = {"conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cat."}], "image": "IMG"}
    assert ShareGPTToMessages()(row)["messages"][0].get_media() == ["IMG"]
    parts = [{"type": "image_url", "image_url": {"url": "u"}}, {"type": "text", "text": "What?"}]
    assert OpenAIToMessages()({"messages": [{"role": "user", "content": parts}]})["messages"][0].get_media() == ["image of u"]


def test_an_unknown_speaker_is_refused():
    with pytest.raises(KeyError):
        ShareGPTToMessages()({"conversations": [{"from": "narrator", "value": "x"}]})


def test_phrases():
    for roles, phrase in [
        (["user", "system", "assistant"], "System message at index 1 in messages, but system messages must come first"),
        (["user"], "Messages must be at least length 2, but got 1 messages"),
        (["user", "user"], "Two consecutive user messages at index 1 and 0 in messages"),
        (["assistant", "user"], "Assistant message before expected user, tool or ipython message at index 0 in messages"),
        (["user", "assistant", "tool"], "Tool or ipython message at index 2 must follow an ipython message"),
    ]:
        with pytest.raises(ValueError, match=phrase):
            data.validate_messages([Message(role=role, content="hello world") for role in roles])
""",
    "tests/torchtune/datasets/test_sft.py": """
from torchtune.data import ShareGPTToMessages
from torchtune.datasets import SFTDataset


def test_a_plain_row():
    row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}
    assert SFTDataset([row], ShareGPTToMessages())[0].endswith("\\n\\nHello.<|eot_id|>")
""",
    "tests/torchtune/modules/transforms/tokenizers/test_llama3.py": """
from torchtune.data import Message
from torchtune.modules.transforms.tokenizers import render


def test_a_text_call():
    messages = [
        Message("user", "What is f(1)?"),
        Message("assistant", "f(x=1)", ipython=True, eot=False),
        Message("ipython", "42", eot=False),
        Message("assistant", "It is 42."),
    ]
    assert render(messages) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\nWhat is f(1)?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\\n\\n<|python_tag|>f(x=1)<|eom_id|>"
        "<|start_header_id|>ipython<|end_header_id|>\\n\\n42<|eom_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\\n\\nIt is 42.<|eot_id|>"
    )
""",
}


def make_tree(root: Path, variant: str = "loops") -> Path:
    """A clean git checkout with one commit, on the branch ``main``."""
    texts = {**FILES, "torchtune/data/_messages.py": VARIANTS[variant]}
    texts["tests/torchtune/data/facts.jsonl"] = FACTS.read_text(encoding="utf-8")
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text.removeprefix("\n"), encoding="utf-8")
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "A Tester")
    git(root, "config", "user.email", "tester@example.org")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "A tree")
    return root


def git(root: Path, *args: str) -> str:
    """Run git on a tree; what it printed."""
    return subprocess.run(["git", "-C", str(root), *args], check=True, capture_output=True, text=True).stdout.rstrip(
        "\n"
    )
