"""The checkpoints: where the weights come from, which builder and tokenizer they need. One row per size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

_SAFETENSORS = "model-{:05d}-of-{:05d}.safetensors"
_BIN = "pytorch_model-{:05d}-of-{:05d}.bin"
_LISTED_SHARDS = 6  # more than this are written as a pattern


@dataclass(frozen=True)
class Family:
    """What the sizes of a family share.

    Args:
        module: the module of the builders, under ``torchtune.models``.
        tokenizer: the tokenizer's builder, under ``torchtune.models``.
        tokenizer_files: the builder's arguments that are files of the checkpoint.
        model_type: the checkpointer's name for the family.
        gated: whether the hub asks for a licence to be accepted.
        ignore: files not to download.
        chat_format: the name of the official format, for tool calls.
        slash: whether the folder of weights is written with a slash at its end.
    """

    module: str
    tokenizer: str
    tokenizer_files: dict[str, str]
    model_type: str
    gated: bool = False
    ignore: str = ""
    chat_format: str = ""
    slash: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A size of a family.

    Args:
        name: the config's name without the method, such as ``llama3_2/1B``.
        repo: the repository on the Hugging Face hub.
        shards: how many files of weights there are; 0 is those of the index.
        methods: the methods that there is a config for.
        builder: the builder of the full model; the LoRA one has ``lora_`` in front, the QLoRA one ``qlora_``.
        folder: where the weights are downloaded to.
        output: the folder of results, but for the method.
        processes: how many processes a distributed run is shown with.
        machines: how many machines of eight devices a full run needs; 0 is one device.
        shard_names: the pattern of the files of weights.
        listed_shards: up to so many of them are listed one by one.
        tokenizer_files: where they are not as in the rest of the family.
        ignore: files not to download, if not those of the family.
    """

    name: str
    repo: str
    shards: int
    methods: tuple[str, ...]
    builder: str
    family: Family
    folder: str
    output: str
    processes: int = 2
    machines: int = 0
    shard_names: str = _SAFETENSORS
    listed_shards: int = _LISTED_SHARDS
    tokenizer_files: dict[str, str] = field(default_factory=dict)
    ignore: str = ""

    @property
    def weights(self) -> list[str] | dict[str, Any]:
        """The checkpointer's ``checkpoint_files``."""
        if self.shards == 0:
            return []
        if self.shards == 1:
            return ["model.safetensors"]
        if self.shards <= self.listed_shards:
            return [self.shard_names.format(i + 1, self.shards) for i in range(self.shards)]
        return {"filename_format": "model-{}-of-{}.safetensors", "max_filename": f"{self.shards:05d}"}


_LLAMA3 = "llama3.llama3_tokenizer"
_VISION = "llama3_2_vision.llama3_2_vision_transform"
_LLAMA_FILES = {"path": "original/tokenizer.model"}
_SPM_FILES = {"path": "tokenizer.model"}
_QWEN_FILES = {"path": "vocab.json", "merges_file": "merges.txt"}
_PHI4_FILES = {"vocab_path": "vocab.json", "merges_path": "merges.txt"}
_JSON_FILES = {"path": "tokenizer.json"}
_META = "original/consolidated*"
_GGUF = "*.gguf"

