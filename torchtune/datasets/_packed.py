"""Several samples in one sequence of fixed length."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from torchtune.data._common import CROSS_ENTROPY_IGNORE_IDX
from torchtune.datasets._token_store import Arrays, Mapped, Store, cached_tokens

if TYPE_CHECKING:
    from torchtune.datasets._streaming import Stream

Packing = Literal["in_order", "best_fit"]


class PackedDataset(Dataset):
    """A dataset whose samples are packed ahead of time into sequences of ``max_seq_len`` tokens.

    Tokens and labels lie one after another in two arrays of int32; a pack is a list of stretches of them, and
    positions and lengths are computed when it is asked for. Samples without tokens are left out.

    Args:
        ds: dataset whose samples have ``tokens`` and ``labels``, and maybe ``loss_weights``.
        max_seq_len: number of tokens in a pack.
        padding_idx: id that fills a pack up.
        max_packs: at most as many packs are made. Default: as many as there are.
        split_across_pack: True fills every pack and cuts the last sample, whose rest begins the next pack; positions
            go on there. False moves a sample that does not fit to the next pack.
        packing: ``"in_order"`` keeps the order of the samples; ``"best_fit"`` puts each into the pack that it fills
            best, longest first, so that fewer packs are needed.
        cache_dir: folder that tokens and labels are written to, and read from as memory-mapped files, by later runs too.
            It is written anew if the dataset has another length, or gives other tokens for some samples that are tried.
        num_workers: processes that make samples; 0 makes them in this one.
        progress: whether a terminal shows a progress bar.

    Raises:
        ValueError: if a sample is longer than a pack and may not be split, if its tokens and labels differ in number,
            or if the options contradict each other.
    """

    #: Batches of it are collated as packs.
    packed = True

    def __init__(
        self,
        ds: Dataset[Any],
        *,
        max_seq_len: int,
        padding_idx: int = 0,
        max_packs: int | None = None,
        split_across_pack: bool = False,
        packing: Packing = "in_order",
        cache_dir: str | os.PathLike[str] | None = None,
        num_workers: int = 0,
        progress: bool = True,
    ) -> None:
        if packing not in ("in_order", "best_fit"):
            raise ValueError(f"packing must be 'in_order' or 'best_fit', but is {packing!r}")
        if packing == "best_fit" and split_across_pack:
            raise ValueError("packing='best_fit' keeps samples whole: it cannot be used with split_across_pack=True")
        self.ds = ds
        self.max_seq_len = max_seq_len
        self.padding_idx = padding_idx
        self.max_packs = max_packs
        self.split_across_pack = split_across_pack
        self.packing = packing
        self._progress = progress
        # A pack is the stretches _stretches[_packs[i]:_packs[i + 1]], each (first token, one past the last, first
        # token of its sample).
        self._stretches = array("q")
        self._packs = array("q", [0])
        store: Arrays | Mapped
        spans: Iterable[tuple[int, int]]
        if cache_dir is None:
            store = Arrays()
            spans = self._spans(store, num_workers)
        else:
            store = cached_tokens(ds, cache_dir, lambda into: self._read(into, num_workers))
            spans = store.spans()
        if packing == "in_order":
            self._pack_in_order(spans)
        else:
            self._pack_best_fit(spans)
        self._tokens, self._labels, weights = store.arrays
        self._weights: np.ndarray | None = weights

    def __len__(self) -> int:
        return len(self._packs) - 1

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        """A pack: ``tokens``, ``labels`` and ``input_pos`` ``[max_seq_len]``, and ``seq_lens``, the padding counted last.

        Where samples have loss weights, ``loss_weights`` ``[max_seq_len]`` too, 0 on padding.
        Positions start at 0 with each sample; those of padding go on from the last sample, to the last position.
        """
        index = range(len(self))[idx]
        size = self.max_seq_len
        tokens = np.full(size, self.padding_idx, dtype=np.int64)
        labels = np.full(size, CROSS_ENTROPY_IGNORE_IDX, dtype=np.int64)
        positions = np.empty(size, dtype=np.int64)
        weights = None if self._weights is None else np.zeros(size, dtype=np.float32)
        lengths, at = [], 0
        for stretch in range(self._packs[index], self._packs[index + 1]):
            start, stop, first = self._stretches[3 * stretch : 3 * stretch + 3]
            end = at + stop - start
            tokens[at:end] = self._tokens[start:stop]
            labels[at:end] = self._labels[start:stop]
            if weights is not None:
                weights[at:end] = self._weights[start:stop]  # type: ignore[index]
            positions[at:end] = np.arange(start - first, stop - first) % size
            lengths.append(stop - start)
            at = end
        if at < size:
            after = positions[at - 1] + 1
            positions[at:] = np.minimum(np.arange(after, after + size - at), size - 1)
            lengths.append(size - at)
        given = {} if weights is None else {"loss_weights": torch.from_numpy(weights)}
        return given | {
            "tokens": torch.from_numpy(tokens),
            "labels": torch.from_numpy(labels),
            "input_pos": torch.from_numpy(positions),
            "seq_lens": torch.tensor(lengths, dtype=torch.long),
        }

    def _read(self, store: Store, num_workers: int) -> None:
        for _ in self._spans(store, num_workers):
            pass

    def _spans(self, store: Store, num_workers: int) -> Iterator[tuple[int, int]]:
        """Stores the samples one by one, and gives where each one's tokens start and stop."""
        for number, sample in enumerate(_with_progress(_samples(self.ds, num_workers), self.ds, self._progress)):
            tokens, labels = sample["tokens"], sample["labels"]
            length = len(tokens)
            if length == 0:
                continue
            if length > self.max_seq_len and not self.split_across_pack:
                raise ValueError(
                    f"Dataset sample is too long ({length} > {self.max_seq_len}): sample {number}. "
                    "Set split_across_pack=True, a smaller max_seq_len on the tokenizer, or a larger one here"
                )
            if len(labels) != length:
                raise ValueError(f"Sample {number} has {length} tokens but {len(labels)} labels")
            yield store.add(tokens, labels, sample.get("loss_weights"))

    def _full(self) -> bool:
        return self.max_packs is not None and len(self) >= self.max_packs

    def _close_pack(self) -> None:
        self._packs.append(len(self._stretches) // 3)

    def _pack_in_order(self, spans: Iterable[tuple[int, int]]) -> None:
        room = self.max_seq_len
        for start, stop in spans:
            first = start
            # Closed only when the next sample comes, as the last pack may be filled to the brim.
            while stop - start > room and not self._full():
                if self.split_across_pack and room:
                    self._stretches.extend((start, start + room, first))
                    start += room
                self._close_pack()
                room = self.max_seq_len
            if self._full():
                return
            self._stretches.extend((start, stop, first))
            room -= stop - start
        if room < self.max_seq_len and not self._full():
            self._close_pack()

    def _pack_best_fit(self, spans: Iterable[tuple[int, int]]) -> None:
        ends = np.fromiter((stop for _, stop in spans), np.int64)
        lengths = np.diff(ends, prepend=0)
        if len(lengths) and lengths.max() > self.max_seq_len:
            raise ValueError(f"Dataset sample is too long ({lengths.max()} > {self.max_seq_len})")
        members, packs = best_fit(lengths, self.max_seq_len)
        packs = packs if self.max_packs is None else packs[: self.max_packs + 1]
        members = members[: packs[-1]]
        stretches = np.stack([ends - lengths, ends, ends - lengths], axis=1)[members]
        self._stretches.frombytes(stretches.tobytes())
        self._packs = array("q", packs.tobytes())


def best_fit(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples of all packs in order, longest first each into the one it fills best, and where in them each pack begins.

    Packs come in the order of their first samples, so that shuffled data stays shuffled by length.
    """
    pack_of = np.zeros(len(lengths), np.int64)
    # For each free length the packs that have it, and a bit mask of the lengths that any pack has.
    with_room: list[list[int]] = [[] for _ in range(size)]
    rooms = count = 0
    order = np.argsort(-lengths, kind="stable")
    for sample, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            pack = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, pack = size, count
            count += 1
        pack_of[sample] = pack
        room -= length
        if room:
            if not with_room[room]:
                rooms |= 1 << room
            with_room[room].append(pack)
    first = np.full(count, len(lengths))
    np.minimum.at(first, pack_of, np.arange(len(lengths)))
    keys = first[pack_of]
    members = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[members], prepend=-1))
    return members, np.append(starts, len(lengths))


class PackedStream(IterableDataset):
    """Packs of a stream's samples, made while it is read.

    Samples are gathered until they would fill ``buffer_packs`` packs, packed among each other, and given out; memory is
    bounded by that. Its state is the stream's at the start of those, and how many packs of them were given. Ranks pack
    what is theirs, so their states differ: each rank must keep its own. See :class:`PackedDataset` for the packs.

    Args:
        stream: a dataset that gives samples with ``tokens`` and ``labels``, in an order that can be taken up again.
        buffer_packs: packs' worth of samples that are packed together.

    Raises:
        ValueError: as :class:`PackedDataset` raises.
    """

    packed = True

    def __init__(
        self,
        stream: Stream,
        *,
        max_seq_len: int,
        padding_idx: int = 0,
        split_across_pack: bool = False,
        packing: Packing = "best_fit",
        buffer_packs: int = 256,
    ) -> None:
        self.stream, self.max_seq_len, self.buffer_packs = stream, max_seq_len, buffer_packs
        self._options: dict[str, Any] = {
            "max_seq_len": max_seq_len,
            "padding_idx": padding_idx,
            "split_across_pack": split_across_pack,
            "packing": packing,
            "progress": False,
        }
        PackedDataset([], **self._options)  # type: ignore[arg-type]
        self._state: dict[str, Any] | None = None
        self._resumed: dict[str, Any] | None = None

    @property
    def weight(self) -> float:
        """Share of an interleaved dataset."""
        return self.stream.weight

    @property
    def repeat(self) -> bool:
        """Whether it never ends."""
        return bool(getattr(self.stream, "repeat", False))

    def joined_with(self, stream: Stream) -> PackedStream:
        """Packs of another stream, with the same options.

        Args:
            stream: where the other rows come from.

        Returns:
            A new packed stream; this one stays as it is.
        """
        options = {name: value for name, value in self._options.items() if name != "progress"}
        return PackedStream(stream, buffer_packs=self.buffer_packs, **options)

    def split(self, num_replicas: int, rank: int) -> None:
        """Which share of the rows this process gets, from the next iteration on.

        Args:
            num_replicas: processes that share the rows.
            rank: number of this one, from 0.
        """
        self.stream.split(num_replicas, rank)

    def order(self, shuffle: bool, seed: int) -> None:
        """Whether rows are shuffled, and by which seed; from the next iteration on.

        Args:
            shuffle: whether rows are shuffled.
            seed: the same on all ranks.
        """
        self.stream.order(shuffle, seed)

    def set_epoch(self, epoch: int) -> None:
        """Use the order of another epoch, from the next iteration on.

        Args:
            epoch: number of the epoch, from 0.
        """
        self.stream.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands: plain values."""
        return dict(self._resumed or self._state or {"stream": self.stream.state_dict(), "packs": 0})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next iteration with the pack after those that another had given.

        Args:
            state_dict: what :meth:`state_dict` returned.
        """
        self._resumed = dict(state_dict)
        self.stream.load_state_dict(state_dict["stream"])

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        # What another iteration had come to, one left in the middle of an epoch too, is nothing to this one.
        self._state, self._resumed = self._resumed, None
        skip = 0 if self._state is None else self._state["packs"]
        start = self.stream.begin() if self._state is None else self._state["stream"]
        samples, tokens = [], 0
        rows = iter(self.stream)
        ended = False
        while not ended:
            sample = next(rows, None)
            ended = sample is None
            if sample is not None:
                samples += _as_arrays([sample])
                tokens += len(sample["tokens"])
            if ended or tokens >= self.buffer_packs * self.max_seq_len:
                packs = PackedDataset(samples, **self._options)  # type: ignore[arg-type]
                after = self.stream.state_dict()
                for number in range(skip, len(packs)):
                    self._state = {"stream": start, "packs": number + 1}
                    yield packs[number]
                samples, tokens, skip, start = [], 0, 0, after
        self._state = None


def _samples(ds: Any, num_workers: int) -> Iterable[Any]:
    """The samples of a dataset, in order, made by as many processes."""
    if not hasattr(ds, "__len__"):
        return ds
    if num_workers < 1:
        return (ds[i] for i in range(len(ds)))
    loader: Any = torch.utils.data.DataLoader(ds, batch_size=64, num_workers=num_workers, collate_fn=_as_arrays)
    return (sample for batch in loader for sample in batch)


def _as_arrays(samples: list[Any]) -> list[dict[str, np.ndarray]]:
    """Samples small enough to be sent from process to process."""
    kinds = (("tokens", np.int32), ("labels", np.int32), ("loss_weights", np.float32))
    return [{key: np.asarray(sample[key], kind) for key, kind in kinds if key in sample} for sample in samples]


def _with_progress(samples: Any, ds: Any, progress: bool) -> Any:
    """The samples, with a progress bar on the first rank of a terminal."""
    if not progress or not sys.stderr.isatty():
        return samples
    from tqdm import tqdm

    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    hidden = distributed and torch.distributed.get_rank() != 0
    total = len(ds) if hasattr(ds, "__len__") else None
    return tqdm(samples, total=total, desc="Packing dataset", dynamic_ncols=True, disable=hidden)
