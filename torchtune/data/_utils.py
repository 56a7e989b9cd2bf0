"""Small helpers of the data package: truncation, images, and data loading with ``torchdata.nodes``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from torchtune.data._tools import read_tools
from torchtune.utils._paths import inside

if TYPE_CHECKING:
    import PIL.Image
    import torch
    from torchdata.nodes import BaseNode, Loader

_REMOTE_SCHEMES = ("http", "https", "ftp", "data")
#: Limits of an image that is fetched.
MAX_IMAGE_BYTES, MAX_IMAGE_SECONDS = 64 * 2**20, 60.0


def truncate(
    tokens: list[Any], max_seq_len: int, eos_id: Any | None = None, truncation_type: str = "right"
) -> list[Any]:
    """At most ``max_seq_len`` items of a list.

    Args:
        tokens: token ids, or anything that goes with them one by one, such as a mask.
        max_seq_len: how many items to keep at most.
        eos_id: if given, the last item becomes this one, even where nothing was cut.
        truncation_type: ``right`` keeps the start of the list, ``left`` its end.

    Returns:
        A new list.

    Raises:
        ValueError: if ``truncation_type`` is another one.
    """
    if truncation_type not in ("left", "right"):
        raise ValueError(f"truncation_type must be 'left' or 'right', but found {truncation_type!r}")
    kept = tokens[:max_seq_len] if truncation_type == "right" else tokens[max(len(tokens) - max_seq_len, 0) :]
    if eos_id is not None and kept:
        kept = [*kept[:-1], eos_id]
    return kept


def format_content_with_images(content: str, *, image_tag: str, images: list[PIL.Image.Image]) -> list[dict[str, Any]]:
    """Text with image tags as a list of parts, each tag replaced by the next image.

    Args:
        content: the text.
        image_tag: what stands where an image goes.
        images: the images, in the order of the tags.

    Returns:
        Parts ``{"type": "text" | "image", "content": ...}``, in order; empty texts are left out.

    Raises:
        ValueError: if there are more or fewer tags than images.
    """
    texts = content.split(image_tag)
    if len(texts) - 1 != len(images):
        raise ValueError(
            f"Number of images ({len(images)}) does not match number of image tags ({len(texts) - 1}) "
            f"of {image_tag!r} in: {content[:200]!r}"
        )
    parts: list[dict[str, Any]] = []
    for i, text in enumerate(texts):
        if i > 0:
            parts.append({"type": "image", "content": images[i - 1]})
        if text:
            parts.append({"type": "text", "content": text})
    return parts


def load_image(image_loc: Path | str) -> torch.Tensor:
    """An image file as a tensor.

    Args:
        image_loc: a path, or a URL (``http``, ``https``, ``ftp``, ``data``).

    Returns:
        RGB values, uint8, ``[3, h, w]``.

    Raises:
        ValueError: if the image cannot be fetched, within 60 seconds and 64 MiB, or cannot be decoded.
    """
    remote = _scheme(image_loc) in _REMOTE_SCHEMES
    try:
        return _decode(_fetch(str(image_loc)) if remote else Path(image_loc).read_bytes())
    except ImportError:
        raise
    except Exception as error:
        kind = "remote" if remote else "local"
        raise ValueError(f"Failed to load {kind} image as torch.Tensor: {str(image_loc)[:200]}: {error}") from error


def row_image(image: Any, image_dir: str | Path | None = None, image_urls: bool = False) -> Any:
    """An image of a row: loaded if the row has its path, URL or file, else as it stands."""
    if isinstance(image, Mapping) and image.keys() <= {"bytes", "path"} and any(image.values()):
        if image.get("bytes") is None:  # so `datasets` keeps images in Parquet: a file, or where it is
            return row_image(image["path"], image_dir, image_urls)
        try:
            return _decode(image["bytes"])
        except ImportError:
            raise
        except Exception as error:
            raise ValueError(f"The row's image {image.get('path') or ''} can't be decoded: {error}") from error
    if not isinstance(image, (str, Path)):
        return image
    scheme = _scheme(image)
    if scheme in _REMOTE_SCHEMES:
        if scheme != "data" and not image_urls:
            raise ValueError(
                f"The row's image is at {str(image)[:200]}; images are fetched from the network only with image_urls=True"
            )
        return load_image(image)
    return load_image(image if image_dir is None else inside(image_dir, image, "The row's image"))


def _scheme(image: Path | str) -> str:
    try:
        return urlsplit(image[:64]).scheme if isinstance(image, str) else ""
    except ValueError:  # a path with brackets
        return ""


def _fetch(url: str) -> bytes:
    from urllib.request import urlopen

    ends, data = time.monotonic() + MAX_IMAGE_SECONDS, bytearray()
    with urlopen(url, timeout=MAX_IMAGE_SECONDS) as response:
        while chunk := response.read(1 << 16):
            data += chunk
            if len(data) > MAX_IMAGE_BYTES:
                raise ValueError(f"it is larger than {MAX_IMAGE_BYTES >> 20} MiB")
            if time.monotonic() > ends:
                raise ValueError(f"it took longer than {MAX_IMAGE_SECONDS:.0f} s")
    return bytes(data)


def _decode(data: bytes) -> torch.Tensor:
    import io

    import numpy as np
    import torch

    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Images need pillow: pip install 'torchtune[vision]'") from error
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def read_tools_option(tools: Any) -> list[dict[str, Any]]:
    """Tools given in a config: a list, a JSON text, or the path of a JSON file; a ValueError or FileNotFoundError if they are not."""
    if isinstance(tools, os.PathLike) or (isinstance(tools, str) and not tools.lstrip().startswith(("[", "{"))):
        path = Path(tools).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"tools: there is no file {path} (working directory: {Path.cwd()})")
        try:
            return read_tools(json.loads(path.read_text(encoding="utf-8-sig")), path.name)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}: not JSON: {error}") from error
    if type(tools).__module__.startswith("omegaconf"):
        from omegaconf import OmegaConf

        tools = OmegaConf.to_container(tools, resolve=True)
    return read_tools(tools)


def load_hf_dataset(
    source: str,
    transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    filter_fn: Callable[[Any], bool] | None = None,
    shuffle: bool = True,
    seed: int = 0,
    num_workers: int = 0,
    parallel_method: Literal["process", "thread"] = "thread",
    streaming: bool = False,
    **load_dataset_kwargs: Any,
) -> BaseNode[Mapping[str, Any]]:
    """A data set of the hub or of files as a ``torchdata`` node that gives this rank's rows, transformed.

    Args:
        source: what ``datasets.load_dataset`` takes as its path.
        transform: applied to each row.
        filter_fn: rows for which it is False are left out.
        shuffle: whether to shuffle.
        seed: of the shuffle.
        num_workers: workers that run ``transform``; 0 runs it in place.
        parallel_method: ``thread`` or ``process`` workers.
        streaming: read rows as they are needed.
        load_dataset_kwargs: passed to ``datasets.load_dataset``.
    """
    from datasets import load_dataset
    from datasets.distributed import split_dataset_by_node
    from torch.utils.data import RandomSampler, SequentialSampler
    from torchdata.nodes import IterableWrapper, MapStyleWrapper, ParallelMapper

    rows = load_dataset(source, streaming=streaming, **load_dataset_kwargs)
    if filter_fn is not None:
        rows = rows.filter(filter_fn)
    if streaming and shuffle:
        rows = rows.shuffle(seed=seed)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    rows = split_dataset_by_node(rows, rank=rank, world_size=world_size)
    node: BaseNode[Any]
    if streaming:
        node = IterableWrapper(rows)
    else:
        import torch

        generator = torch.Generator().manual_seed(seed)
        node = MapStyleWrapper(rows, RandomSampler(rows, generator=generator) if shuffle else SequentialSampler(rows))
    return ParallelMapper(node, map_fn=transform, num_workers=num_workers, method=parallel_method)


def get_multi_dataset(
    datasets: dict[str, BaseNode[Mapping[str, Any]]],
    weights: dict[str, float],
    stop_criteria: str = "CYCLE_UNTIL_ALL_DATASETS_EXHASTED",
    seed: int = 0,
) -> BaseNode[Mapping[str, Any]]:
    """A ``torchdata`` node that mixes data sets by weight.

    Args:
        datasets: nodes by name.
        weights: how often each is drawn from, by the same names.
        stop_criteria: one of ``torchdata.nodes.StopCriteria``.
        seed: of the draws.
    """
    from torchdata.nodes import MultiNodeWeightedSampler

    return MultiNodeWeightedSampler(datasets, weights, stop_criteria=stop_criteria, seed=seed)


def get_dataloader(
    dataset: BaseNode[Mapping[str, Any]],
    model_transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    batch_size: int,
    collate_fn: Callable[[Any], Any] | None = None,
    drop_last: bool = True,
    num_workers: int = 0,
    parallel_method: Literal["process", "thread"] = "thread",
    prefetch_factor: int | None = 4,
    pin_memory: bool = False,
) -> Loader:
    """Batches of a ``torchdata`` node, tokenized and collated.

    Args:
        dataset: gives samples with messages.
        model_transform: the tokenizer, as a transform.
        batch_size: samples in a batch.
        collate_fn: from a list of samples to a batch; None leaves the list.
        drop_last: leave out a last batch that is not full.
        num_workers: workers that tokenize; 0 does it in place.
        parallel_method: ``thread`` or ``process`` workers.
        prefetch_factor: batches made ahead; None or 0 makes none.
        pin_memory: copy batches to pinned memory.

    Returns:
        An iterable of batches, with ``state_dict`` and ``load_state_dict``.
    """
    from torchdata.nodes import Batcher, Loader, Mapper, ParallelMapper, PinMemory, Prefetcher

    node: BaseNode[Any] = ParallelMapper(
        dataset, map_fn=model_transform, num_workers=num_workers, method=parallel_method
    )
    node = Batcher(node, batch_size, drop_last=drop_last)
    if collate_fn is not None:
        node = Mapper(node, collate_fn)
    if pin_memory:
        node = PinMemory(node)
    if prefetch_factor:
        node = Prefetcher(node, prefetch_factor)
    return Loader(node)
