"""Data types, seeds, schedules, profiling, quantizers, pooling."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from torchtune import training
from torchtune.training import (
    ParallelDims,
    get_rng_state,
    get_shard_conditions,
    set_rng_state,
    set_seed,
    setup_torch_profiler,
)
from torchtune.training.quantization import (
    Int8DynActInt4WeightQuantizer,
    _validate_float8_tp_plan,
    is_fp8_tensorwise_scaling,
)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(None, torch.float32), ("fp32", torch.float32), ("fp16", torch.float16), ("fp64", torch.float64)],
)
def test_dtypes_by_name(name, dtype):
    assert training.get_dtype(name) is dtype


def test_bf16_is_always_there_on_the_cpu_and_checked_elsewhere(monkeypatch):
    monkeypatch.setattr("torchtune.training.precision.verify_bf16_support", lambda: False)
    assert training.get_dtype("bf16", torch.device("cpu")) is torch.bfloat16
    with pytest.raises(RuntimeError, match="bf16 precision was requested but not available"):
        training.get_dtype("bf16", torch.device("cuda"))
    with pytest.raises(ValueError, match="Dtype int8 must be one of fp16, bf16, fp32, fp64"):
        training.get_dtype("int8")


def test_the_default_dtype_comes_back_after_an_error():
    with pytest.raises(KeyError), training.set_default_dtype(torch.float64):
        assert torch.empty(1).dtype is torch.float64
        raise KeyError
    assert torch.empty(1).dtype is torch.float32


def test_a_parameter_of_another_dtype_is_named():
    model = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1).bfloat16()})
    with pytest.raises(ValueError, match="b.weight has dtype torch.bfloat16, but expected torch.float32"):
        training.validate_expected_param_dtype(model.named_parameters(), torch.float32)
    training.validate_expected_param_dtype(model.named_parameters(), torch.float32, exclude_param_names=["b."])


def test_a_seed_repeats_every_generator():
    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert set_seed(5) == 5
    first = draw()
    set_seed(5)
    assert draw() == first
    assert 0 <= set_seed() <= 2**32
    for bad in (-1, 2**32):
        with pytest.raises(ValueError, match="Invalid seed value provided"):
            set_seed(bad)


def test_debug_mode_makes_cudnn_deterministic(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        set_seed(1, debug_mode="warn")
        assert torch.backends.cudnn.deterministic
        assert torch.get_deterministic_debug_mode() == 1
        set_seed(1, debug_mode=0)
        assert torch.backends.cudnn.benchmark
    finally:
        torch.set_deterministic_debug_mode(0)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def test_rng_states_survive_a_file(tmp_path):
    set_seed(3)
    np.random.randn()  # leaves half of a pair of normal numbers behind
    torch.save(get_rng_state(), tmp_path / "rng.pt")
    expected = random.random(), np.random.randn(), np.random.rand(), torch.rand(3).tolist()
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert (random.random(), np.random.randn(), np.random.rand(), torch.rand(3).tolist()) == expected


def test_cosine_schedule_rises_then_falls_to_zero():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.4)
    schedule = training.get_cosine_schedule_with_warmup(optimizer, 2, 6)
    rates = []
    for _ in range(7):
        rates.append(training.get_lr(optimizer))
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0, 0.2, 0.4, 0.4 * 0.8535534, 0.2, 0.4 * 0.1464466, 0])


def test_last_unmasked_positions():
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1]], dtype=torch.bool)
    assert training.get_unmasked_sequence_lengths(mask).tolist() == [1, 3, 0, 2]


def test_profiler_writes_a_trace_per_cycle(tmp_path):
    profiler, settings = setup_torch_profiler(
        enabled=True, cuda=False, wait_steps=0, warmup_steps=1, active_steps=1, num_cycles=1, output_dir=str(tmp_path)
    )
    with profiler:
        for _ in range(3):
            torch.ones(4) @ torch.ones(4)
            profiler.step()
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"rank0_trace.json.gz", "rank0_key_averages.txt"}
    assert (settings.enabled, settings.active_steps) == (True, 1)


def test_profiler_off_does_nothing_and_incomplete_schedules_are_replaced(tmp_path):
    profiler, settings = setup_torch_profiler(enabled=False)
    with profiler:
        profiler.start()
        profiler.step()
        profiler.stop()
    assert settings == {"enabled": False}
    _, settings = setup_torch_profiler(enabled=True, wait_steps=3, output_dir=str(tmp_path))
    assert settings.wait_steps == training.DEFAULT_SCHEDULE["wait_steps"]
    with pytest.raises(ValueError, match="nothing to record"):
        setup_torch_profiler(enabled=True, cpu=False, cuda=False, xpu=False)


def test_quantizer_modes():
    assert training.get_quantizer_mode(None) is None
    assert training.get_quantizer_mode(Int8DynActInt4WeightQuantizer()) == "8da4w"
    from torchtune.training.quantization import (
        Int4WeightOnlyQATQuantizer,
        Int8DynActInt4WeightQATQuantizer,
        Int8DynActInt4WeightQATQuantizerModuleSwap,
    )

    assert training.get_quantizer_mode(Int4WeightOnlyQATQuantizer()) == "4w-qat"
    assert training.get_quantizer_mode(Int8DynActInt4WeightQATQuantizer()) == "8da4w-qat"
    assert training.get_quantizer_mode(Int8DynActInt4WeightQATQuantizerModuleSwap()) == "8da4w-qat-module-swap"


def test_quantized_layers_stay_close():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 8, bias=False))
    x = torch.randn(4, 64)
    expected = model(x)
    quantized = Int8DynActInt4WeightQuantizer(groupsize=32).quantize(model)
    error = (quantized(x) - expected).norm() / expected.norm()
    assert 0 < error < 0.15


def test_float8_tensor_parallel_needs_whole_tensor_scales():
    class Float8ColwiseParallel:
        pass

    assert is_fp8_tensorwise_scaling(None)
    assert not is_fp8_tensorwise_scaling("rowwise")
    _validate_float8_tp_plan({"layers": Float8ColwiseParallel()}, "tensorwise")
    _validate_float8_tp_plan({"layers": object()}, "rowwise")
    with pytest.raises(ValueError, match="need the 'tensorwise' recipe"):
        _validate_float8_tp_plan({"layers": Float8ColwiseParallel()}, "rowwise")


@pytest.mark.parametrize(
    ("name", "shards"),
    [("layers.0", True), ("decoder.layers.11", True), ("layers", False), ("layers.0.attn", False), ("output", False)],
)
def test_layers_are_sharded_as_units(name, shards):
    assert get_shard_conditions(name, nn.Identity()) is shards
    assert get_shard_conditions("output", nn.Identity(), names_to_match=["output"])


def test_parallel_dims_fill_up_the_world():
    dims = ParallelDims(dp_replicate=2, dp_shard=-1, tp=2, cp=1, world_size=8)
    assert (dims.dp_shard, dims.dp_enabled, dims.tp_enabled, dims.cp_enabled) == (2, True, True, False)
    assert (dims.non_data_parallel_size, dims.min_seq_len_divisor) == (2, 4)
    with pytest.raises(ValueError, match=r"dp_shard\(2\).*!= WORLD_SIZE\(8\)"):
        ParallelDims(1, 2, 1, 1, 8)
    with pytest.raises(ValueError, match="must be 1 or more"):
        ParallelDims(1, 0, 1, 1, 1)


def test_not_distributed_without_torchrun(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert not training.is_distributed()
    assert not training.init_distributed(backend="gloo")
    assert training.get_world_size_and_rank() == (1, 0)
    assert training.get_distributed_backend("cpu", offload_ops_to_cpu=True) == "gloo"
    assert training.get_distributed_backend("cuda") == "nccl"
    assert training.get_distributed_backend("cuda", offload_ops_to_cpu=True) == "cuda:nccl,cpu:gloo"
    with pytest.raises(ValueError, match="'abacus'"):
        training.get_distributed_backend("abacus")


def test_parameters_left_on_the_meta_device_are_named():
    model = nn.Linear(2, 2, device="meta")
    with pytest.raises(RuntimeError, match="Unexpected param or buffer weight on meta device"):
        training.validate_no_params_on_meta_device(model)


def test_loading_into_a_model_without_memory_takes_dtype_and_names_wrong_shapes():
    with torch.device("meta"), training.set_default_dtype(torch.bfloat16):
        model = nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    training.load_from_full_model_state_dict(model, dict(state), torch.device("cpu"), strict=True)
    assert model.weight.dtype is torch.bfloat16
    assert model.weight.requires_grad
    with pytest.raises(RuntimeError, match=r"weight: checkpoint \(2, 2\), model \(3, 2\)"):
        training.load_from_full_model_state_dict(model, {**state, "weight": torch.ones(2, 2)}, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="Missing key"):
        training.load_from_full_model_state_dict(model, {"bias": torch.zeros(3)}, torch.device("cpu"), strict=True)


def test_importing_training_imports_nothing_heavy_besides_torch():
    heavy = (
        "('torchao', 'datasets', 'transformers', 'pandas', 'torchvision', 'PIL', 'torchdata', 'tensorboard', 'wandb')"
    )
    script = f"import sys, torchtune.training; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
