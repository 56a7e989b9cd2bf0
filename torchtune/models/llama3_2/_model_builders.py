"""Where torchtune has the builders of this family: the same names."""

from torchtune.models.llama3_2 import *
