"""Recipes and their configs, as ``tune ls`` shows them: scripts to run with ``tune run`` and to copy with ``tune cp``.

No recipe imports another, so a copied file works by itself.
"""