FAMILIES = {
    family.module: family
    for family in (
        Family("llama2", "llama2.llama2_tokenizer", _SPM_FILES, "LLAMA2", gated=True),
        Family("llama3", _LLAMA3, _LLAMA_FILES, "LLAMA3", True, _META, slash=True),
        Family("llama3_1", _LLAMA3, _LLAMA_FILES, "LLAMA3", True, _META, "llama3_1", slash=True),
        Family("llama3_2", _LLAMA3, _LLAMA_FILES, "LLAMA3_2", True, _META, "llama3_2", slash=True),
        Family("llama3_3", _LLAMA3, _LLAMA_FILES, "LLAMA3", True, _META, "llama3_3", slash=True),
        Family("llama3_2_vision", _VISION, _LLAMA_FILES, "LLAMA3_VISION", True, _META, slash=True),
        Family("llama4", "llama4.llama4_transform", _SPM_FILES, "LLAMA4", True, _META),
        Family("mistral", "mistral.mistral_tokenizer", _SPM_FILES, "MISTRAL", True, "*.safetensors", "mistral_v3"),
        Family("gemma", "gemma.gemma_tokenizer", _SPM_FILES, "GEMMA", True, _GGUF, slash=True),
        Family("gemma2", "gemma.gemma_tokenizer", _SPM_FILES, "GEMMA2", True, _GGUF, slash=True),
        Family("phi3", "phi3.phi3_mini_tokenizer", _SPM_FILES, "PHI3_MINI"),
        Family("phi4", "phi4.phi4_tokenizer", _PHI4_FILES, "PHI4"),
        Family("qwen2", "qwen2.qwen2_tokenizer", _QWEN_FILES, "QWEN2"),
        Family("qwen2_5", "qwen2_5.qwen2_5_tokenizer", _QWEN_FILES, "QWEN2", chat_format="qwen2_5"),
        Family("qwen3", "qwen3.qwen3_tokenizer", _QWEN_FILES, "QWEN3", chat_format="qwen3"),
        Family("qwen3_moe", "qwen3_moe.qwen3_tokenizer", _QWEN_FILES, "AUTO", chat_format="qwen3"),
        Family("gemma3", "gemma3.gemma3_tokenizer", _JSON_FILES, "AUTO", True, _GGUF, "gemma3"),
        Family("gpt_oss", "gpt_oss.gpt_oss_tokenizer", _JSON_FILES, "AUTO", ignore="original/*", chat_format="gpt_oss"),
        Family("smollm3", "smollm3.smollm3_tokenizer", _JSON_FILES, "AUTO", chat_format="smollm3"),
        Family("phi4_mini", "phi4_mini.phi4_mini_tokenizer", _JSON_FILES, "AUTO", chat_format="phi4_mini"),
        Family("granite4", "granite4.granite4_tokenizer", _JSON_FILES, "AUTO", chat_format="granite4"),
    )
}
# Mistral's models with Tekken, by the names of their configs
_TEKKEN = Family("mistral", "mistral.tekken_tokenizer", _JSON_FILES, "AUTO", True, "consolidated*", "mistral_v3_tekken")
FAMILIES |= dict.fromkeys(("ministral", "mistral_nemo"), _TEKKEN)
FAMILIES["mistral_small"] = replace(_TEKKEN, chat_format="mistral_v7_tekken")


def _row(
    name: str, repo: str, shards: int, methods: str, builder: str = "", folder: str = "", **rest: Any
) -> Checkpoint:
    family, size = name.split("/")
    return Checkpoint(
        name=name,
        repo=repo,
        shards=shards,
        methods=tuple(methods.split()),
        builder=builder or f"{family}_{size.lower().replace('.', '_')}",
        family=FAMILIES[family],
        folder=folder or f"/tmp/{repo.split('/')[1]}" + "/" * FAMILIES[family].slash,
        output=rest.pop("output", f"/tmp/torchtune/{family}_{size.replace('.', '_')}/"),
        **rest,
    )


_FULL = "full_single_device full"
_LORA = "lora_single_device lora"
_QLORA = "qlora_single_device"
_ALL = f"{_FULL} {_LORA}"
_TOOLS = "full_tool_calling lora_tool_calling"
_LOW = f"full_low_memory full {_LORA} {_QLORA}"

