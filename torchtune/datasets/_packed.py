"""Several samples in one sequence of fixed length."""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from torchtune.data._common import CROSS_ENTROPY_IGNORE_IDX

if TYPE_CHECKING:
    from collections.abc import Iterable

Packing = Literal["in_order", "best_fit"]


class PackedDataset(Dataset):
    """A dataset whose samples are packed ahead of time into sequences of ``max_seq_len`` tokens.

    Tokens and labels lie one after another in two arrays of int32; a pack is a list of stretches of them, and
    positions and lengths are computed when it is asked for. Samples without tokens are left out.

    Args:
        ds: dataset whose samples have ``tokens`` and ``labels``.
        max_seq_len: number of tokens in a pack.
        padding_idx: id that fills a pack up.
        max_packs: at most as many packs are made. Default: as many as there are.
        split_across_pack: True fills every pack and cuts the last sample, whose rest begins the next pack; positions
            go on there. False moves a sample that does not fit to the next pack.
        packing: ``"in_order"`` keeps the order of the samples; ``"best_fit"`` puts each into the pack that it fills
            best, longest first, so that fewer packs are needed.

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
        # A pack is the stretches _stretches[_packs[i]:_packs[i + 1]], each (first token, one past the last, first
        # token of its sample).
        self._stretches = array("q")
        self._packs = array("q", [0])
        tokens, labels = array("i"), array("i")
        if packing == "in_order":
            self._pack_in_order(tokens, labels)
        else:
            self._pack_best_fit(tokens, labels)
        self._tokens = np.frombuffer(tokens, dtype=np.int32) if tokens else np.empty(0, np.int32)
        self._labels = np.frombuffer(labels, dtype=np.int32) if labels else np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self._packs) - 1

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        """A pack: ``tokens``, ``labels`` and ``input_pos`` ``[max_seq_len]``, and ``seq_lens``, the padding counted last.

        Positions start at 0 with each sample; those of padding go on from the last sample, to the last position.
        """
        index = range(len(self))[idx]
        size = self.max_seq_len
        tokens = np.full(size, self.padding_idx, dtype=np.int64)
        labels = np.full(size, CROSS_ENTROPY_IGNORE_IDX, dtype=np.int64)
        positions = np.empty(size, dtype=np.int64)
        lengths, at = [], 0
        for stretch in range(self._packs[index], self._packs[index + 1]):
            start, stop, first = self._stretches[3 * stretch : 3 * stretch + 3]
            end = at + stop - start
            tokens[at:end] = self._tokens[start:stop]
            labels[at:end] = self._labels[start:stop]
            positions[at:end] = np.arange(start - first, stop - first) % size
            lengths.append(stop - start)
            at = end
        if at < size:
            after = positions[at - 1] + 1
            positions[at:] = np.minimum(np.arange(after, after + size - at), size - 1)
            lengths.append(size - at)
        return {
            "tokens": torch.from_numpy(tokens),
            "labels": torch.from_numpy(labels),
            "input_pos": torch.from_numpy(positions),
            "seq_lens": torch.tensor(lengths, dtype=torch.long),
        }

    def _samples(self, tokens: array[int], labels: array[int]) -> Iterable[tuple[int, int]]:
        """Store the samples one by one, and give where each one's tokens start and stop."""
        samples: Any = self.ds
        if hasattr(samples, "__len__"):
            samples = (self.ds[i] for i in range(len(self.ds)))  # type: ignore[arg-type]
        for number, sample in enumerate(_with_progress(samples, self.ds)):
            length = len(sample["tokens"])
            if length == 0:
                continue
            if length > self.max_seq_len and not self.split_across_pack:
                raise ValueError(
                    f"Dataset sample is too long ({length} > {self.max_seq_len}): sample {number}. "
                    "Set split_across_pack=True, a smaller max_seq_len on the tokenizer, or a larger one here"
                )
            if len(sample["labels"]) != length:
                raise ValueError(f"Sample {number} has {length} tokens but {len(sample['labels'])} labels")
            start = len(tokens)
            tokens.extend(sample["tokens"])
            labels.extend(sample["labels"])
            yield start, len(tokens)

    def _full(self) -> bool:
        return self.max_packs is not None and len(self) >= self.max_packs

    def _close_pack(self) -> None:
        self._packs.append(len(self._stretches) // 3)

    def _pack_in_order(self, tokens: array[int], labels: array[int]) -> None:
        room = self.max_seq_len
        for start, stop in self._samples(tokens, labels):
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

    def _pack_best_fit(self, tokens: array[int], labels: array[int]) -> None:
        spans = list(self._samples(tokens, labels))
        packs: list[list[int]] = []
        # For each free length the packs that have it, and a bit mask of the lengths that any pack has.
        with_room: dict[int, list[int]] = {}
        rooms = 0
        for sample in sorted(range(len(spans)), key=lambda i: spans[i][0] - spans[i][1]):
            length = spans[sample][1] - spans[sample][0]
            enough = rooms >> length
            if enough:
                room = length + (enough & -enough).bit_length() - 1
                pack = with_room[room].pop()
                if not with_room[room]:
                    rooms &= ~(1 << room)
            else:
                room, pack = self.max_seq_len, len(packs)
                packs.append([])
            packs[pack].append(sample)
            with_room.setdefault(room - length, []).append(pack)
            if room > length:
                rooms |= 1 << (room - length)
        # Packs in the order of their first samples, so that shuffled data stays shuffled by length.
        for members in sorted(sorted(pack) for pack in packs):
            if self._full():
                return
            for sample in members:
                self._stretches.extend((*spans[sample], spans[sample][0]))
            self._close_pack()


def _with_progress(samples: Any, ds: Any) -> Any:
    """The samples, with a progress bar on the first rank of a terminal."""
    from tqdm import tqdm

    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    hidden = not sys.stderr.isatty() or (distributed and torch.distributed.get_rank() != 0)
    total = len(ds) if hasattr(ds, "__len__") else None
    return tqdm(samples, total=total, desc="Packing dataset", dynamic_ncols=True, disable=hidden)
