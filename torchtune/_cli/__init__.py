"""The ``tune`` command. Nothing here imports torch before a recipe needs it."""