CHECKPOINTS = (
    _row("llama2/7B", "meta-llama/Llama-2-7b-hf", 2, f"{_LOW} qlora"),
    _row("llama2/13B", "meta-llama/Llama-2-13b-hf", 3, f"full lora {_QLORA}", processes=4),
    _row("llama2/70B", "meta-llama/Llama-2-70b-hf", 15, "lora qlora", processes=8),
    _row(
        "llama3/8B",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        4,
        f"{_ALL} {_QLORA} dora_single_device qdora_single_device dora",
    ),
    _row(
        "llama3/70B",
        "meta-llama/Meta-Llama-3-70B-Instruct",
        30,
        "full lora",
        folder="/tmp/Meta-Llama-3-70B-Instruct",
        processes=8,
    ),
    _row("llama3_1/8B", "meta-llama/Meta-Llama-3.1-8B-Instruct", 4, f"{_ALL} {_QLORA} {_TOOLS}"),
    _row("llama3_1/70B", "meta-llama/Meta-Llama-3.1-70B-Instruct", 30, "full lora", processes=8),
    _row(
        "llama3_1/405B",
        "meta-llama/Meta-Llama-3.1-405B-Instruct",
        191,
        "qlora",
        processes=8,
        tokenizer_files={"path": "original/mp8/tokenizer.model"},
    ),
    _row("llama3_2/1B", "meta-llama/Llama-3.2-1B-Instruct", 1, f"{_ALL} {_QLORA} {_TOOLS}"),
    _row("llama3_2/3B", "meta-llama/Llama-3.2-3B-Instruct", 2, f"{_ALL} {_QLORA} {_TOOLS}"),
    _row("llama3_3/70B", "meta-llama/Llama-3.3-70B-Instruct", 30, "full full_multinode lora qlora", processes=8),
    _row("mistral/7B", "mistralai/Mistral-7B-v0.1", 2, _LOW, shard_names=_BIN),
    # v0.3 is the first one with tool calls: a larger vocabulary, other positions, no window.
    _row("mistral/7B", "mistralai/Mistral-7B-Instruct-v0.3", 3, _TOOLS, builder="mistral", ignore="consolidated*"),
    _row("gemma/2B", "google/gemma-2b", 2, f"full {_LORA} {_QLORA}"),
    _row("gemma/7B", "google/gemma-7b", 4, f"full {_LORA} {_QLORA}", processes=4),
    _row("gemma2/2B", "google/gemma-2-2b", 3, f"full {_LORA} {_QLORA}"),
    _row("gemma2/9B", "google/gemma-2-9b", 8, f"full {_LORA} {_QLORA}", processes=4),
    _row("gemma2/27B", "google/gemma-2-27b", 24, f"full {_LORA} {_QLORA}", processes=8),
    _row("phi3/mini", "microsoft/Phi-3-mini-4k-instruct", 2, _LOW),
    _row("phi4/14B", "microsoft/phi-4", 6, _LOW, output="/tmp/torchtune/phi-4/14B_"),
    _row("qwen2/0.5B", "Qwen/Qwen2-0.5B-Instruct", 1, _ALL),
    _row("qwen2/1.5B", "Qwen/Qwen2-1.5B-Instruct", 1, _ALL),
    _row("qwen2/7B", "Qwen/Qwen2-7B-Instruct", 4, _ALL),
    _row("qwen2_5/0.5B", "Qwen/Qwen2.5-0.5B-Instruct", 1, f"{_ALL} {_TOOLS}"),
    _row("qwen2_5/1.5B", "Qwen/Qwen2.5-1.5B-Instruct", 1, f"{_ALL} {_TOOLS}", builder="qwen2_5_1_5b_instruct"),
    _row("qwen2_5/3B", "Qwen/Qwen2.5-3B-Instruct", 2, f"{_ALL} {_TOOLS}"),
    _row("qwen2_5/7B", "Qwen/Qwen2.5-7B-Instruct", 4, f"{_ALL} {_TOOLS}", builder="qwen2_5_7b_instruct"),
    _row("qwen2_5/14B", "Qwen/Qwen2.5-14B-Instruct", 8, "lora_single_device", builder="qwen2_5_14b_instruct"),
    _row("qwen2_5/32B", "Qwen/Qwen2.5-32B-Instruct", 17, "lora", builder="qwen2_5_32b_instruct", processes=8),
    _row("qwen2_5/72B", "Qwen/Qwen2.5-72B-Instruct", 37, "lora", builder="qwen2_5_72b_instruct", processes=8),
    _row("qwen3/0.6B", "Qwen/Qwen3-0.6B", 1, f"{_ALL} {_TOOLS}", builder="qwen3_0_6b_instruct"),
    _row("qwen3/1.7B", "Qwen/Qwen3-1.7B", 2, f"{_ALL} {_TOOLS}", builder="qwen3_1_7b_instruct"),
    _row("qwen3/4B", "Qwen/Qwen3-4B", 3, f"{_ALL} {_TOOLS}", builder="qwen3_4b_instruct"),
    _row("qwen3/8B", "Qwen/Qwen3-8B", 5, f"{_ALL} {_TOOLS}", builder="qwen3_8b_instruct"),
    _row("qwen3/14B", "Qwen/Qwen3-14B", 8, "lora_single_device", builder="qwen3_14b_instruct"),
    _row("qwen3/32B", "Qwen/Qwen3-32B", 17, "lora", builder="qwen3_32b", processes=8),
    _row("qwen3_moe/30B_A3B", "Qwen/Qwen3-30B-A3B", 0, f"lora {_TOOLS}", processes=4, machines=1),
    _row("qwen3_moe/235B_A22B", "Qwen/Qwen3-235B-A22B", 0, f"lora {_TOOLS}", processes=8, machines=4),
    _row("gemma3/1B", "google/gemma-3-1b-it", 1, f"{_LORA} {_QLORA} {_TOOLS}"),
    _row("gemma3/4B", "google/gemma-3-4b-it", 0, f"{_LORA} {_TOOLS}"),
    _row("gemma3/12B", "google/gemma-3-12b-it", 0, f"lora {_TOOLS}", processes=4, machines=1),
    _row("gemma3/27B", "google/gemma-3-27b-it", 0, f"lora {_TOOLS}", processes=8, machines=1),
    _row("gpt_oss/20b", "openai/gpt-oss-20b", 0, f"lora {_QLORA} {_TOOLS}", machines=1),
    _row("gpt_oss/120b", "openai/gpt-oss-120b", 0, f"lora {_TOOLS}", processes=8, machines=2),
    _row("smollm3/3B", "HuggingFaceTB/SmolLM3-3B", 0, f"{_LORA} {_TOOLS}"),
    _row("phi4_mini/3.8B", "microsoft/Phi-4-mini-instruct", 0, f"{_LORA} {_TOOLS}"),
    _row("granite4/micro", "ibm-granite/granite-4.0-micro", 0, f"{_LORA} {_TOOLS}"),
    _row("ministral/8B", "mistralai/Ministral-8B-Instruct-2410", 0, f"{_LORA} {_TOOLS}"),
    _row("mistral_nemo/12B", "mistralai/Mistral-Nemo-Instruct-2407", 0, f"{_LORA} {_TOOLS}", machines=1),
    _row(
        "mistral_small/24B", "mistralai/Mistral-Small-24B-Instruct-2501", 0, f"lora {_TOOLS}", processes=4, machines=1
    ),
    _row(
        "llama3_2_vision/11B", "meta-llama/Llama-3.2-11B-Vision-Instruct", 5, f"{_ALL} {_QLORA} qlora", listed_shards=1
    ),
    _row("llama3_2_vision/90B", "meta-llama/Llama-3.2-90B-Vision-Instruct", 37, "full lora qlora", processes=8),
    _row(
        "llama4/scout_17B_16E",
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        50,
        "full lora",
        output="/tmp/torchtune/llama4_17Bx16E/",
        processes=8,
    ),
    _row(
        "llama4/maverick_17B_128E",
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
        55,
        "full",
        output="/tmp/torchtune/llama4_17Bx128E/",
        processes=8,
    ),
)


def find_checkpoint(name: str) -> Checkpoint:
    """The first checkpoint of this name."""
    return next(checkpoint for checkpoint in CHECKPOINTS if checkpoint.name == name)
