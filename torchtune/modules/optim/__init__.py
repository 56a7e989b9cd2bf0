"""Optimizers that recipes need beyond torch's."""

from torchtune.modules.optim._optim_in_backward import OptimizerInBackward

__all__ = ["OptimizerInBackward"]
