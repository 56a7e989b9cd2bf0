"""Upstream's internal path of the Alpaca datasets."""

from torchtune.data._transforms import AlpacaToMessages
from torchtune.datasets._named import alpaca_cleaned_dataset, alpaca_dataset

__all__ = ["AlpacaToMessages", "alpaca_cleaned_dataset", "alpaca_dataset"]
