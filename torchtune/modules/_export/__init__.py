"""Modules in forms that ``torch.export`` can trace."""
