"""Checkpointers: they read a model in a layout of others and write it back in the same, adapter and run state included."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import torch
import torch.distributed as dist

from torchtune.training.checkpointing._convert import HFLayout, meta_to_tune, tune_to_meta
from torchtune.training.checkpointing._files import FileCheckpointer
from torchtune.training.checkpointing._folders import Draft, check_writable, checkpoint_name
from torchtune.training.checkpointing._utils import (
    ADAPTER_CONFIG,
    ADAPTER_CONFIG_FNAME,
    ADAPTER_MODEL_FNAME,
    REPO_ID_FNAME,
    SHARD_FNAME,
    get_path,
    read_json,
)
from torchtune.training.checkpointing._weights import Convert, StateDict, write_safetensors, write_sharded

_log = logging.getLogger("torchtune")


class FullModelHFCheckpointer(FileCheckpointer):
    """Reads and writes checkpoints in the Hugging Face layout, which ``transformers``, ``peft`` and vLLM load.

    A checkpoint is the folder ``epoch_N`` or ``step_N`` in ``output_dir``: the weights in safetensors shards with an
    index, ``config.json`` and the tokenizer's files from ``checkpoint_dir``, and, if the run is to go on,
    ``recipe_state.pt``. An adapter is ``adapter_model.pt`` in our layout; PEFT's is in the folder ``adapter`` beside merged
    weights, and in the checkpoint's own folder without them. A folder appears under its name only when it is complete.

    Args:
        checkpoint_dir: folder of the model to start from; it holds ``config.json``.
        checkpoint_files: its weight files; a mapping with ``filename_format`` and ``max_filename``; empty: by its index.
        model_type: name of a :class:`ModelType`.
        output_dir: folder for this run's checkpoints. None for reading only.
        adapter_checkpoint: when resuming, the adapter's file in the checkpoint folder, or its path under ``output_dir``.
        recipe_checkpoint: when resuming, the same for the run's state.
        resume_from_checkpoint: go on from the newest complete checkpoint in ``output_dir``.
        safe_serialization: write safetensors; else torch files.
        should_load_recipe_state: the same as ``resume_from_checkpoint``.
        keep_last_n_checkpoints: delete older checkpoints of the same kind (by epoch, by step) after each save.
        enable_dcp: accepted so that old configs run; files are always mapped and read on demand.

    Raises:
        ValueError: if a file is missing, the output folder lies in the source folder, or there is nothing to resume from.
    """

    def __init__(
        self,
        checkpoint_dir: str,
        checkpoint_files: list[str] | dict[str, str],
        model_type: str,
        output_dir: str | None = None,
        adapter_checkpoint: str = "adapter_model.pt",
        recipe_checkpoint: str = "recipe_state.pt",
        resume_from_checkpoint: bool = False,
        safe_serialization: bool = True,
        should_load_recipe_state: bool = False,
        *,
        keep_last_n_checkpoints: int | None = None,
        enable_dcp: bool = False,
    ) -> None:
        super().__init__(
            checkpoint_dir,
            checkpoint_files,
            model_type,
            output_dir,
            adapter_checkpoint,
            recipe_checkpoint,
            resume_from_checkpoint,
            should_load_recipe_state,
            keep_last_n_checkpoints=keep_last_n_checkpoints,
        )
        self._safe_serialization = safe_serialization
        self._layout = HFLayout(self._model_type, read_json(get_path(self._checkpoint_dir, "config.json")))

    def _to_tune(self, state_dict: StateDict) -> StateDict:
        return self._layout.to_tune(state_dict)

    def _adapter_to_tune(self, state_dict: StateDict) -> StateDict:
        return self._layout.adapter_from_peft(state_dict)

    def _write_model(
        self, draft: Draft, state_dict: StateDict, adapter: dict[str, Any] | None, max_shard_size: str
    ) -> None:
        from torchtune.modules.peft import get_merged_lora_ckpt
        from torchtune.modules.peft._utils import is_adapter_key

        layout = self._layout
        convert: Convert = layout.from_tune
        if adapter is not None and any(map(is_adapter_key, state_dict)):

            def convert(part: Mapping[str, torch.Tensor]) -> StateDict:  # a layer is merged when it is written
                return layout.from_tune(get_merged_lora_ckpt(dict(part), adapter["r"], adapter["lora_alpha"]))

        draft.hashes |= write_sharded(
            draft.path,
            state_dict,
            convert,
            max_shard_size=max_shard_size,
            safe_serialization=self._safe_serialization,
            by_layer=layout.by_layer,
        )
        self._write_config(draft, state_dict)

    def _write_config(self, draft: Draft, state_dict: StateDict) -> None:
        """``config.json`` as it was, with the vocabulary size and dtype that the weights have now."""
        config = dict(self._layout.config)
        embedding = state_dict.get("tok_embeddings.weight")
        if embedding is not None:
            dtype = str(embedding.dtype).removeprefix("torch.")
            now = {"vocab_size": embedding.shape[0], "torch_dtype": dtype, "dtype": dtype}
            config.update({key: value for key, value in now.items() if key in config})
        written = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (draft.path / "config.json").write_text(written, encoding="utf-8")

    def _write_adapter(
        self, draft: Draft, subfolder: str, state_dict: StateDict, config: dict[str, Any] | None
    ) -> None:
        from torchtune.models.convert_weights import tune_to_peft_adapter_config

        if not self._layout.writes_peft(state_dict):
            kind = self._model_type.name
            _log.warning("This %s adapter can't be written for PEFT; only %s.pt is.", kind, ADAPTER_MODEL_FNAME)
            return
        converted = self._layout.adapter_to_peft(state_dict)
        (draft.path / subfolder).mkdir(exist_ok=True)
        name = f"{subfolder}{ADAPTER_MODEL_FNAME}.safetensors"
        draft.hashes[name] = write_safetensors(draft.path / name, converted, converted.items())
        if config is None:
            text = "No %r in the state dict: adapter_config.json, which PEFT needs, is not written."
            _log.warning(text, ADAPTER_CONFIG)
            return
        written = tune_to_peft_adapter_config(config, self._base_model(), self._layout.key_map)
        path = draft.path / f"{subfolder}{ADAPTER_CONFIG_FNAME}.json"
        path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")

    def _base_model(self) -> str:
        """Where PEFT finds the base model: the hub's name if the download noted it, else the folder."""
        path = self._checkpoint_dir / f"{REPO_ID_FNAME}.json"
        repo_id = read_json(path).get("repo_id") if path.is_file() else None
        return repo_id or str(self._checkpoint_dir.resolve())


