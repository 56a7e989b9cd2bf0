"""The mechanics that the file layouts share: what is read, what is written, in which order."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.training._distributed import get_world_size_and_rank
from torchtune.training.checkpointing._folders import (
    Draft,
    ResumePoint,
    check_writable,
    checkpoint_name,
    drop_old_recipe_states,
    find_resume_point,
    new_checkpoint,
    prune,
)
from torchtune.training.checkpointing._utils import (
    ADAPTER_CONFIG,
    ADAPTER_KEY,
    ADAPTER_MODEL_FNAME,
    MODEL_KEY,
    RECIPE_STATE_FNAME,
    SAFETENSOR_INDEX_FNAME,
    SUFFIXES_TO_NOT_COPY,
    TORCH_INDEX_FNAME,
    FormattedCheckpointFiles,
    check_outdir_not_in_ckptdir,
    copy_files,
    get_path,
    parse_model_type,
    read_json,
    safe_torch_load,
)
from torchtune.training.checkpointing._weights import StateDict, read_weights

if TYPE_CHECKING:
    from torchtune.data.formats import ChatFormat

_log = logging.getLogger("torchtune")


#: Where a merged checkpoint keeps its adapter for PEFT.
ADAPTER_FOLDER = "adapter"


class FileCheckpointer:
    """What the three file layouts share; a layout says how the model itself is read and written."""

    def __init__(
        self,
        checkpoint_dir: str,
        checkpoint_files: list[str] | dict[str, str],
        model_type: str,
        output_dir: str | None,
        adapter_checkpoint: str | None = None,
        recipe_checkpoint: str | None = None,
        resume_from_checkpoint: bool = False,
        should_load_recipe_state: bool = False,
        *,
        keep_last_n_checkpoints: int | None = None,
    ) -> None:
        if keep_last_n_checkpoints is not None and keep_last_n_checkpoints < 1:
            raise ValueError(
                f"keep_last_n_checkpoints must be greater than or equal to 1, found {keep_last_n_checkpoints}"
            )
        #: What the model is trained in; the chat template of the folders that are saved follows it.
        self.chat_format: ChatFormat | None = None
        self._checkpoint_dir = Path(checkpoint_dir)
        self._model_type = parse_model_type(model_type)
        self._output_dir = Path(output_dir) if output_dir is not None else None
        self._keep_last_n = keep_last_n_checkpoints
        self._resume: ResumePoint | None = None
        if self._output_dir is not None:
            check_outdir_not_in_ckptdir(self._checkpoint_dir, self._output_dir)
            check_writable(self._output_dir)
        if resume_from_checkpoint or should_load_recipe_state:
            if self._output_dir is None:
                raise ValueError("resume_from_checkpoint=True needs checkpointer.output_dir, the folder of the run")
            first = get_world_size_and_rank()[1] == 0
            self._resume = find_resume_point(self._output_dir, recipe_checkpoint, check=first)
            _log.info("Resuming from %s", self._resume.folder)
        self._adapter_checkpoint = self._find_adapter(adapter_checkpoint)
        self._checkpoint_paths = self._find_weights(checkpoint_files)

    def _find_adapter(self, name: str | None) -> Path | None:
        """The adapter to go on with: beside the recipe state, or where the config says."""
        if self._resume is None:
            return None
        assert self._output_dir is not None
        if name and "/" in name:
            return get_path(self._output_dir, name)
        path = self._resume.folder / (name or f"{ADAPTER_MODEL_FNAME}.pt")
        return path if path.is_file() else None

    def _find_weights(self, files: list[str] | dict[str, str]) -> list[Path]:
        """The model's files: those of the config, or, where a whole model is resumed, those of its checkpoint."""
        if self._resume is not None and self._adapter_checkpoint is None:
            return weight_files(self._resume.folder)
        if isinstance(files, Mapping):
            files = FormattedCheckpointFiles.from_dict(dict(files)).build_checkpoint_filenames()
        if not files:
            return weight_files(self._checkpoint_dir)
        return [get_path(self._checkpoint_dir, str(file)) for file in files]

    def load_checkpoint(self, weights_only: bool = True) -> dict[str, Any]:
        """The model in our layout, mapped, and, when resuming, the adapter and the run's state, by their keys.

        Args:
            weights_only: refuse everything but tensors and plain values; quantized models of old torchao need False.

        Raises:
            ValueError: if a file can't be read or holds something other than tensors.
            KeyError: if a key isn't one of the layout.
        """
        state: dict[str, Any] = {MODEL_KEY: self._to_tune(read_weights(self._checkpoint_paths, weights_only))}
        if self._adapter_checkpoint is not None:
            adapter = safe_torch_load(self._adapter_checkpoint)
            if self._adapter_checkpoint.suffix == ".safetensors":
                adapter = self._adapter_to_tune(adapter)
            state[ADAPTER_KEY] = adapter
        if self._resume is not None:
            state.update(safe_torch_load(self._resume.recipe_state, mmap=False))
        return state

    def save_checkpoint(
        self,
        state_dict: dict[str, Any],
        epoch: int,
        intermediate_checkpoint: bool = False,
        adapter_only: bool = False,
        *,
        step: int | None = None,
        max_shard_size: str = "5GB",
        dir_prefix: str = "epoch",
    ) -> None:
        """Write a checkpoint folder, then drop what is surplus.

        Args:
            state_dict: ``model``; for an adapter also ``adapter`` and ``adapter_config``, and then ``model`` may hold the
                adapter's weights, which are merged layer by layer (Hugging Face layout); and the run's state.
            epoch: number of the epoch, from 0; the folder's name where ``step`` is None.
            intermediate_checkpoint: the run goes on after this: write its state.
            adapter_only: leave the model's weights out.
            step: number of optimizer steps done; then the folder is ``step_N``.
            max_shard_size: largest size of a weight file, such as ``"5GB"``, where the layout has several.
            dir_prefix: another first part of the folder's name.

        Raises:
            ValueError: if ``adapter_only`` is asked for and there is no adapter, or there is no ``output_dir``.
            OSError: if the disk is full or can't be written; earlier checkpoints stay as they are.
        """
        if self._output_dir is None:
            raise ValueError("save_checkpoint needs checkpointer.output_dir; it is not set")
        if adapter_only and ADAPTER_KEY not in state_dict:
            raise ValueError(
                "Adapter checkpoint not found in state_dict. Please ensure that the state_dict contains adapter weights "
                f"under {ADAPTER_KEY!r}; found {list(state_dict)}."
            )
        name = checkpoint_name(epoch, step, dir_prefix)
        info = {"epoch": epoch, "step": step, "adapter_only": adapter_only, "model_type": self._model_type.name}
        with new_checkpoint(self._output_dir / name, **info) as draft:
            if not adapter_only:
                self._write_model(draft, state_dict[MODEL_KEY], state_dict.get(ADAPTER_CONFIG), max_shard_size)
            if ADAPTER_KEY in state_dict:
                draft.save(f"{ADAPTER_MODEL_FNAME}.pt", state_dict[ADAPTER_KEY])
                # transformers would put the adapter on top of the merged weights beside it: then it gets a folder of its own.
                subfolder = "" if adapter_only else f"{ADAPTER_FOLDER}/"
                self._write_adapter(draft, subfolder, state_dict[ADAPTER_KEY], state_dict.get(ADAPTER_CONFIG))
            copy_files(self._checkpoint_dir, draft.path, ignore_suffixes=SUFFIXES_TO_NOT_COPY)
            if self.chat_format is not None:
                from torchtune.data.formats._registry import serve_templates

                serve_templates(draft.path, self.chat_format)
            if adapter_only:  # with it, transformers would look for the base model's weights here
                (draft.path / "config.json").unlink(missing_ok=True)
            if intermediate_checkpoint:
                run_state = {k: v for k, v in state_dict.items() if k not in (MODEL_KEY, ADAPTER_KEY, ADAPTER_CONFIG)}
                draft.save(RECIPE_STATE_FNAME, run_state)
        _log.info("Saved checkpoint %s", self._output_dir / name)
        drop_old_recipe_states(self._output_dir)
        if self._keep_last_n is not None:
            prune(self._output_dir, self._keep_last_n, name.rpartition("_")[0])

    def _to_tune(self, state_dict: StateDict) -> StateDict:
        return state_dict

    def _adapter_to_tune(self, state_dict: StateDict) -> StateDict:
        raise ValueError(
            f"{self._adapter_checkpoint}: {type(self).__name__} reads adapters as {ADAPTER_MODEL_FNAME}.pt only"
        )

    def _write_model(
        self, draft: Draft, state_dict: StateDict, adapter: dict[str, Any] | None, max_shard_size: str
    ) -> None:
        raise NotImplementedError

    def _write_adapter(
        self, draft: Draft, subfolder: str, state_dict: StateDict, config: dict[str, Any] | None
    ) -> None:
        """Besides ``adapter_model.pt``, which every layout writes."""


def weight_files(folder: Path) -> list[Path]:
    """The files of the model in a folder: those of its index, or all that are named as weights are."""
    for index in (SAFETENSOR_INDEX_FNAME, TORCH_INDEX_FNAME):
        if (folder / index).is_file():
            names = read_json(folder / index).get("weight_map")
            if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
                raise ValueError(f"{folder / index} is no index: expected `weight_map`, the file of each tensor")
            return [get_path(folder, name) for name in sorted(set(names.values()))]
    for suffix in (".safetensors", ".bin", ".pth", ".pt"):
        skipped = (ADAPTER_MODEL_FNAME, RECIPE_STATE_FNAME.removesuffix(".pt"))
        found = sorted(path for path in folder.glob(f"*{suffix}") if path.stem not in skipped)
        if found:
            return found
    raise ValueError(f"No weights in {folder}: expected .safetensors, .bin or .pt files, or an index of them")
