"""Prompts with images, for models that fuse a decoder with encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from torchtune.generation._generation import generate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torchtune.data._message import Message


def image_prompt(
    tokenizer: Any, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None, *, official: bool = True
) -> dict[str, Any]:
    """A conversation to answer, batched: ``tokens``, and of images ``encoder_input`` and maybe ``encoder_mask``.

    Args:
        tokenizer: a model's transform, such as :func:`~torchtune.models.llama3_2_vision.llama3_2_vision_transform`.
        messages: the conversation.
        tools: OpenAI function schemas on offer.
        official: write it in the family's official format; else as the transform is set up.
    """
    from torchtune.data import Message, padded_collate_tiled_images_and_mask
    from torchtune.data._collate import _encoder_input

    own = {"messages": [*messages, Message("assistant", "")], **({"tools": tools} if tools else {})}
    sample = dict(tokenizer(own, inference=True))
    if official:
        sample["tokens"] = tokenizer.prompt_tokens(list(messages), tools=tools)
        if "encoder_mask" in sample:
            sample = tokenizer.xattn_mask(sample, inference=True)
    if "encoder_mask" in sample:
        return padded_collate_tiled_images_and_mask([sample], pad_direction="left")
    batch: dict[str, Any] = {"tokens": torch.tensor([sample["tokens"]])}
    encoder_input = _encoder_input([sample["encoder_input"]], False) if "encoder_input" in sample else None
    return {**batch, **({"encoder_input": encoder_input} if encoder_input else {})}


class _Seeing:
    """In the place of a model: its prompt comes with images."""

    def __init__(self, model: Any, batch: Mapping[str, Any]) -> None:
        self.model = model
        self.length = batch["tokens"].shape[1]
        self.encoder_input, self.encoder_mask = batch.get("encoder_input"), batch.get("encoder_mask")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, x: torch.Tensor, **options: Any) -> Any:
        mask = self.encoder_mask
        if mask is not None:  # what is generated sees what the prompt's last token sees
            more = mask[:, -1:].expand(-1, max(x.shape[1] - self.length, 0), -1)
            mask = torch.cat([mask, more], dim=1) if x.shape[1] >= self.length else mask[:, -1:]
        images = self.encoder_input if x.shape[1] >= self.length else None  # else they are in the cache
        return self.model(x, encoder_input=images, encoder_mask=mask, **options)


@torch.no_grad()
def generate_from_images(
    model: Any, batch: Mapping[str, Any], *, max_generated_tokens: int, use_cache: bool = True, **options: Any
) -> list[int]:
    """The ids that continue a prompt with images.

    Args:
        model: a :class:`~torchtune.modules.model_fusion.DeepFusionModel` or
            :class:`~torchtune.modules.model_fusion.EarlyFusionModel`, in evaluation mode.
        batch: what :func:`image_prompt` gave.
        max_generated_tokens: at most as many tokens.
        use_cache: keep keys and values, which are otherwise computed again for each token, the images' too.
        **options: ``temperature``, ``top_k``, ``stop_tokens`` and ``rng`` of :func:`generate`.
    """
    from torchtune.modules.common_utils import local_kv_cache

    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    batch = _moved(batch, device, dtype)
    tokens, mask = batch["tokens"], batch.get("encoder_mask")

    def answer() -> list[int]:
        padding = torch.ones_like(tokens, dtype=torch.bool)
        output, _ = generate(
            _Seeing(model, batch),  # type: ignore[arg-type]
            tokens,
            max_generated_tokens=max_generated_tokens,
            padding_mask=padding,
            return_logits=False,
            **options,
        )
        return output[0, tokens.shape[1] :].tolist()

    if not use_cache:
        return answer()
    sizes = {"encoder_max_seq_len": 1 if mask is None else mask.shape[-1]}
    sizes["decoder_max_seq_len"] = tokens.shape[1] + max_generated_tokens
    with local_kv_cache(model, batch_size=1, device=device, dtype=dtype, **sizes):
        return answer()


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Tensors on a device, floating ones in a dtype, however deep."""
    if isinstance(value, dict):
        return {key: _moved(part, device, dtype) for key, part in value.items()}
    return value.to(device, dtype if value.is_floating_point() else None)
