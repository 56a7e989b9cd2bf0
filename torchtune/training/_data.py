"""Reading data evenly over ranks, from a position that can be saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sized
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import Dataset, IterableDataset, Sampler

from torchtune.training._distributed import gathered, get_world_size_and_rank

if TYPE_CHECKING:
    from torchdata.stateful_dataloader import StatefulDataLoader

_log = logging.getLogger("torchtune")
#: Index of a row that only fills up the last batches of ranks that would have fewer.
FILLER = -1
_IGNORE_INDEX = -100


class ResumableSampler(Sampler[int]):
    """Indices of one rank's rows, in an order that depends on seed and epoch alone, from any position.

    Rows are dealt out to the ranks in turn, so that ``n`` ranks with batch size ``b`` see in each step the same rows as one
    process with batch size ``n * b``.

    Args:
        dataset: something with a length.
        num_replicas: number of ranks that share the data.
        rank: number of this one.
        shuffle: draw a new order each epoch; else in order.
        seed: seed of the orders, the same on all ranks.
        drop_last: leave out rows at the end that don't go round; else ranks that lack one get :data:`FILLER`.

    Raises:
        ValueError: if there are fewer rows than ranks and ``drop_last`` is set, or none at all.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        rows = len(dataset)
        if rows == 0 or (drop_last and rows < num_replicas):
            raise ValueError(f"The dataset has {rows} rows for {num_replicas} rank(s); each rank needs at least one")
        self.rows, self.num_replicas, self.rank = rows, num_replicas, rank
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.epoch = 0
        self._yielded = 0
        self._start = 0

    def set_epoch(self, epoch: int) -> None:
        """Use the order of another epoch, from the next iteration on.

        Args:
            epoch: number of the epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows // self.num_replicas if self.drop_last else -(-self.rows // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        start, self._start = self._start, 0
        self._yielded = start
        order: list[int] | range = range(self.rows)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.rows, generator=generator).tolist()
        for position in range(start, len(self)):
            self._yielded = position + 1
            index = position * self.num_replicas + self.rank
            yield order[index] if index < self.rows else FILLER

    def state_dict(self) -> dict[str, int]:
        """The position, counted over all ranks, and of how many rows."""
        return {"epoch": self.epoch, "rows_read": self._yielded * self.num_replicas, "rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next iteration at a position, also one that another number of ranks had reached.

        Args:
            state_dict: what :meth:`state_dict` returned, on any rank.
        """
        self.epoch = state_dict["epoch"]
        self._start = state_dict["rows_read"] // self.num_replicas
        if (rows := state_dict.get("rows", self.rows)) != self.rows:
            _log.warning(
                "The run that is resumed had %d rows, now there are %d: the rest of this epoch has another order, in which "
                "some rows come again and others don't come",
                rows,
                self.rows,
            )


