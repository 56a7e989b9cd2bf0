"""NF4 weights: error of the rounding, gradients, loading, and the layers that use them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchtune.modules import FrozenNF4Linear, reparametrize_as_dtype_state_dict_post_hook
from torchtune.modules.low_precision._nf4 import dequantize, is_nf4, linear_nf4, to_nf4
from torchtune.modules.peft import DoRALinear, LoRALinear


def nearest_codes(weight: torch.Tensor) -> torch.Tensor:
    """NF4 without double quantization: each block of 64 by its largest value, each value by the nearest code."""
    codes = torch.tensor(
        [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407]
        + [0.5626, 0.7230, 1.0]
    )
    blocks = weight.view(-1, 64)
    scales = blocks.abs().amax(1, keepdim=True)
    nearest = ((blocks / scales).unsqueeze(-1) - codes).abs().argmin(-1)
    return (codes[nearest] * scales).view_as(weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_become_the_nearest_codes_of_their_block(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(128, 128)
    quantized = to_nf4(weight.to(dtype))
    assert is_nf4(quantized) and not is_nf4(weight)
    got = dequantize(quantized)
    assert got.dtype == dtype
    best = nearest_codes(weight)
    if dtype == torch.float32:  # the scales are 8-bit themselves
        torch.testing.assert_close(got, best, atol=2e-2, rtol=1e-2)
    assert (got.float() - weight).square().mean() < 1.05 * (best - weight).square().mean()
    torch.testing.assert_close(got, quantized.get_original_weight())


@pytest.mark.parametrize("bias", [False, True])
def test_frozen_linear_equals_a_linear_layer_with_the_rounded_weight(bias: bool) -> None:
    torch.manual_seed(0)
    layer = FrozenNF4Linear(64, 32, bias=bias)
    assert not any(p.requires_grad for p in layer.parameters())
    x = torch.randn(3, 64, requires_grad=True)
    want = F.linear(x, dequantize(layer.weight), layer.bias)
    torch.testing.assert_close(layer(x), want)
    weights = torch.randn_like(want)
    torch.testing.assert_close(
        torch.autograd.grad((layer(x) * weights).sum(), x)[0], torch.autograd.grad((want * weights).sum(), x)[0]
    )


def test_compiled_qlora_equals_the_eager_one() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(64, 32, 4, 8.0, quantize_base=True)
    nn.init.normal_(layer.lora_b.weight)
    x = torch.randn(3, 64, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for function in (layer, compiled):
        out = function(x)
        (grad,) = torch.autograd.grad(out.square().sum(), x)
        if function is layer:
            want = (out, grad)
    torch.testing.assert_close((out, grad), want)


@pytest.mark.parametrize("layer", [LoRALinear, DoRALinear])
@pytest.mark.parametrize("bias", [False, True])
def test_quantized_adapters_train_and_leave_the_base_alone(layer: type[LoRALinear], bias: bool) -> None:
    torch.manual_seed(0)
    module = layer(64, 32, 4, 8.0, use_bias=bias, quantize_base=True)
    x = torch.randn(3, 64)
    torch.testing.assert_close(module(x), linear_nf4(x, module.weight, module.bias), atol=1e-5, rtol=1e-5)
    module(x).square().sum().backward()
    assert module.weight.grad is None and module.lora_b.weight.grad.any()


@pytest.mark.parametrize("assign", [False, True])
def test_plain_checkpoint_is_quantized_while_it_is_loaded(assign: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 64)
    with torch.device("meta" if assign else "cpu"):
        layers = nn.ModuleDict(
            {"frozen": FrozenNF4Linear(64, 32), "lora": LoRALinear(64, 32, 4, 8.0, quantize_base=True, block_size=32)}
        )
    adapter = {"lora.lora_a.weight": torch.randn(4, 64), "lora.lora_b.weight": torch.randn(32, 4)}
    layers.load_state_dict({"frozen.weight": weight, "lora.weight": weight, **adapter}, assign=assign)
    for name, block_size in (("frozen", 64), ("lora", 32)):
        loaded = layers[name].weight
        assert is_nf4(loaded) and loaded.block_size == block_size and not loaded.is_meta
        torch.testing.assert_close(dequantize(loaded), weight, atol=0.5, rtol=0.2)
    assert not layers["frozen"].weight.requires_grad


def test_state_dict_hook_gives_plain_weights() -> None:
    model = nn.Sequential(FrozenNF4Linear(64, 32))
    want = dequantize(model[0].weight).bfloat16()
    model._register_state_dict_hook(reparametrize_as_dtype_state_dict_post_hook)
    saved = model.state_dict()["0.weight"]
    assert type(saved) is torch.Tensor and torch.equal(saved, want)


def test_cast_layers_compute_in_the_new_dtype() -> None:
    layer = FrozenNF4Linear(64, 32).bfloat16()
    assert layer(torch.randn(2, 64).bfloat16()).dtype == torch.bfloat16


def test_sizes_that_do_not_fit_blocks_are_clear_errors() -> None:
    with pytest.raises(ValueError, match=r"\(3, 5\).*15 values are no multiple of block_size=64"):
        FrozenNF4Linear(5, 3)
    with pytest.raises(ValueError, match="32 blocks are no multiple of scaler_block_size=256"):
        LoRALinear(64, 32, 4, 8.0, quantize_base=True, scaler_block_size=256)
    with pytest.raises(TypeError, match="Unknown quantization arguments"):
        FrozenNF4Linear(64, 32, size=3)


def test_missing_torchao_says_what_to_install() -> None:
    code = """
import sys
sys.modules["torchao"] = None
from torchtune.modules import FrozenNF4Linear
try:
    FrozenNF4Linear(64, 64)
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "need torchao: pip install torchao, or set quantize_base=False" in result.stdout, result.stderr
