"""Upstream's internal path of the HH-RLHF dataset."""

from torchtune.datasets._named import hh_rlhf_helpful_dataset

__all__ = ["hh_rlhf_helpful_dataset"]