class _Numbered(Dataset):
    """Rows with their numbers."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return index, self.dataset[index]


class _Filled(_Numbered):
    """A dataset whose row :data:`FILLER` is one without anything to train."""

    def __getitem__(self, index: int) -> Any:
        if index != FILLER:
            return self.dataset[index]
        row = dict(self.dataset[0])
        for key in [key for key in row if key.endswith("labels")]:  # preference rows have two
            labels = row[key]
            whole = isinstance(labels, torch.Tensor)
            row[key] = torch.full_like(labels, _IGNORE_INDEX) if whole else [_IGNORE_INDEX] * len(labels)
        return row


def _collate_numbered(rows: list[Any], collate_fn: Callable[[list[Any]], Any]) -> Any:
    """A batch that says which rows are in it."""
    return {**collate_fn([row for _, row in rows]), "rows": [number for number, _ in rows if number != FILLER]}


def build_dataloader(
    dataset: Any,
    *,
    batch_size: int,
    collate_fn: Callable[[list[Any]], Any],
    shuffle: bool = True,
    seed: int = 0,
    num_replicas: int = 1,
    rank: int = 0,
    drop_last: bool = True,
    num_workers: int = 0,
    number_rows: bool = False,
    **kwargs: Any,
) -> StatefulDataLoader:
    """A stateful data loader, with as many batches on every rank; :func:`set_epoch` is called before each epoch.

    Args:
        dataset: rows by index, or an iterable of them. A stream of ``torchtune.datasets`` is told its share of the rows,
            the seed and whether to shuffle; another iterable splits itself.
        batch_size: rows per batch and rank.
        collate_fn: makes a batch of a list of rows.
        shuffle: draw a new order each epoch.
        seed: seed of the orders, the same on all ranks.
        num_replicas: ranks that share the data: those of data parallel, not of tensor or context parallel.
        rank: number of this one among them.
        drop_last: leave out the rows at the end that don't fill a batch on every rank. Else all rows are read; a rank that
            would have fewer gets rows whose labels are all ignored (for validation).
        num_workers: processes that read; 0 reads in this one.
        number_rows: batches, which must be dicts, say under ``rows`` which rows are in them; not for streams.
        **kwargs: for ``StatefulDataLoader``.

    Raises:
        ValueError: if there are too few rows for one batch.
    """
    from torchdata.stateful_dataloader import StatefulDataLoader

    # A generator of its own: the loader draws a seed for its workers, and must not move the model's random numbers by it.
    common = {
        "batch_size": batch_size,
        "collate_fn": collate_fn,
        "drop_last": drop_last,
        "num_workers": num_workers,
        "generator": torch.Generator().manual_seed(seed),
        **kwargs,
    }
    if isinstance(dataset, IterableDataset):
        if hasattr(dataset, "split") and hasattr(dataset, "order"):
            dataset.split(num_replicas, rank)
            dataset.order(shuffle, seed)
        return StatefulDataLoader(dataset, **common)
    sampler = ResumableSampler(dataset, num_replicas, rank, shuffle, seed, drop_last)
    if drop_last and len(sampler) < batch_size:
        raise ValueError(
            f"The dataset's {len(dataset)} rows don't fill one batch of {batch_size} on each of {num_replicas} rank(s). "
            "Lower batch_size, or use more data (packing makes rows fewer)."
        )
    rows = dataset if drop_last else _Filled(dataset)
    if number_rows:
        rows, common["collate_fn"] = _Numbered(rows), partial(_collate_numbered, collate_fn=collate_fn)
    return StatefulDataLoader(rows, sampler=sampler, **common)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell a loader's sampler, or its dataset, which epoch comes next.

    Args:
        loader: what :func:`build_dataloader` gave.
        epoch: number of the epoch, from 0.
    """
    parts: list[Any] = [getattr(loader, "sampler", None), getattr(loader, "dataset", None)]
    for part in parts:
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
            return


