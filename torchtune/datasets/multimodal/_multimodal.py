"""Datasets of conversations with images; the images are loaded by the message transforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.data._message import Message
from torchtune.data._transforms import InputOutputToMessages, ShareGPTToMessages, row_column
from torchtune.data._utils import row_image
from torchtune.datasets._sft import SFTDataset, SFTTransform

if TYPE_CHECKING:
    from torchtune.modules.transforms import Transform


def _dataset(model_transform: Transform, message_transform: Transform, packed: bool, **kwargs: Any) -> SFTDataset:
    if packed:
        raise ValueError("Multimodal datasets don't support packing yet.")
    return SFTDataset(message_transform=message_transform, model_transform=model_transform, **kwargs)


def multimodal_chat_dataset(
    model_transform: Transform,
    *,
    source: str,
    column_map: dict[str, str] | None = None,
    new_system_prompt: str | None = None,
    packed: bool = False,
    image_tag: str | None = None,
    image_dir: str | None = None,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    image_urls: bool = False,
    **load_dataset_kwargs: Any,
) -> SFTDataset:
    """ShareGPT conversations about an image; the answers are trained on.

    See :func:`~torchtune.datasets.chat_dataset` for the rest.

    Args:
        model_transform: the model's transform of messages and images.
        column_map: the rows' names for ``conversations`` and ``image``.
        packed: not supported.
        image_tag: where in the first user message that has it the image goes.

    Returns:
        A dataset of what ``model_transform`` makes of each row, with labels that leave the prompt out.

    Raises:
        ValueError: if ``packed``, or ``image_dir`` is given without an ``image`` in ``column_map``.
    """
    transform = ShareGPTToMessages(
        train_on_input=False,
        column_map=column_map,
        new_system_prompt=new_system_prompt,
        image_dir=Path(image_dir) if image_dir is not None else None,
        image_tag=image_tag,
        image_urls=image_urls,
    )
    return _dataset(
        model_transform, transform, packed, source=source, filter_fn=filter_fn, split=split, **load_dataset_kwargs
    )


def llava_instruct_dataset(
    model_transform: Transform,
    *,
    source: str = "liuhaotian/LLaVA-Instruct-150K",
    image_dir: str = "coco/train2017/",
    column_map: dict[str, str] | None = None,
    new_system_prompt: str | None = None,
    packed: bool = False,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    data_files: str = "llava_instruct_150k.json",
    **load_dataset_kwargs: Any,
) -> SFTDataset:
    """LLaVA-Instruct: conversations about the images of COCO 2017, which must be in ``image_dir``.

    See :func:`multimodal_chat_dataset` for the rest.

    Args:
        data_files: the file of the source to read.
    """
    transform = ShareGPTToMessages(
        train_on_input=False,
        column_map=column_map or {"conversations": "conversations", "image": "image"},
        new_system_prompt=new_system_prompt,
        image_dir=Path(image_dir),
        image_tag="<image>",
    )
    return _dataset(
        model_transform,
        transform,
        packed,
        source=source,
        filter_fn=filter_fn,
        split=split,
        data_files=data_files,
        **load_dataset_kwargs,
    )


def vqa_dataset(
    model_transform: Transform,
    *,
    source: str,
    image_dir: str | None = None,
    column_map: dict[str, str] | None = None,
    new_system_prompt: str | None = None,
    packed: bool = False,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    image_urls: bool = False,
    **load_dataset_kwargs: Any,
) -> SFTDataset:
    """Questions about an image: rows of ``input``, ``output`` and ``image``; the answers are trained on.

    See :func:`multimodal_chat_dataset` for the rest.

    Args:
        column_map: the rows' names for ``input``, ``output`` and ``image``.
        new_system_prompt: a system message to put first.

    Raises:
        ValueError: if ``packed``, or ``image_dir`` is given without an ``image`` in ``column_map``.
    """
    transform = InputOutputToMessages(
        train_on_input=False,
        column_map=column_map,
        new_system_prompt=new_system_prompt,
        image_dir=Path(image_dir) if image_dir is not None else None,
        image_urls=image_urls,
    )
    return _dataset(
        model_transform, transform, packed, source=source, filter_fn=filter_fn, split=split, **load_dataset_kwargs
    )


class TheCauldronToMessages:
    """Rows of The Cauldron: ``images``, and ``texts`` of question and answer (``user``, ``assistant``)."""

    def __init__(
        self,
        column_map: dict[str, str] | None = None,
        new_system_prompt: str | None = None,
        image_urls: bool = False,
    ) -> None:
        self._columns, self._image_urls = column_map or {"images": "images", "texts": "texts"}, image_urls
        self._new_system_prompt = new_system_prompt
        for key in ("images", "texts"):
            if key not in self._columns:
                raise ValueError(f"Expected a key of '{key}' in column_map but found {list(self._columns)}.")

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row's ``messages``; the images stand before the first question. Only answers are trained on."""
        pictures, texts = (row_column(sample, self._columns[key]) for key in ("images", "texts"))
        messages = []
        if self._new_system_prompt is not None:
            messages.append(Message(role="system", content=self._new_system_prompt, masked=True))
        images = [{"type": "image", "content": self._image(image)} for image in pictures]
        for turn in texts:
            question = [*images, {"type": "text", "content": turn["user"]}]
            messages.append(Message(role="user", content=question, masked=True))
            messages.append(Message(role="assistant", content=turn["assistant"]))
            images = []
        return {"messages": messages}

    def _image(self, image: Any) -> Any:
        """A stream of local Parquet files gives an image as its file."""
        return row_image(image, image_urls=self._image_urls) if hasattr(image, "keys") else image


def the_cauldron_transform(
    model_transform: Transform | None = None,
    texts_col: str = "texts",
    images_col: str = "images",
    new_system_prompt: str | None = None,
) -> SFTTransform:
    """The transform of rows of The Cauldron, message and model transform together.

    Args:
        model_transform: the model's transform of messages and images.
        texts_col: the rows' name for the texts.
        images_col: the rows' name for the images.
        new_system_prompt: a system message to put first.
    """
    columns = {"images": images_col, "texts": texts_col}
    return SFTTransform(TheCauldronToMessages(columns, new_system_prompt), model_transform)


def the_cauldron_dataset(
    model_transform: Transform,
    *,
    subset: str = "orcvqa",
    source: str = "HuggingFaceM4/the_cauldron",
    column_map: dict[str, str] | None = None,
    new_system_prompt: str | None = None,
    packed: bool = False,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    image_urls: bool = False,
    **load_dataset_kwargs: Any,
) -> SFTDataset:
    """The Cauldron: fifty datasets of questions about images in one form; see :func:`multimodal_chat_dataset`.

    Args:
        subset: one of its datasets, such as ``"ocrvqa"``.
        column_map: see :class:`TheCauldronToMessages`.
        new_system_prompt: a system message to put first.
    """
    transform = TheCauldronToMessages(column_map, new_system_prompt, image_urls)
    return _dataset(
        model_transform,
        transform,
        packed,
        source=source,
        name=subset,
        filter_fn=filter_fn,
        split=split,
        **load_dataset_kwargs,
    )
