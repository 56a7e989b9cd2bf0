"""What every recipe needs: devices, data types, distribution, data loading, steps, checkpoints, metrics."""

from torchtune.training import checkpointing
from torchtune.training._activation_offloading import NoOpManager, OffloadActivations, get_act_offloading_ctx_manager
from torchtune.training._adapter import finish_adapter, get_adapter_config, initial_adapter
from torchtune.training._compile import compile_loss, compile_model
from torchtune.training._cpu_products import fast_fp32_products
from torchtune.training._data import (
    ResumableSampler,
    build_dataloader,
    check_validation_ends,
    load_loader_state,
    loader_state,
    set_epoch,
    steps_per_epoch,
    with_one_dataset,
)
from torchtune.training._data_check import DataError, build_dataset, check_data, read_batches
from torchtune.training._distributed import (
    all_reduce_sum,
    barrier,
    get_distributed_backend,
    get_world_size_and_rank,
    init_distributed,
    is_distributed,
    set_torch_num_threads,
)
from torchtune.training._faults import (
    LossCheck,
    NonFiniteLossError,
    StopSignal,
    check_recipe,
    fault_reports,
    out_of_memory_advice,
)
from torchtune.training._inference import is_quantized, load_model
from torchtune.training._model_util import disable_dropout
from torchtune.training._objectives import (
    Distillation,
    EarlyExit,
    Objective,
    add_layer_dropout,
    build_objective,
    token_loss,
)
from torchtune.training._parallel import (
    ParallelDims,
    get_context_parallel_manager,
    get_train_context,
    prepare_mha_for_tp,
)
from torchtune.training._parallelism import Parallelism
from torchtune.training._profiler import (
    DEFAULT_PROFILE_DIR,
    DEFAULT_PROFILER_ACTIVITIES,
    DEFAULT_SCHEDULE,
    DEFAULT_TRACE_OPTS,
    PROFILER_KEY,
    DummyProfiler,
    setup_torch_profiler,
)
from torchtune.training._recipe import PolicyRecipe, Recipe, run_recipe
from torchtune.training._sharding import (
    gather_cpu_state_dict,
    get_full_optimizer_state_dict,
    get_shard_conditions,
    load_from_full_model_state_dict,
    load_from_full_optimizer_state_dict,
    shard_model,
    validate_no_params_on_meta_device,
    with_whole_layers,
)
from torchtune.training._step import (
    CheckpointSchedule,
    LossAccumulator,
    StepLoss,
    clip_grad_norm,
    count_loss_tokens,
    progress_bar,
    scale_grads,
    scale_grads_,
)
from torchtune.training._trained import (
    Trained,
    build_lr_scheduler,
    build_model,
    build_optimizer,
    check_step_settings,
)
from torchtune.training.activations import apply_selective_activation_checkpointing
from torchtune.training.checkpointing import *  # noqa: F403
from torchtune.training.lr_schedulers import get_cosine_schedule_with_warmup, get_lr
from torchtune.training.memory import (
    VALID_BACKENDS_FOR_MEMORY_STATS,
    InBackwardSchedule,
    OptimizerInBackwardWrapper,
    cleanup_before_training,
    create_optim_in_bwd_wrapper,
    get_memory_stats,
    keep_freed_memory,
    log_memory_stats,
    register_optim_in_bwd_hooks,
    set_activation_checkpointing,
)
from torchtune.training.pooling import get_unmasked_sequence_lengths
from torchtune.training.precision import get_dtype, set_default_dtype, validate_expected_param_dtype
from torchtune.training.quantization import get_quantizer_mode, prepare_qat, set_fake_quant
from torchtune.training.seed import get_rng_state, set_rng_state, set_seed

__all__ = [
    "CheckpointSchedule",
    "DataError",
    "DEFAULT_PROFILER_ACTIVITIES",
    "DEFAULT_PROFILE_DIR",
    "DEFAULT_SCHEDULE",
    "DEFAULT_TRACE_OPTS",
    "Distillation",
    "DummyProfiler",
    "EarlyExit",
    "InBackwardSchedule",
    "LossAccumulator",
    "LossCheck",
    "NoOpManager",
    "NonFiniteLossError",
    "Objective",
    "OffloadActivations",
    "OptimizerInBackwardWrapper",
    "PROFILER_KEY",
    "ParallelDims",
    "Parallelism",
    "PolicyRecipe",
    "Recipe",
    "ResumableSampler",
    "StepLoss",
    "StopSignal",
    "Trained",
    "VALID_BACKENDS_FOR_MEMORY_STATS",
    "add_layer_dropout",
    "all_reduce_sum",
    "apply_selective_activation_checkpointing",
    "barrier",
    "build_dataloader",
    "build_dataset",
    "build_lr_scheduler",
    "build_model",
    "build_objective",
    "build_optimizer",
    "check_data",
    "check_recipe",
    "check_step_settings",
    "check_validation_ends",
    "cleanup_before_training",
    "clip_grad_norm",
    "compile_loss",
    "compile_model",
    "count_loss_tokens",
    "create_optim_in_bwd_wrapper",
    "disable_dropout",
    "fast_fp32_products",
    "fault_reports",
    "finish_adapter",
    "gather_cpu_state_dict",
    "get_act_offloading_ctx_manager",
    "get_adapter_config",
    "get_context_parallel_manager",
    "get_cosine_schedule_with_warmup",
    "get_distributed_backend",
    "get_dtype",
    "get_full_optimizer_state_dict",
    "get_lr",
    "get_memory_stats",
    "get_quantizer_mode",
    "get_rng_state",
    "get_shard_conditions",
    "get_train_context",
    "get_unmasked_sequence_lengths",
    "get_world_size_and_rank",
    "init_distributed",
    "initial_adapter",
    "is_distributed",
    "is_quantized",
    "keep_freed_memory",
    "load_from_full_model_state_dict",
    "load_from_full_optimizer_state_dict",
    "load_loader_state",
    "load_model",
    "loader_state",
    "log_memory_stats",
    "out_of_memory_advice",
    "prepare_mha_for_tp",
    "prepare_qat",
    "progress_bar",
    "read_batches",
    "register_optim_in_bwd_hooks",
    "run_recipe",
    "scale_grads",
    "scale_grads_",
    "set_activation_checkpointing",
    "set_default_dtype",
    "set_epoch",
    "set_fake_quant",
    "set_rng_state",
    "set_seed",
    "set_torch_num_threads",
    "setup_torch_profiler",
    "shard_model",
    "steps_per_epoch",
    "token_loss",
    "validate_expected_param_dtype",
    "validate_no_params_on_meta_device",
    "with_one_dataset",
    "with_whole_layers",
]
__all__ += checkpointing.__all__
