"""Where torchtune has the builders of this family: the same names."""

from torchtune.models.qwen2 import *
