"""Where torchtune has the builders of this family: the same names."""

from torchtune.models.flux import *
