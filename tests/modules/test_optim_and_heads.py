"""Optimizer in backward, classifiers, and a resized vocabulary."""

from __future__ import annotations

import copy

import pytest
import torch
from _tiny_layers import DIM, VOCAB, decoder
from torch import nn

from torchtune.modules import TiedLinear, classifier_model, resize_token_embeddings
from torchtune.modules.optim import OptimizerInBackward
from torchtune.modules.peft import LoRALinear

TOKENS = torch.tensor([[3, 1, 4, 1, 5]])


def test_steps_in_backward_equal_ordinary_steps_with_scheduler_and_resume() -> None:
    ours = decoder()
    theirs = copy.deepcopy(ours)
    inside = OptimizerInBackward(ours.parameters(), torch.optim.AdamW, lr=0.1, weight_decay=0.2)
    outside = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.2)
    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)) for o in (inside, outside)]
    for step in range(5):
        for model, optimizer, scheduler in zip((ours, theirs), (inside, outside), schedulers, strict=True):
            model(TOKENS).logsumexp(-1).sum().backward()
            assert optimizer is outside or all(p.grad is None for p in model.parameters())
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        if step == 2:
            inside.load_state_dict(copy.deepcopy(inside.state_dict()))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    state = inside.state_dict()
    assert len(state["param_groups"]) == len(state["state"]) == len(list(ours.parameters()))


def test_optimizer_in_backward_refuses_other_parameters() -> None:
    state = OptimizerInBackward(decoder(2).parameters(), torch.optim.SGD, lr=0.1).state_dict()
    with pytest.raises(ValueError, match="parameter group"):
        OptimizerInBackward(decoder(1).parameters(), torch.optim.SGD, lr=0.1).load_state_dict(state)
    with pytest.raises(ValueError, match="no parameters that require gradients"):
        OptimizerInBackward(nn.Linear(1, 1).requires_grad_(False).parameters(), torch.optim.SGD, lr=0.1)


def test_classifier_replaces_the_output_layer() -> None:
    model = classifier_model(
        3,
        "torchtune.models.llama3.llama3",
        vocab_size=VOCAB,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        embed_dim=8,
        max_seq_len=8,
        intermediate_dim=16,
    )
    assert model(TOKENS).shape == (1, 5, 3)
    for path in ("torchtune.models.llama3.nothing", "nothing", "torchtune.nothing.llama3"):
        with pytest.raises(ValueError, match="names no model builder"):
            classifier_model(3, path)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", [VOCAB + 4, VOCAB - 5])
def test_resized_vocabulary_keeps_old_rows_and_starts_new_ones_at_the_mean(tied: bool, size: int) -> None:
    model = decoder()
    if tied:
        del model.output
        model.output = TiedLinear(model.tok_embeddings)
    old, old_output = model.tok_embeddings.weight.detach().clone(), model.output.weight.detach().clone()
    want = model(TOKENS)
    resize_token_embeddings(model, size)
    kept = min(size, VOCAB)
    got = model(TOKENS)
    assert got.shape[-1] == size and model.tok_embeddings.num_embeddings == size
    torch.testing.assert_close(got[..., :kept], want[..., :kept])
    if size > VOCAB:
        torch.testing.assert_close(model.tok_embeddings.weight[-1], old.mean(0))
        torch.testing.assert_close(model.output.weight[-1], old_output.mean(0))
        model(torch.tensor([[size - 1]])).sum().backward()
        assert model.tok_embeddings.weight.grad is not None


def test_vocabulary_that_can_not_be_resized_is_refused() -> None:
    with pytest.raises(TypeError, match="Can't resize an output layer of type LoRALinear"):
        resize_token_embeddings(decoder(output=LoRALinear(DIM, VOCAB, 2, 4.0)), 20)
    with pytest.raises(ValueError, match="must be positive, not 0"):
        resize_token_embeddings(decoder(), 0)
