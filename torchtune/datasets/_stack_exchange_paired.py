"""Upstream's internal path of the Stack Exchange dataset."""

from torchtune.datasets._named import StackExchangePairedToMessages, stack_exchange_paired_dataset

__all__ = ["StackExchangePairedToMessages", "stack_exchange_paired_dataset"]
