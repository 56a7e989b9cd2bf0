"""The configs of each recipe, in the order of ``tune ls``. Written by ``python -m recipes.catalog``; do not edit."""

from __future__ import annotations

CONFIGS: dict[str, tuple[str, ...]] = {
    "full_finetune_single_device": ("quickstart/tool_calling",),
}
