"""Names that callers know from here."""

from torchtune.models._dense import scale_hidden_dim_for_mlp

__all__ = ["scale_hidden_dim_for_mlp"]
