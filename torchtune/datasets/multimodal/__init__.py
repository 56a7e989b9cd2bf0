"""Conversations with images."""

from torchtune.datasets.multimodal._multimodal import (
    llava_instruct_dataset,
    multimodal_chat_dataset,
    the_cauldron_dataset,
    the_cauldron_transform,
    vqa_dataset,
)

__all__ = [
    "llava_instruct_dataset",
    "multimodal_chat_dataset",
    "the_cauldron_dataset",
    "the_cauldron_transform",
    "vqa_dataset",
]
