"""Names, file layouts and small helpers of checkpoints."""

from __future__ import annotations

import json
import re
import shutil
import string
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from warnings import warn

import torch

from torchtune.utils._paths import inside

# Keys of the dictionaries that checkpointers load and save.
ADAPTER_CONFIG = "adapter_config"
ADAPTER_KEY = "adapter"
DATALOADER_KEY = "dataloader"
EPOCHS_KEY = "epochs_run"
LR_SCHEDULER_KEY = "lr_scheduler"
MAX_STEPS_KEY = "max_steps_per_epoch"
MODEL_KEY = "model"
OPT_KEY = "optimizer"
RNG_KEY = "rng_state"
SEED_KEY = "seed"
STEPS_KEY = "steps_run"
TOTAL_EPOCHS_KEY = "total_epochs"
TOTAL_STEPS_KEY = "total_training_steps"
VAL_DATALOADER_KEY = "val_dataloader"

# Names of files and folders.
ADAPTER_CONFIG_FNAME = "adapter_config"
ADAPTER_MODEL_FNAME = "adapter_model"
RECIPE_STATE_DIRNAME = "recipe_state"
RECIPE_STATE_FNAME = "recipe_state.pt"
REPO_ID_FNAME = "original_repo_id"
SAFETENSOR_INDEX_FNAME = "model.safetensors.index.json"
SHARD_FNAME = "model-{cpt_idx}-of-{num_shards}"
TORCH_INDEX_FNAME = "pytorch_model.bin.index.json"

#: Files of the source folder with these endings hold weights, and stay behind when the rest is copied to a checkpoint.
SUFFIXES_TO_NOT_COPY = [
    ".pt",
    ".pth",
    ".bin",
    ".safetensors",
    SAFETENSOR_INDEX_FNAME,
    TORCH_INDEX_FNAME,
    ADAPTER_CONFIG_FNAME,
    ADAPTER_MODEL_FNAME,
]

EPOCH_PATTERN = r"^epoch_(\d+)"
STEP_PATTERN = r"^step_(\d+)"


class ModelType(Enum):
    """The layout of a checkpoint's keys; models that share a layout share a type (Llama 3.1 and 3.3 are ``LLAMA3``).

    ``LLAMA3_2`` is the Llama layout with tied embeddings, ``REWARD`` a Llama or Mistral with one score as its output.
    ``AUTO`` is the layout of what ``config.json`` calls ``model_type``, for every family in ``docs/models.md``.
    """

    GEMMA = "gemma"
    GEMMA2 = "gemma2"
    LLAMA2 = "llama2"
    LLAMA3 = "llama3"
    LLAMA3_2 = "llama3_2"
    LLAMA3_VISION = "llama3_vision"
    LLAMA4 = "llama4"
    MISTRAL = "mistral"
    PHI3_MINI = "phi3_mini"
    PHI4 = "phi4"
    REWARD = "reward"
    QWEN2 = "qwen2"
    CLIP_TEXT = "clip_text"
    T5_ENCODER = "t5_encoder"
    QWEN3 = "qwen3"
    AUTO = "auto"


def parse_model_type(name: str | ModelType) -> ModelType:
    """The member that a config's ``model_type`` names."""
    if isinstance(name, ModelType):
        return name
    if name not in ModelType.__members__:
        raise ValueError(f"checkpointer.model_type is {name!r}; expected one of {', '.join(ModelType.__members__)}")
    return ModelType[name]


class FormattedCheckpointFiles:
    """The names of a sharded checkpoint's files, said in two values in place of a long list.

    Args:
        filename_format: file name with two ``{}``: number of the file, number of files.
        max_filename: the last number as the names write it, such as ``"00030"``.

    Raises:
        ValueError: if the format doesn't have exactly two placeholders, or ``max_filename`` isn't a string of digits.
    """

    def __init__(self, filename_format: str, max_filename: str) -> None:
        if not isinstance(max_filename, str):
            raise ValueError(
                f"`max_filename` must be a string with its leading zeros, such as '00030', found {max_filename!r}. "
                "Quote it in the config."
            )
        if not max_filename.isdigit():
            raise ValueError(f"`max_filename` must hold digits only, found {max_filename!r}")
        fields = [name for _, name, _, _ in string.Formatter().parse(filename_format) if name is not None]
        if len(fields) != 2:
            raise ValueError(
                f"`filename_format` must have exactly two placeholders, as in 'model-{{}}-of-{{}}.safetensors'; "
                f"found {len(fields)} in {filename_format!r}"
            )
        self.filename_format = filename_format
        self.max_filename = max_filename

    @classmethod
    def from_dict(cls, d: dict) -> FormattedCheckpointFiles:
        """The names from a config's mapping.

        Args:
            d: has ``filename_format``, with two ``{}``, and ``max_filename``.

        Raises:
            ValueError: if a key is missing.
        """
        if "filename_format" not in d or "max_filename" not in d:
            raise ValueError(
                f"Must pass 'filename_format' and 'max_filename' keys to generate file names; found {list(d)}"
            )
        return cls(filename_format=d["filename_format"], max_filename=d["max_filename"])

    def build_checkpoint_filenames(self) -> list[str]:
        """All names, first to last."""
        width, last = len(self.max_filename), int(self.max_filename)
        return [self.filename_format.format(str(i).zfill(width), self.max_filename) for i in range(1, last + 1)]


def get_path(input_dir: Path | str, filename: str) -> Path:
    """The path of a file in a folder; an error if it isn't there, or its name leads out of it."""
    folder = Path(input_dir)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a valid directory.")
    path = inside(folder, filename, "A checkpoint's file")
    if not path.is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "nothing"
        raise ValueError(f"No file with name: {filename} found in {folder}. It holds: {found}.")
    return path


