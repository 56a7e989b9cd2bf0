"""Datasets without a length: rows are read while training, in an order that can be taken up again at any row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import IterableDataset

from torchtune.datasets._stream_rows import RowStream, open_source, parse_row

#: Rows that are shuffled among each other, and held in memory, by default.
SHUFFLE_BUFFER = 10_000
#: Rows that are read at a time where they keep their order.
_WINDOW = 256


class _Flow(Protocol):
    """Samples of all ranks, each as something that makes it, so that only its own rank does."""

    def __next__(self) -> Callable[[], Any]: ...

    def state(self) -> dict[str, Any]: ...


class Stream(IterableDataset):
    """What every stream does: it deals its samples out to ranks and workers, and resumes.

    Rows are dealt to the ranks in turn, so that every rank gets the same number and together they see each row once. Each
    rank reads all files, but parses and tokenizes its own rows only. The last rows that don't go round are left out. State
    is the same on all ranks; another number of ranks goes on from it too.
    """

    #: Share of an interleaved dataset.
    weight: float = 1.0

    def __init__(self) -> None:
        self.num_replicas, self.rank, self.epoch = 1, 0, 0
        self._flow: _Flow | None = None
        self._dealt = 0
        self._resumed: Mapping[str, Any] | None = None

    @abstractmethod
    def open(self, epoch: int, state: Mapping[str, Any] | None = None) -> _Flow:
        """The samples of all ranks, from the start of an epoch or from a state."""

    @abstractmethod
    def order(self, shuffle: bool, seed: int) -> None:
        """Whether rows are shuffled, and by which seed; from the next iteration on."""

    def split(self, num_replicas: int, rank: int) -> None:
        """Which share of the rows this process gets, from the next iteration on."""
        self.num_replicas, self.rank = num_replicas, rank

    def set_epoch(self, epoch: int) -> None:
        """Use the order of another epoch, from the next iteration on."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands: plain values, a few hundred bytes."""
        if self._flow is None:
            return dict(self._resumed or {"epoch": self.epoch, "dealt": 0, "flow": None})
        return {"epoch": self.epoch, "dealt": self._dealt, "flow": self._flow.state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Start the next iteration with the row after those that another had given."""
        self._resumed = dict(state_dict)
        self._flow = None

    def begin(self) -> dict[str, Any]:
        """Leave an iteration that was begun; the state that the next one starts with."""
        self._flow = None
        return self.state_dict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_flow": None}

    def __iter__(self) -> Iterator[Any]:
        state, self._resumed = self._resumed, None
        self._dealt = 0
        if state is not None:
            self.epoch, self._dealt = state["epoch"], state["dealt"]
        self._flow = flow = self.open(self.epoch, None if state is None else state["flow"])
        worker = torch.utils.data.get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        while True:
            try:
                around = [next(flow) for _ in range(self.num_replicas)]  # type: ignore[call-overload]
            except StopIteration:
                return
            turn = self._dealt // self.num_replicas
            self._dealt += self.num_replicas
            if turn % workers == number:
                yield around[self.rank]()


class StreamingDataset(Stream):
    """Samples of files or of the hub, read while they are asked for; memory does not grow with the data.

    Args:
        source: ``"json"`` or ``"parquet"`` with ``data_files``, a path to such a file, or what ``datasets.load_dataset``
            streams, such as a name on the hub. JSONL is read without Arrow. Several files are read one after another.
        prepare: makes a sample of a row; None gives rows as they are.
        shuffle: whether files are shuffled, and rows within windows of ``shuffle_buffer``, anew in each epoch.
        shuffle_buffer: rows that are shuffled among each other. They are held in memory, most of them unparsed.
        seed: decides the order, the same on all ranks.
        repeat: start over, in another order, whenever the rows have run out.
        weight: share of this dataset among those that it is interleaved with.
        filter_fn: keeps the rows for which it is true. Every rank calls it for all rows.
        load_dataset_kwargs: for ``datasets.load_dataset``: ``split`` (a whole one), ``data_files``, ``field``, ...

    Raises:
        ValueError: if ``split`` is a slice, or an option has no such value.
        FileNotFoundError: if there is no such file.
    """

    def __init__(
        self,
        source: str,
        prepare: Callable[[Mapping[str, Any]], Any] | None = None,
        *,
        shuffle: bool = True,
        shuffle_buffer: int = SHUFFLE_BUFFER,
        seed: int = 0,
        repeat: bool = False,
        weight: float = 1.0,
        filter_fn: Callable[..., Any] | None = None,
        **load_dataset_kwargs: Any,
    ) -> None:
        super().__init__()
        if shuffle_buffer < 1:
            raise ValueError(
                f"shuffle_buffer must be 1 or more, but is {shuffle_buffer}; shuffle=False keeps the order"
            )
        self._openers = open_source(source, **load_dataset_kwargs)
        self._source, self._prepare, self._filter = source, prepare, filter_fn
        self._buffer = shuffle_buffer
        self.repeat, self.weight = repeat, weight
        self.order(shuffle, seed)

    def order(self, shuffle: bool, seed: int) -> None:
        self._seed = seed if shuffle else None

    def open(self, epoch: int, state: Mapping[str, Any] | None = None) -> _Flow:
        return _RowFlow(self, epoch, state)

    def rows(self, epoch: int, state: Mapping[str, Any] | None) -> RowStream:
        """The raw rows of one pass.

        Args:
            epoch: number of the pass; with a seed each has its own order.
            state: where to go on; None is the start.
        """
        window = _WINDOW if self._seed is None else self._buffer
        return RowStream(self._openers, window=window, seed=self._seed, epoch=epoch, keep=self._filter, state=state)

    def sample(self, reader: Any, raw: Any) -> Any:
        """The sample of a raw row; errors say which row of which file.

        Args:
            reader: the file that the row is of.
            raw: the row as it stands there, with its number.

        Raises:
            ValueError: if the row can't be read or prepared.
        """
        row = parse_row(reader, raw)
        if self._prepare is None:
            return row
        try:
            return self._prepare(row)
        except ValueError as error:
            raise ValueError(f"row {raw.number} of {reader.name}: {error}") from error


class _RowFlow:
    """The rows of a dataset, pass after pass if it repeats."""

    def __init__(self, dataset: StreamingDataset, epoch: int, state: Mapping[str, Any] | None) -> None:
        state = state or {"pass": 0, "rows": None}
        self._dataset, self._epoch, self._pass = dataset, epoch, state["pass"]
        self._rows = self._open(state["rows"])

    def _open(self, state: Mapping[str, Any] | None) -> RowStream:
        # Passes of one epoch and those of the next one have different orders.
        return self._dataset.rows(self._epoch + (self._pass << 20), state)

    def state(self) -> dict[str, Any]:
        return {"pass": self._pass, "rows": self._rows.state()}

    def __next__(self) -> Callable[[], Any]:
        try:
            row = next(self._rows)  # type: ignore[call-overload]
        except StopIteration:
            if not self._dataset.repeat:
                raise
            self._pass += 1
            self._rows = self._open(None)
            try:
                row = next(self._rows)  # type: ignore[call-overload]
            except StopIteration:
                raise ValueError(f"There are no rows in {self._dataset._source!r}, or filter_fn keeps none") from None
        return lambda: self._dataset.sample(*row)


class InterleavedDataset(Stream):
    """Several streams as one, each as often as its weight says.

    The next sample is of the dataset that is furthest behind its share, so shares are kept to within one sample at any
    time, whatever the seed. It ends as soon as one of the datasets does; those that repeat never do.

    Args:
        datasets: the streams; their own splitting is not used.
        weights: their shares, of any sum. Default: the ``weight`` of each.

    Raises:
        ValueError: if there are no datasets, or weights are not positive or not as many; or packed are mixed with others.
    """

    def __init__(self, datasets: Sequence[Stream], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = [ds.weight for ds in datasets] if weights is None else list(weights)
        if not datasets or len(weights) != len(datasets) or any(not weight > 0 for weight in weights):
            raise ValueError(
                f"InterleavedDataset needs a weight above 0 for each dataset; found {len(datasets)} datasets "
                f"and the weights {weights}"
            )
        if any(not isinstance(ds, Stream) for ds in datasets):
            kinds = ", ".join(type(ds).__name__ for ds in datasets)
            raise ValueError(f"InterleavedDataset takes streams that are not packed, but found {kinds}")
        self.datasets = list(datasets)
        self.weights = [weight / sum(weights) for weight in weights]
        self.repeat = all(getattr(ds, "repeat", False) for ds in datasets)

    def order(self, shuffle: bool, seed: int) -> None:
        for number, dataset in enumerate(self.datasets):
            dataset.order(shuffle, seed + number)

    def open(self, epoch: int, state: Mapping[str, Any] | None = None) -> _Flow:
        return _MixedFlow(self, epoch, state)


class _MixedFlow:
    def __init__(self, dataset: InterleavedDataset, epoch: int, state: Mapping[str, Any] | None) -> None:
        state = state or {"given": [0] * len(dataset.datasets), "flows": [None] * len(dataset.datasets)}
        self._weights = dataset.weights
        self._given = list(state["given"])
        self._flows = [ds.open(epoch, flow) for ds, flow in zip(dataset.datasets, state["flows"], strict=True)]

    def state(self) -> dict[str, Any]:
        return {"given": list(self._given), "flows": [flow.state() for flow in self._flows]}

    def __next__(self) -> Callable[[], Any]:
        total = sum(self._given) + 1
        behind = [weight * total - given for weight, given in zip(self._weights, self._given, strict=True)]
        which = behind.index(max(behind))
        make = next(self._flows[which])  # type: ignore[call-overload]
        self._given[which] += 1
        return make


def combine_datasets(datasets: Sequence[Any]) -> Any:
    """Several datasets as one: streams interleaved by their weights, others one after another.

    Packed streams are interleaved before they are packed, with the options of the first.

    Args:
        datasets: at least one; all streams, or none.

    Returns:
        A :class:`ConcatDataset`, an :class:`InterleavedDataset`, or a :class:`PackedStream`.

    Raises:
        ValueError: if some are streams, or packed, and some are not.
    """
    from torchtune.datasets._concat import ConcatDataset

    streams = [isinstance(dataset, IterableDataset) for dataset in datasets]
    if not any(streams):
        return ConcatDataset(list(datasets))
    if not all(streams):
        names = ", ".join(f"{i} ({type(ds).__name__})" for i, ds in enumerate(datasets) if not streams[i])
        raise ValueError(f"Streams can't be joined with datasets of fixed length: set streaming: true for {names}")
    if all(getattr(dataset, "packed", False) for dataset in datasets):
        return datasets[0].joined_with(InterleavedDataset([dataset.stream for dataset in datasets]))
    return InterleavedDataset(list(datasets))
