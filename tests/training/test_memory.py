"""Activation checkpointing, offloading, steps in the backward pass: less memory, the same numbers."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper

from torchtune.modules import TransformerSelfAttentionLayer
from torchtune.training import (
    InBackwardSchedule,
    NoOpManager,
    OffloadActivations,
    apply_selective_activation_checkpointing,
    cleanup_before_training,
    create_optim_in_bwd_wrapper,
    disable_dropout,
    get_act_offloading_ctx_manager,
    get_cosine_schedule_with_warmup,
    get_lr,
    get_memory_stats,
    log_memory_stats,
    register_optim_in_bwd_hooks,
    set_activation_checkpointing,
)

TOKENS = torch.arange(16).reshape(2, 8)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model(TOKENS).float().pow(2).mean().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name.replace("_checkpoint_wrapped_module.", ""): grad for name, grad in grads.items()}


def wrapped(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, CheckpointWrapper)]


@pytest.mark.parametrize(
    ("mode", "option", "layers"),
    [("full", None, [0, 1]), ("selective", "op", [0, 1]), ("selective", 2, [1]), ("selective", "1", [0, 1])],
)
def test_selective_checkpointing_wraps_the_layers_asked_for_and_keeps_gradients(llama, mode, option, layers):
    expected = gradients(llama())
    model = llama()
    apply_selective_activation_checkpointing(model, mode, option)
    assert wrapped(model) == [f"layers.{i}" for i in layers]
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize(
    ("mode", "option"), [("half", None), ("selective", 0), ("selective", "x"), ("selective", None)]
)
def test_unknown_modes_and_options_of_checkpointing_are_refused(llama, mode, option):
    with pytest.raises(ValueError, match="ac_mode is 'half'" if mode == "half" else "ac_option is"):
        apply_selective_activation_checkpointing(llama(), mode, option)


def test_recomputation_drops_the_same_neurons(lora_llama):
    def build():
        model = lora_llama()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
        return model.train()

    expected = gradients(build())
    model = build()
    set_activation_checkpointing(model, auto_wrap_policy={TransformerSelfAttentionLayer})
    assert wrapped(model) == ["layers.0", "layers.1"]
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, expected[name])


def test_state_dict_keys_stay_those_of_the_plain_model(llama):
    model = llama()
    keys = list(model.state_dict())
    set_activation_checkpointing(model, auto_wrap_policy={TransformerSelfAttentionLayer})
    assert list(model.state_dict()) == keys


def test_offloading_keeps_gradients_and_spares_the_output(llama):
    expected = gradients(llama())
    model = llama()
    manager = get_act_offloading_ctx_manager(model, True)
    assert isinstance(manager, OffloadActivations)
    with manager:
        found = gradients(model)
    for name in expected:
        assert torch.equal(found[name], expected[name])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("use_streams", [False, True])
def test_offloading_moves_activations_off_the_gpu(use_streams):
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(nn.Linear(512, 512), nn.GELU()) for _ in range(12)]).cuda()
    x = torch.randn(1024, 512, device="cuda")

    def run(context) -> tuple[list[torch.Tensor], int]:
        model.zero_grad()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        with context:
            loss = model(x).pow(2).mean()
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated() - before
        loss.backward()
        return [p.grad.clone() for p in model.parameters()], held

    import contextlib

    expected, plain = run(contextlib.nullcontext())
    for _ in range(3):
        found, offloaded = run(OffloadActivations(use_streams=use_streams))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert offloaded < 0.7 * plain


def test_a_manager_that_does_nothing_inside_one_that_counts():
    packed = []
    x = torch.ones(4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        with NoOpManager():
            x.exp()
        assert packed == []
        x.exp()
    assert len(packed) == 1


def test_offloading_refuses_sizes_that_make_no_sense():
    with pytest.raises(ValueError, match="max_fwd_stash_size"):
        OffloadActivations(max_fwd_stash_size=0)


def test_steps_in_the_backward_pass_are_the_optimizers_own(llama):
    plain, fused = llama(), llama()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01)
    each = {p: torch.optim.AdamW([p], lr=0.01) for p in fused.parameters()}
    register_optim_in_bwd_hooks(fused, each)
    wrapper = create_optim_in_bwd_wrapper(fused, each)
    schedules = [
        get_cosine_schedule_with_warmup(optimizer, 1, 5),
        InBackwardSchedule(wrapper, get_cosine_schedule_with_warmup(next(iter(each.values())), 1, 5)),
    ]
    for _ in range(3):
        gradients(plain)
        optimizer.step()
        optimizer.zero_grad()
        assert not gradients(fused)
        for schedule in schedules:
            schedule.step()
        assert get_lr(wrapper) == get_lr(optimizer)
    for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
        assert torch.equal(a, b)
    set_activation_checkpointing(fused, auto_wrap_policy={TransformerSelfAttentionLayer})
    assert list(create_optim_in_bwd_wrapper(fused, each).optim_map) == list(wrapper.optim_map)
    state = wrapper.state_dict()
    assert list(state) == list(fused.state_dict())
    wrapper.load_state_dict(state)
    with pytest.raises(RuntimeError, match="unexpected param nobody"):
        wrapper.load_state_dict({**state, "nobody": {}})
    state.pop("output.weight")
    with pytest.raises(RuntimeError, match="Expected to load optimizer state for params .*output.weight"):
        wrapper.load_state_dict(state)


def test_the_schedule_must_be_set_before_it_is_stepped(llama):
    model = llama()
    wrapper = create_optim_in_bwd_wrapper(model, {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()})
    assert wrapper.get_optim_key("lr") == 0.1
    for call in (wrapper.step_lr_scheduler, wrapper.get_last_lr):
        with pytest.raises(RuntimeError, match="before set_lr_scheduler"):
            call()


def test_groups_with_different_rates_have_no_single_one():
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    with pytest.raises(RuntimeError, match=r"\[0.1, 0.2\]"):
        get_lr(torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.2}], lr=0.3))


def test_dropout_is_turned_off_everywhere():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.0)))
    with pytest.warns(UserWarning, match="Found Dropout with value 0.3 in 1"):
        disable_dropout(model)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0, 0.0]


def test_memory_of_the_process_is_reported_on_the_cpu(caplog):
    cleanup_before_training()
    stats = get_memory_stats(torch.device("cpu"))
    assert 0.05 < stats["peak_memory_rss"] < 100
    with caplog.at_level(logging.INFO, logger="torchtune"):
        logging.getLogger("torchtune").propagate = True
        log_memory_stats(stats)
    assert "Memory stats after model init:" in caplog.text
    with pytest.raises(ValueError, match="not supported on meta devices"):
        get_memory_stats(torch.device("meta"))
