"""Quantization after training: weights are rounded once, and saved for ``generate`` and ``eleuther_eval``.

    tune run quantize --config quantization

The file is named after the quantizer's mode (``model-8da4w.pt``). To load it, give ``FullModelTorchTuneCheckpointer`` with
its folder and name as the ``checkpointer``; it needs no ``quantizer`` any more.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from torchtune import config, training, utils

CONFIG_KEYS = {
    "output_dir", "model", "checkpointer", "quantizer", "device", "dtype", "seed", "cudnn_deterministic_mode",
}  # fmt: skip

log = utils.get_logger("INFO")


class QuantizationRecipe:
    """Quantizes a model, as its config says.

    Args:
        cfg: the settings; the keys are :data:`CONFIG_KEYS`.

    Raises:
        ValueError: if the quantizer is none for models that are trained.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.device = utils.get_device(cfg.device)
        self.dtype = training.get_dtype(cfg.dtype, device=self.device)
        self.quantizer = config.instantiate(cfg.quantizer)
        self.mode = training.get_quantizer_mode(self.quantizer)
        if self.mode is None or not hasattr(self.quantizer, "quantize"):
            raise ValueError(
                f"quantizer: {type(self.quantizer).__name__} does not quantize a model that is trained; use "
                "Int8DynActInt4WeightQuantizer or Int4WeightOnlyQuantizer, with the groupsize that QAT used, if it did"
            )
        training.set_seed(cfg.get("seed"), debug_mode=cfg.get("cudnn_deterministic_mode"))

    def setup(self) -> None:
        """Loads the model, unquantized."""
        cfg = self.cfg.copy()
        cfg.quantizer = None
        self.model: nn.Module = training.load_model(cfg, self.device, self.dtype)

    @torch.no_grad()
    def quantize(self) -> None:
        """Rounds the weights, in place."""
        started, before = time.perf_counter(), self._size()
        self.model = self.quantizer.quantize(self.model)
        log.info(
            "Quantized in %.1f s (%s): %.2f GB of weights became %.2f GB",
            time.perf_counter() - started, self.mode, before / 1e9, self._size() / 1e9,
        )  # fmt: skip

    def _size(self) -> int:
        """Bytes of the weights."""
        inner = [
            getattr(weight, name)
            for weight in self.model.state_dict().values()
            for name in (weight.__tensor_flatten__()[0] if training.is_quantized(weight) else ["data"])
        ]
        return sum(tensor.numel() * tensor.element_size() for tensor in inner)

    def save_checkpoint(self) -> Path:
        """Saves the weights, and says where."""
        folder = Path(self.cfg.checkpointer.get("output_dir") or self.cfg.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        files = self.cfg.checkpointer.checkpoint_files
        first = files[0] if files and not hasattr(files, "keys") else "model"
        path = folder / f"{Path(str(first)).name.split('.')[0].split('-00001-of')[0]}-{self.mode}.pt"
        torch.save({name: tensor.cpu() for name, tensor in self.model.state_dict().items()}, path)
        log.info("Saved %s (%.2f GB)", path, path.stat().st_size / 1e9)
        return path


@config.parse
def main(cfg: DictConfig) -> None:
    """Runs the recipe with a parsed config."""
    config.check_keys(cfg, CONFIG_KEYS)
    config.log_config(recipe_name="QuantizationRecipe", cfg=cfg)
    recipe = QuantizationRecipe(cfg)
    recipe.setup()
    recipe.quantize()
    recipe.save_checkpoint()


if __name__ == "__main__":
    sys.exit(main())