def get_all_checkpoints_in_dir(dir: Path, *, pattern: str = EPOCH_PATTERN) -> list[Path]:
    """The folders in ``dir`` whose names match, smallest number first.

    Args:
        dir: folder to look in; it may not exist.
        pattern: regular expression for the name, with one group for its number.
    """
    folder = Path(dir)
    if not folder.is_dir():
        return []
    regex = re.compile(pattern)
    folders = [(regex.match(entry.name), entry) for entry in folder.iterdir() if entry.is_dir()]
    found = [(int(match[1]), entry) for match, entry in folders if match]
    return [entry for _, entry in sorted(found)]


def get_largest_iter_folder(dir: str | Path, pattern: str = EPOCH_PATTERN) -> str | None:
    """The name of the folder in ``dir`` with the largest number, None if there is none.

    Args:
        dir: folder to look in.
        pattern: regular expression for the name, with one group for its number.
    """
    found = get_all_checkpoints_in_dir(Path(dir), pattern=pattern)
    return found[-1].name if found else None


def prune_surplus_checkpoints(checkpoints: list[Path], keep_last_n_checkpoints: int = 1) -> None:
    """Delete checkpoint folders, all but the last few.

    Args:
        checkpoints: folders, oldest first.
        keep_last_n_checkpoints: how many stay.

    Raises:
        ValueError: if ``keep_last_n_checkpoints`` is under 1.
    """
    if keep_last_n_checkpoints < 1:
        raise ValueError(
            f"keep_last_n_checkpoints must be greater than or equal to 1, found {keep_last_n_checkpoints}. "
            "Set it to null to keep all."
        )
    for folder in checkpoints[:-keep_last_n_checkpoints]:
        doomed = folder.with_name(f".{folder.name}.tmp")  # killed half-way, no half a checkpoint is left under its name
        folder.rename(doomed)
        shutil.rmtree(doomed)


def check_outdir_not_in_ckptdir(ckpt_dir: Path | str, out_dir: Path | str) -> bool:
    """A check that the output folder isn't the source folder or in it, which would change the source.

    Args:
        ckpt_dir: where weights are read.
        out_dir: where checkpoints are written.

    Raises:
        ValueError: if it is so.
    """
    source, target = Path(ckpt_dir).resolve(), Path(out_dir).resolve()
    if source == target or source in target.parents:
        raise ValueError(
            "The output directory cannot be the same as or a subdirectory of the checkpoint directory. "
            f"Found checkpoint_dir={source} and output_dir={target}; set another output_dir."
        )
    return True


def safe_torch_load(checkpoint_path: Path | str, weights_only: bool = True, mmap: bool = True) -> dict[str, Any]:
    """The state dict in a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file, on the CPU, mapped where that can be.

    Args:
        checkpoint_path: the file.
        weights_only: for torch files, refuse everything but tensors and plain values, so that no code can run.
        mmap: map the file and read tensors when they are used.

    Raises:
        ValueError: if the file can't be read as what its name says.
    """
    from torchtune.training.checkpointing._weights import read_safetensors

    path = Path(checkpoint_path)
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)
        with path.open("rb") as file:  # files of before torch 1.6 aren't zip archives and can't be mapped
            is_zip = file.read(4) == b"PK\x03\x04"
        load = partial(torch.load, str(path), map_location="cpu", mmap=mmap and is_zip, weights_only=weights_only)
        try:
            return load()
        except UnpicklingError as error:
            if "Unsupported global: GLOBAL torchao." not in str(error):
                raise
            # On import torchao tells torch.load of its kinds of tensors.
            import torchao.optim
            import torchao.quantization  # noqa: F401

            return load()
    except Exception as error:
        raise ValueError(f"Unable to load checkpoint from {path}: {type(error).__name__}: {error}") from error


def copy_files(
    input_dir: str | Path,
    output_dir: str | Path,
    *,
    ignore_suffixes: list[str] | None = None,
    max_file_size_mb: int = 200,
) -> None:
    """Copy a folder to another, but nothing hidden or large, no names with some endings, and over no file."""
    suffixes = tuple(ignore_suffixes or ())
    for source in _visible_files(Path(input_dir)):
        if source.name.endswith(suffixes) or source.stem.endswith(suffixes):
            continue
        if source.stat().st_size > max_file_size_mb * 1024**2:
            warn(f"{source} is over {max_file_size_mb} MB and is not copied to the checkpoint.", stacklevel=2)
            continue
        target = Path(output_dir) / source.relative_to(input_dir)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _visible_files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _visible_files(entry)
        elif entry.is_file():
            yield entry


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Download or copy it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def update_state_dict_for_classifier(
    state_dict: dict[str, torch.Tensor],
    model_named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
    force_override: bool = False,
) -> None:
    """Fit a checkpoint's output layer to a classifier's, in place, before it is loaded.

    An output weight of another shape is replaced by the model's own (freshly initialised) one, and an ``output.bias``
    that the model doesn't have is dropped.

    Args:
        state_dict: checkpoint in torchtune's layout.
        model_named_parameters: the classifier's ``named_parameters()``.
        force_override: replace the output weight even where the shapes agree.

    Raises:
        AssertionError: if either side lacks ``output.weight``.
    """
    parameters = dict(model_named_parameters)
    if "output.weight" not in state_dict:
        raise AssertionError("Expected output.weight in state_dict")
    if "output.weight" not in parameters:
        raise AssertionError("Expected output.weight in model_named_parameters")
    if "output.bias" in state_dict and "output.bias" not in parameters:
        warn("Found output.bias in state dict - this will not be used!", stacklevel=2)
        state_dict.pop("output.bias")
    if force_override or state_dict["output.weight"].shape != parameters["output.weight"].shape:
        state_dict["output.weight"] = parameters["output.weight"]
