"""SmolLM 2."""

from torchtune.models._builders import SizeRows, builder_names
from torchtune.models.smol._component_builders import SOURCE, smollm2, smollm2_spec

# The released models have no RoPE scaling (rope_scaling is null in their config.json).
_size = SizeRows("SmolLM 2", smollm2_spec, module=__name__, source=SOURCE, scale_factor=None)

# fmt: off
smollm2_135m, lora_smollm2_135m, _ = _size("smollm2_135m", "135M", num_layers=30, num_heads=9, num_kv_heads=3, embed_dim=576, intermediate_dim=1536)
smollm2_360m, lora_smollm2_360m, _ = _size("smollm2_360m", "360M", num_layers=32, num_heads=15, num_kv_heads=5, embed_dim=960, intermediate_dim=2560)
smollm2_1_7b, lora_smollm2_1_7b, _ = _size("smollm2_1_7b", "1.7B", num_layers=24, num_heads=32, num_kv_heads=32, embed_dim=2048, intermediate_dim=8192, rope_base=130_000)
# fmt: on

__all__ = [*builder_names(globals()), "smollm2"]
