"""Tensor, context and data parallel, alone and together: losses, norms and weights are those of one process."""

from __future__ import annotations

import multiprocessing
import runpy
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from torchtune import training

WORKER = Path(__file__).parent / "workers" / "parallelism.py"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torchtune.training", "torchtune.models.llama3"])
TP, CP = {"tensor_parallel_dim": 2}, {"context_parallel_dim": 2}
HSDP = {"data_parallel_replicate_dim": 2}
# Family, loss, packed, config.
ON_TWO = [
    ("llama", "linear", False, TP),
    ("llama", "linear", False, {}),
    ("llama", "linear", False, HSDP),
    ("mistral", "chunked", True, TP),
    ("qwen2", "plain", False, TP),
    ("qwen2", "linear", False, TP),
    ("llama", "linear", False, CP),
    ("qwen3", "linear", True, {**CP, "context_parallel_rotate_method": "alltoall"}),
    ("lora", "plain", True, CP),
]
ON_FOUR = [
    ("llama", "linear", False, TP),
    ("lora", "linear", False, {**TP, **HSDP}),
    ("qwen3", "linear", False, {**TP, **CP}),
    ("llama", "linear", False, {**HSDP, **CP}),
    ("llama", "linear", False, {**TP, "custom_sharded_layers": ["tok_embeddings", "output"]}),
]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("world", "cases"), [(2, ON_TWO), (4, ON_FOUR)], ids=["two", "four"])
def test_losses_are_those_of_one_process(world, cases, tmp_path):
    given = {"MEET": str(tmp_path / "meet"), "WORLD": world, "CASES": cases}
    ranks = [CONTEXT.Process(target=runpy.run_path, args=(str(WORKER), {**given, "RANK": n})) for n in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=240)
    assert [process.exitcode for process in ranks] == [0] * world


def parallel(**cfg: object) -> training.Parallelism:
    return training.Parallelism(OmegaConf.create(cfg), torch.device("cpu"))


def test_one_process_shards_nothing_and_leaves_batches_alone(llama):
    model, whole = llama(), {"tokens": torch.zeros(1, 5), "labels": torch.zeros(1, 5)}
    alone = parallel()
    alone.split_layers(model, torch.nn.CrossEntropyLoss())
    alone.shard(model)
    assert (alone.data_ranks, alone.data_rank, alone.copies) == (1, 0, 1)
    assert alone.own_part(whole) is whole


def test_dims_that_the_ranks_do_not_fill_are_refused():
    with pytest.raises(ValueError, match=r"tp\(2\).*!= WORLD_SIZE\(1\).*--nproc-per-node"):
        parallel(tensor_parallel_dim=2)


def test_float8_is_refused_on_a_device_that_has_none():
    with pytest.raises(ValueError, match="enable_fp8_training: true needs a GPU .* found cpu"):
        parallel(enable_fp8_training=True)


def test_sequences_are_padded_to_equal_parts_and_packs_that_do_not_divide_refused(monkeypatch):
    monkeypatch.setattr(training._parallelism, "get_world_size_and_rank", lambda: (4, 3))
    monkeypatch.setattr(training.ParallelDims, "build_mesh", lambda *_, **__: None)
    four = parallel(tensor_parallel_dim=4)
    assert (four.data_ranks, four.data_rank, four.copies) == (1, 0, 4)
    batch = {"tokens": torch.ones(1, 6, dtype=torch.long), "labels": torch.ones(1, 6, dtype=torch.long)}
    padded = four.own_part(batch)
    assert padded["tokens"].tolist() == [[1] * 6 + [0, 0]]
    assert padded["labels"].tolist() == [[1] * 6 + [-100, -100]]
    with pytest.raises(ValueError, match="packed sequences have 6 tokens.*multiple of 4"):
        four.own_part({**batch, "mask": torch.ones(1, 6, 6)})


def test_models_that_can_not_be_split_are_named(llama, lora_llama):
    from torchtune.models.gemma2 import gemma2
    from torchtune.models.llama3 import lora_llama3
    from torchtune.training._tensor_parallel import apply_tensor_parallel

    sizes = {"vocab_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "embed_dim": 64, "max_seq_len": 8}
    dora = lora_llama3(["q_proj"], **sizes, intermediate_dim=64, lora_rank=2, lora_alpha=2, use_dora=True)
    with pytest.raises(ValueError, match=r"layers.0.attn.q_proj is a DoRALinear"):
        apply_tensor_parallel(dora, None)
    with pytest.raises(ValueError, match="model is a Linear"):
        apply_tensor_parallel(torch.nn.Linear(1, 1), None)
    sliding = gemma2(**sizes, head_dim=32, intermediate_dim=64)
    with pytest.raises(ValueError, match="layers.0 makes a mask of its own"):
        training._context_parallel.apply_context_parallel(sliding, None)
    with pytest.raises(ValueError, match="'ring'; expected one of"):
        training._context_parallel.apply_context_parallel(llama(), None, "ring")