class _OneFileCheckpointer(FileCheckpointer):
    """Layouts whose model is one torch file, ``model-00001-of-00001.bin`` where it is written."""

    def _find_weights(self, files: list[str] | dict[str, str]) -> list[Path]:
        if len(files) != 1:
            raise ValueError(
                f"{type(self).__name__} reads a single checkpoint file, found {len(files)}: {list(files)}. "
                "Use FullModelHFCheckpointer for sharded checkpoints."
            )
        return super()._find_weights(files)

    def save_checkpoint(  # type: ignore[override]
        self,
        state_dict: dict[str, Any],
        epoch: int,
        intermediate_checkpoint: bool = False,
        adapter_only: bool = False,
        **kwargs: Any,
    ) -> None:
        super().save_checkpoint(state_dict, epoch, intermediate_checkpoint, adapter_only, **kwargs)

    def _write_model(
        self, draft: Draft, state_dict: StateDict, adapter: dict[str, Any] | None, max_shard_size: str
    ) -> None:
        name = SHARD_FNAME.format(cpt_idx="00001", num_shards="00001") + ".bin"
        draft.save(name, {key: tensor.contiguous() for key, tensor in self._from_tune(state_dict).items()})

    def _from_tune(self, state_dict: StateDict) -> StateDict:
        return state_dict