def steps_per_epoch(loader: Any, accumulation_steps: int = 1, max_steps: int | None = None) -> int:
    """Number of optimizer steps in an epoch; the last may have fewer batches.

    Args:
        loader: what :func:`build_dataloader` gives.
        accumulation_steps: batches in a step.
        max_steps: the config's ``max_steps_per_epoch``; None or 0: no limit.

    Raises:
        ValueError: if there is no limit and the data is a stream, which has no length.
    """
    if isinstance(loader.dataset, IterableDataset) and not hasattr(loader.dataset, "__len__"):
        if not max_steps:
            raise ValueError(
                "max_steps_per_epoch is not set, but the dataset is a stream, which has no length: set "
                "max_steps_per_epoch to the number of optimizer steps in an epoch, or streaming: false"
            )
        return max_steps
    steps = -(-len(loader) // accumulation_steps)
    return min(steps, max_steps) if max_steps else steps


def check_validation_ends(loader: Any, max_batches: int | None) -> None:
    """Holds that validation data ends.

    Args:
        loader: the validation loader; None if there is none.
        max_batches: the config's ``run_val_max_batches``.

    Raises:
        ValueError: if it is a stream that repeats, and nothing limits it.
    """
    if loader is not None and max_batches is None and getattr(loader.dataset, "repeat", False):
        raise ValueError(
            "dataset_val is a stream that starts over at its end: set run_val_max_batches, or repeat: false in dataset_val"
        )


def loader_state(loader: Any) -> dict[str, Any]:
    """A loader's state for a checkpoint that one rank writes and :func:`load_loader_state` reads. Call it on all ranks.

    Args:
        loader: what :func:`build_dataloader` gave.
    """
    state = loader.state_dict()
    if not isinstance(loader.dataset, IterableDataset) or not (dist.is_available() and dist.is_initialized()):
        return state
    return {"ranks": gathered(state)}


def load_loader_state(loader: Any, state: dict[str, Any]) -> None:
    """Sets a loader to a state of :func:`loader_state`, the one of this rank where there is one for each.

    Args:
        loader: what :func:`build_dataloader` gave.
        state: what :func:`loader_state` gave.

    Raises:
        ValueError: if a packed stream had another number of ranks, or a stream another number of workers, or the state is
            one of a stream and the data is none, or the other way round.
    """
    if "ranks" in state:
        states = state["ranks"]
        ranks, rank = get_world_size_and_rank()
        if ranks != len(states) and getattr(loader.dataset, "packed", False):
            raise ValueError(
                f"The run that is resumed packed a stream on {len(states)} rank(s), and this one has {ranks}: resume with "
                "as many, or from the end of an epoch"
            )
        state = states[rank if ranks == len(states) else 0]
    main = state["_snapshot"]["_main_snapshot"] if "_snapshot" in state else state
    place, workers = main.get("_sampler_iter_state") or {}, main.get("_num_workers", 0)
    streams, streamed = isinstance(loader.dataset, IterableDataset), "sampler_state" not in place
    if place and streams != streamed:
        kinds = ("rows by number", "a stream")
        raise ValueError(
            f"The run that is resumed read {kinds[streamed]}, this config has {kinds[streams]}: set streaming: "
            f"{str(streamed).lower()}, or resume from the end of an epoch"
        )
    if place and workers != loader.num_workers:
        if streams:
            raise ValueError(
                f"The run that is resumed read a stream with num_workers: {workers}, this config has {loader.num_workers}: "
                "resume with as many, or from the end of an epoch"
            )
        loader.sampler.load_state_dict(place["sampler_state"])
        return
    loader.load_state_dict(state)


def with_one_dataset(cfg: DictConfig) -> DictConfig:
    """A config of several ``datasets`` as one whose ``dataset`` is a list of streams, interleaved by their weights.

    Args:
        cfg: a recipe's config. An entry of ``datasets`` has ``source``, ``transform`` (of a row to messages), ``weight``,
            ``subset`` and other arguments of ``datasets.load_dataset``; ``dataloader`` has ``shuffle``, ``collate_fn``,
            ``packed`` and options of the loader. Left as it is if it has no ``datasets``.

    Returns:
        A new config; what is left of ``dataloader`` are arguments of :func:`build_dataloader`.

    Raises:
        ValueError: if it has ``dataset`` too, or an entry lacks ``source`` or ``transform``.
    """
    if not cfg.get("datasets") and not cfg.get("dataloader"):
        return cfg
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    loader = dict(cfg.get("dataloader") or {})
    packed = loader.pop("packed", False)
    for key in ("shuffle", "collate_fn"):
        if key in loader:
            cfg[key] = loader.pop(key)
    if loader.pop("parallel_method", "process") == "thread":  # this loader's workers are processes
        loader["num_workers"] = 0
    if not loader.get("num_workers"):
        loader.pop("prefetch_factor", None)
    cfg.dataloader = loader
    sections = []
    for number, entry in enumerate(cfg.pop("datasets", None) or ()):
        part = dict(entry)
        if cfg.get("dataset") is not None or "source" not in part or "transform" not in part:
            raise ValueError(f"datasets[{number}] needs source and transform, and no section dataset beside datasets")
        transform, subset = part.pop("transform"), part.pop("subset", None)
        section = {"_component_": "torchtune.datasets._builders.sft_dataset", "message_transform": transform}
        given = {"name": subset} if subset else {}
        sections.append({**section, "packed": packed, "streaming": True, **given, **part})
    if sections:
        cfg.dataset = sections
    return cfg
