"""FLUX.1 autoencoder weights as Black Forest Labs publish them (``ae.safetensors``)."""

from __future__ import annotations

import re

from torchtune.models._convert import StateDict, UnexpectedKey

_BLOCK = {"norm1": "main.0", "conv1": "main.2", "norm2": "main.3", "conv2": "main.5", "nin_shortcut": "shortcut"}
_ATTENTION = {
    "norm": "norm",
    "q": "attn.q_proj",
    "k": "attn.k_proj",
    "v": "attn.v_proj",
    "proj_out": "attn.output_proj",
}
_MID = {"block_1": "0", "attn_1": "1", "block_2": "2"}
_ENDS = {"conv_in": "conv_in", "norm_out": "end.0", "conv_out": "end.2"}
_KEY = re.compile(
    r"(?P<half>encoder|decoder)\.(?:(?P<end>conv_in|norm_out|conv_out)"
    r"|mid\.(?P<mid>block_1|attn_1|block_2)\.(?P<part>\w+)"
    r"|(?P<way>down|up)\.(?P<level>\d+)\.(?:block\.(?P<block>\d+)\.(?P<layer>\w+)|(?P<resample>downsample|upsample)\.conv)"
    r")\.(?P<kind>weight|bias)"
)


def _tune_key(key: str, levels: int) -> str:
    match = _KEY.fullmatch(key)
    if match is None:
        raise UnexpectedKey(key, "FLUX autoencoder")
    part = match.groupdict()
    if part["end"]:
        name = _ENDS[part["end"]]
    elif part["mid"]:
        table = _ATTENTION if part["mid"] == "attn_1" else _BLOCK
        name = f"mid.{_MID[part['mid']]}.{table[part['part']]}"
    else:
        # They number the decoder's resolutions from the finest, we in the order of use.
        level = int(part["level"]) if part["way"] == "down" else levels - 1 - int(part["level"])
        inner = f"layers.{part['block']}.{_BLOCK[part['layer']]}" if part["block"] else f"{part['resample']}.conv"
        name = f"{part['way']}.{level}.{inner}"
    return f"{part['half']}.{name}.{part['kind']}"


def flux_ae_hf_to_tune(state_dict: StateDict) -> StateDict:
    """Convert the published autoencoder to ours; 1x1 convolutions of the attention become linear layers."""
    levels = 1 + max(
        (int(match["level"]) for key in state_dict if (match := _KEY.fullmatch(key)) and match["level"]), default=0
    )
    converted = {}
    for key, tensor in state_dict.items():
        ours = _tune_key(key, levels)
        converted[ours] = tensor.squeeze() if ".attn." in ours and ours.endswith("weight") else tensor
    return converted
