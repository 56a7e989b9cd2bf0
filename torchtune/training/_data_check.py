"""Rows that can't be read: named all at once before a run, and by name when one is met in it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig
from torch.utils.data import IterableDataset

from torchtune import config
from torchtune.data._common import CROSS_ENTROPY_IGNORE_IDX
from torchtune.training._distributed import gathered, get_world_size_and_rank
from torchtune.utils import get_logger

log = get_logger("INFO")
_MOST_ERRORS = 1000
_MOST_SHOWN = 20
_HINT = "`tune data check FILE` names every error of a file with its line"


class DataError(ValueError):
    """Rows of a dataset can't be read. The message names file and row of each; recipes end with it, without a traceback."""

    #: ``config.parse`` shows the message alone.
    plain = True


def build_dataset(cfg: DictConfig, name: str, tokenizer: Any) -> tuple[Any, bool]:
    """The dataset of a config's section or sections, read first if ``check_data`` says so, and whether it is packed.

    Args:
        cfg: a recipe's config; ``check_data`` is true, false or a number of rows. Default: false.
        name: the section.
        tokenizer: what rows are written with.

    Raises:
        DataError: if rows can't be read.
    """
    from torchtune.datasets import combine_datasets

    section, rows = cfg[name], cfg.get("check_data", False)
    parts = list(section) if isinstance(section, ListConfig) else [section]
    try:
        if rows and any(part.get("packed") for part in parts):  # packing would end at the first of them
            loose = [{**part, "packed": False} if part.get("packed") else part for part in parts]
            for part in loose:
                check_data(config.instantiate(part, tokenizer), rows, name)
            rows = False
        datasets = [config.instantiate(part, tokenizer) for part in parts]
    except DataError:
        raise
    except ValueError as error:
        notes = "".join(f"\n({note})" for note in getattr(error, "__notes__", ()))
        raise DataError(f"{error}{notes}") from error
    dataset = combine_datasets(datasets) if isinstance(section, ListConfig) else datasets[0]
    check_data(dataset, rows, name)
    return dataset, bool(getattr(dataset, "packed", False) or parts[0].get("packed", False))


def check_data(dataset: Any, rows: bool | int = True, name: str = "dataset") -> None:
    """Reads rows as training will, all of them or the first so many, and tells everything that is wrong with them.

    The ranks of a run share the work; all must call it. Streams are left out: they are read once.

    Args:
        dataset: the rows, by index.
        rows: True for all, False for none, or how many.
        name: the config's section, for messages.

    Raises:
        DataError: with the place of each row that can't be read, the same on all ranks.
        ValueError: if ``rows`` is negative.
    """
    if rows is not True and rows < 0:
        raise ValueError(f"check_data is {rows}; expected true, false, or a number of rows")
    if not rows or isinstance(dataset, IterableDataset):
        return
    started = time.perf_counter()
    world_size, rank = get_world_size_and_rank()
    count = len(dataset) if rows is True else min(rows, len(dataset))
    found = _read(dataset, range(rank, count, world_size))
    errors, untrained = (sorted(sum(parts, [])) for parts in zip(*gathered(found), strict=True))
    if rank == 0:
        log.info("Checked %s rows of %s in %.1f s", f"{count:,}", name, time.perf_counter() - started)
        if untrained:
            log.warning(
                "%d rows of %s have nothing to train: every answer is masked or cut off. The first, from 0: %s",
                len(untrained), name, ", ".join(str(row) for row, in untrained[:10]),
            )  # fmt: skip
    if errors:
        shown = [f"  {text}" for _, text in errors[:_MOST_SHOWN]]
        more = [f"  ... and {len(errors) - len(shown)} more"] * (len(errors) > len(shown))
        number = f"{len(errors)} of" if len(errors) < _MOST_ERRORS else f"At least {_MOST_ERRORS:,} of"
        head = f"{number} {count:,} rows of {name} can't be read. No step was taken."
        raise DataError("\n".join([head, *shown, *more, f"Mend or leave them out; {_HINT}"]))


def _read(dataset: Any, indices: Sequence[int]) -> tuple[list[tuple[int, str]], list[tuple[int]]]:
    """Errors by row, and the rows without a label to train."""
    errors: list[tuple[int, str]] = []
    untrained = []
    for i in indices:
        try:
            labels = dataset[i].get("labels", ())
        except Exception as error:  # rows come from users, and what they break is told with the row
            text = str(error) if isinstance(error, ValueError) else f"row {i + 1}: {type(error).__name__}: {error}"
            errors.append((i, text))
            if len(errors) >= _MOST_ERRORS:
                break
            continue
        if len(labels) and all(label == CROSS_ENTROPY_IGNORE_IDX for label in labels):
            untrained.append((i,))
    return errors, untrained


def read_batches(loader: Any) -> Iterator[Any]:
    """The batches of a loader.

    Args:
        loader: what :func:`build_dataloader` gave.

    Raises:
        DataError: in place of what a row that can't be read raises, in this process or in one of the loader's workers.
    """
    batches: Any = None
    while True:
        try:
            batches = iter(loader) if batches is None else batches
            batch = next(batches)
        except StopIteration:
            return
        except ValueError as error:
            # A worker's error has the traceback in its message, and its own words at the end.
            text = re.split(r"\n[\w.]+(?:Error|Exception): ", str(error))[-1].strip()
            raise DataError(f"{text}\n{_HINT}; check_data: true does so before the first step") from error
        yield batch