class FullModelMetaCheckpointer(_OneFileCheckpointer):
    """Reads and writes checkpoints in Meta's own layout, one file (``consolidated.00.pth``).

    See :class:`FullModelHFCheckpointer` for the parameters.
    """

    def _to_tune(self, state_dict: StateDict) -> StateDict:
        return meta_to_tune(state_dict, self._model_type)

    def _from_tune(self, state_dict: StateDict) -> StateDict:
        return tune_to_meta(state_dict, self._model_type)


class FullModelTorchTuneCheckpointer(_OneFileCheckpointer):
    """Reads and writes checkpoints with our own keys, such as those of quantized models, in one file.

    See :class:`FullModelHFCheckpointer` for the parameters.
    """


class DistributedCheckpointer:
    """Each rank writes and reads its own part (PyTorch DCP): quickly, maybe in the background, for any number of ranks.

    Args:
        checkpoint_dir: folder to load from, where ``output_dir`` has nothing yet.
        output_dir: folder for this run's checkpoints.
        process_group: ranks that take part; None is a gloo group of all, so that saving doesn't wait for the GPU's.
        keep_last_n_checkpoints: delete older checkpoints of the same kind (by epoch, by step) after each save.
    """

    def __init__(
        self,
        checkpoint_dir: str,
        output_dir: str,
        process_group: dist.ProcessGroup | None = None,
        *,
        keep_last_n_checkpoints: int | None = None,
    ) -> None:
        from torchtune.training.checkpointing._dcp import DCPWriter

        self._checkpoint_dir = Path(checkpoint_dir)
        self._output_dir = Path(output_dir)
        check_writable(self._output_dir)
        self._writer = DCPWriter(process_group, keep_last_n_checkpoints)

    @property
    def output_dir(self) -> Path:
        """Folder for this run's checkpoints."""
        return self._output_dir

    def load_checkpoint(self, state_dict: dict[str, Any], adapter_only: bool = False) -> dict[str, Any]:
        """The state dict with the newest complete checkpoint, loaded into its tensors in place.

        Args:
            state_dict: what to load, with tensors of the right shapes.
            adapter_only: load a checkpoint of an adapter.

        Raises:
            ValueError: if there is no complete checkpoint, or the newest is damaged.
        """
        from torchtune.training.checkpointing._dcp import latest_dcp_folder, load_dcp

        found = (latest_dcp_folder(place, adapter_only) for place in (self._output_dir, self._checkpoint_dir))
        folder = next(filter(None, found), None)
        if folder is None:
            raise ValueError(
                f"No complete distributed checkpoint in {self._output_dir} or {self._checkpoint_dir} to resume from. "
                "Set resume_from_checkpoint=False to start anew."
            )
        _log.info("Resuming from %s", folder)
        return load_dcp(state_dict, folder, self._writer.process_group)

    def save_checkpoint(
        self,
        state_dict: dict[str, Any],
        epoch: int,
        save_async: bool = False,
        adapter_only: bool = False,
        *,
        step: int | None = None,
        dir_prefix: str = "epoch",
    ) -> None:
        """Write a checkpoint folder; every rank calls this. See :meth:`FullModelHFCheckpointer.save_checkpoint`.

        Args:
            state_dict: the rank's part of everything: sharded tensors, and plain values that are equal on all ranks.
            save_async: copy to memory, return, and write in the background; the next save waits for this one.
            adapter_only: note that the model's weights aren't in it.

        Raises:
            OSError: if the disk is full or can't be written.
        """
        final = self._output_dir / checkpoint_name(epoch, step, dir_prefix)
        self._writer.save(state_dict, final, save_async, epoch=epoch, step=step, adapter_only=adapter_only)

    def wait(self) -> None:
        """Wait until a save in the background is complete."""
        self._writer.wait()


Checkpointer = Union[  # noqa: UP007 (the recorded public alias is a typing.Union)
    DistributedCheckpointer,
    FullModelHFCheckpointer,
    FullModelMetaCheckpointer,
    FullModelTorchTuneCheckpointer,
]
