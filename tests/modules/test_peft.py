"""LoRA and DoRA against ``peft``; adapter parameters, merging, checkpoints."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from _tiny_layers import decoder
from torch import Tensor, nn

from torchtune.modules import peft as ours
from torchtune.modules.moe import LoRAGroupedExperts
from torchtune.modules.peft import (
    AdapterModule,
    DoRALinear,
    LoRALinear,
    QATLoRALinear,
    disable_adapter,
    get_adapter_params,
    get_adapter_state_dict,
    get_lora_module_names,
    get_merged_lora_ckpt,
    set_trainable_params,
    validate_missing_and_unexpected_for_lora,
)

RANK, ALPHA = 3, 12.0


def lora(in_dim: int, out_dim: int) -> LoRALinear:
    layer = LoRALinear(in_dim, out_dim, RANK, ALPHA)
    nn.init.normal_(layer.lora_b.weight, std=0.3)
    return layer


def dora(in_dim: int, out_dim: int) -> DoRALinear:
    layer = DoRALinear(in_dim, out_dim, RANK, ALPHA)
    nn.init.normal_(layer.lora_b.weight, std=0.3)
    nn.init.uniform_(layer.magnitude, 0.5, 2)
    return layer


@pytest.mark.parity
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_gradients_equal_peft(use_dora: bool, bias: bool) -> None:
    import peft

    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 5, bias=bias))
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"], use_dora=use_dora)
    theirs = peft.get_peft_model(copy.deepcopy(base), config).base_model.model[0]
    layer: Any = (
        DoRALinear(6, 5, RANK, ALPHA, use_bias=bias, scale_bias=False)
        if use_dora
        else LoRALinear(6, 5, RANK, ALPHA, use_bias=bias)
    )
    with torch.no_grad():
        layer.weight.copy_(base[0].weight)
        theirs.lora_A["default"].weight.copy_(layer.lora_a.weight)
        if bias:
            layer.bias.copy_(base[0].bias)
    if use_dora:
        layer.initialize_dora_magnitude()
    with torch.no_grad():
        theirs.lora_B["default"].weight.copy_(nn.init.normal_(layer.lora_b.weight))
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(layer(x), theirs(x), atol=1e-6, rtol=1e-5)
    layer(x).square().sum().backward()
    theirs(x).square().sum().backward()
    torch.testing.assert_close(layer.lora_a.weight.grad, theirs.lora_A["default"].weight.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.lora_b.weight.grad, theirs.lora_B["default"].weight.grad, atol=1e-4, rtol=1e-4)
    if use_dora:
        magnitude = theirs.lora_magnitude_vector["default"].weight
        torch.testing.assert_close(layer.magnitude.grad, magnitude.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "layer", [LoRALinear(6, 5, 2, 4.0), DoRALinear(6, 5, 2, 4.0), DoRALinear(6, 5, 2, 4.0, use_bias=True)]
)
def test_fresh_adapter_changes_nothing(layer: Any) -> None:
    x = torch.randn(3, 6)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_dropout_reaches_the_update_only() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(6, 5, RANK, ALPHA, dropout=0.999999)
    nn.init.normal_(layer.lora_b.weight)
    x = torch.randn(3, 6)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight))
    layer.eval()
    assert not torch.allclose(layer(x), nn.functional.linear(x, layer.weight))


def test_quantization_arguments_without_quantized_base_are_refused() -> None:
    for layer in (LoRALinear, DoRALinear):
        with pytest.raises(
            ValueError, match="``quantize_base`` is False, but received the following quantization arguments"
        ):
            layer(8, 8, 2, 4.0, block_size=64)


def test_dora_magnitude_needs_weights_in_memory() -> None:
    with torch.device("meta"):
        layer = DoRALinear(6, 5, RANK, ALPHA)
    with pytest.raises(RuntimeError, match="Cannot initialize DoRA magnitude"):
        layer.initialize_dora_magnitude()
    layer.weight = nn.Parameter(torch.randn(5, 6))
    layer.to_empty(device="cpu")
    layer.initialize_parameters()
    layer.initialize_dora_magnitude()
    torch.testing.assert_close(layer.magnitude.detach(), layer.weight.detach().norm(dim=1))


def test_to_empty_leaves_the_base_weight_alone() -> None:
    layer = LoRALinear(6, 5, RANK, ALPHA)
    before = layer.weight.detach().clone()
    layer.lora_a.to("meta")
    layer.to_empty(device="cpu").initialize_parameters()
    assert torch.equal(layer.weight, before) and not layer.lora_a.weight.is_meta and not layer.lora_b.weight.any()


@pytest.mark.parametrize("linear", [lora, dora])
def test_only_adapters_are_trained_and_the_base_stays_bit_for_bit(linear: Any) -> None:
    model = decoder(linear=linear)
    adapter = get_adapter_params(model)
    set_trainable_params(model, adapter)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.tensor([[1, 2, 3]])).logsumexp(-1).sum().backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(adapter) and len(adapter) == 2 * 7 * (2 if linear is lora else 3)


@pytest.mark.parametrize("linear", [lora, dora])
def test_merged_checkpoint_gives_the_same_logits_in_the_base_model(linear: Any) -> None:
    model, base = decoder(linear=linear), decoder()
    tokens = torch.tensor([[1, 2, 3, 4]])
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    merged = get_merged_lora_ckpt(dict(weights), RANK, ALPHA)
    base.load_state_dict(merged)
    torch.testing.assert_close(base(tokens), model(tokens), atol=1e-5, rtol=1e-5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), "merging changed the model itself"


def test_merging_experts_equals_applying_their_updates() -> None:
    torch.manual_seed(0)
    experts = LoRAGroupedExperts(dim=4, hidden_dim=6, rank=RANK, alpha=ALPHA, num_experts=3)
    for name in experts.adapter_params():
        nn.init.normal_(getattr(experts, name))
    x, counts = torch.randn(5, 4), torch.tensor([2, 0, 3])
    want = experts(x, counts)
    merged = get_merged_lora_ckpt({f"e.{k}": v.clone() for k, v in experts.state_dict().items()}, RANK, ALPHA)
    assert sorted(merged) == ["e.down_proj", "e.gate_proj", "e.up_proj"]
    experts.load_state_dict({k[2:]: v for k, v in merged.items()}, strict=False)
    experts.disabled = True
    torch.testing.assert_close(experts(x, counts), want, atol=1e-4, rtol=1e-4)


def test_merging_half_an_adapter_names_what_is_missing() -> None:
    state = {"l.weight": torch.zeros(2, 2), "l.lora_a.weight": torch.zeros(1, 2)}
    with pytest.raises(KeyError, match="Can't merge l.lora_a.weight: l.lora_b.weight"):
        get_merged_lora_ckpt(state, 1, 1.0)


def test_adapter_state_dict_holds_exactly_the_adapter() -> None:
    model = decoder(linear=dora)
    assert set(get_adapter_state_dict(model.state_dict())) == set(get_adapter_params(model))
    assert get_adapter_state_dict({"output.weight": torch.zeros(1), "norm.lora_a_scale": torch.zeros(1)}) == {}


def test_disabled_adapters_are_on_again_afterwards_even_after_an_error() -> None:
    model, tokens = decoder(linear=lora), torch.tensor([[1, 2, 3]])
    want = model(tokens)
    base = decoder()
    base.load_state_dict({k: v for k, v in model.state_dict().items() if "lora" not in k})
    with disable_adapter(model):
        torch.testing.assert_close(model(tokens), base(tokens))
    torch.testing.assert_close(model(tokens), want)
    with pytest.raises(KeyError), disable_adapter(model):
        raise KeyError
    torch.testing.assert_close(model(tokens), want)


def test_module_that_names_a_parameter_it_lacks_is_found_out() -> None:
    class Wrong(nn.Module):
        def adapter_params(self) -> list[str]:
            return ["nothing"]

    model = nn.Sequential(Wrong())
    assert isinstance(model[0], AdapterModule)
    with pytest.raises(AttributeError, match="'nothing' is not in 0"):
        get_adapter_params(model)


def test_lora_module_names() -> None:
    assert get_lora_module_names(["q_proj"], True, True) == ["q_proj", "w1", "w2", "w3", "output"]
    assert get_lora_module_names(["k_proj"], False, False) == ["k_proj"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"base_missing": ["l.weight", "l.lora_a.weight"]}, "Missing non-LoRA keys l.weight from base"),
        ({"base_unexpected": ["x"]}, "Unexpected keys x loading base model"),
        ({"lora_missing": ["l.weight", "l.magnitude"]}, "Missing LoRA keys l.magnitude from adapter"),
        ({"lora_unexpected": ["y"]}, "Unexpected keys y loading adapter"),
    ],
)
def test_checkpoints_that_do_not_fit_together_are_refused(keys: dict[str, list[str]], message: str) -> None:
    for error in (RuntimeError, AssertionError):
        with pytest.raises(error, match=message):
            validate_missing_and_unexpected_for_lora(["q_proj"], True, False, **keys)  # type: ignore[arg-type]
    validate_missing_and_unexpected_for_lora(base_missing=["l.lora_b.weight"], lora_missing=["l.weight"])


def test_qat_lora_rounds_the_base_and_keeps_the_parameters() -> None:
    from torchao.quantization.qat import IntxFakeQuantizeConfig

    torch.manual_seed(0)
    layer = LoRALinear(32, 8, RANK, ALPHA)
    nn.init.normal_(layer.lora_b.weight)
    weight_config = IntxFakeQuantizeConfig(torch.int4, group_size=16)
    qat = QATLoRALinear.from_lora_linear(layer, weight_qat_config=weight_config)
    assert qat.weight is layer.weight and qat.adapter_params() == ["lora_a.weight", "lora_b.weight"]
    x = torch.randn(3, 32)
    update = layer(x) - nn.functional.linear(x, layer.weight)
    base = qat(x) - update
    groups = layer.weight.detach().view(8, 2, 16)
    step = groups.abs().amax(-1, keepdim=True) / 7.5
    off: Tensor = (base - nn.functional.linear(x, layer.weight)).abs()
    assert off.max() > 1e-4 and off.max() <= (x.abs().sum(1).max() * step.max())
    qat(x).sum().backward()
    assert qat.weight.grad is not None, "gradients pass the rounding straight through"
    plain = QATLoRALinear.from_lora_linear(layer)
    torch.testing.assert_close(plain(x), layer(x))
    with pytest.raises(ValueError, match="group_size"):
        QATLoRALinear(30, 8, RANK, ALPHA, weight_qat_config=weight_config)
    with pytest.raises(ValueError, match=r"Bias is not supported in QAT \+ LoRA yet"):
        QATLoRALinear.from_lora_linear(LoRALinear(32, 8, RANK, ALPHA, use_bias=True))


def test_old_names_still_work_and_say_what_replaces_them() -> None:
    from torchtune import modules

    model = decoder(linear=dora)
    with pytest.warns(FutureWarning, match="initialize_dora_magnitude"):
        load = ours.load_dora_magnitudes
    load(model)
    layer = model.layers[0].attn.q_proj
    torch.testing.assert_close(layer.magnitude, layer._row_norms())
    with pytest.warns(FutureWarning, match="validate_missing_and_unexpected_for_lora"):
        validate = ours.validate_state_dict_for_lora
    keys = list(model.state_dict())
    adapter = [key for key in keys if "lora" in key or "magnitude" in key]
    validate(["q_proj"], True, False, keys, adapter, [key for key in keys if key not in adapter])
    with pytest.raises(AssertionError, match="adapter checkpoint lacks"):
        validate(["q_proj"], True, False, keys, adapter[1:], None)
    with pytest.warns(FutureWarning, match="TiedLinear"):
        tied = modules.TiedEmbeddingTransformerDecoder
    base = decoder()
    twin = tied(
        tok_embeddings=base.tok_embeddings, layers=base.layers, max_seq_len=12, num_heads=4, head_dim=4, norm=base.norm
    )
    tokens = torch.tensor([[1, 2]])
    base.output.weight = base.tok_embeddings.weight
    torch.testing.assert_close(twin(tokens), base(tokens))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        modules.Nothing  # noqa: B018
