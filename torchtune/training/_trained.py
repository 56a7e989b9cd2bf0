"""A model that a recipe trains: its weights, optimizer, schedule and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from torchtune import config
from torchtune.modules.peft import AdapterModule, get_adapter_params, set_trainable_params
from torchtune.modules.transformer import TransformerSelfAttentionLayer
from torchtune.training._compile import compile_model
from torchtune.training._distributed import get_world_size_and_rank
from torchtune.training._faults import LossCheck
from torchtune.training._model_util import disable_dropout
from torchtune.training._objectives import add_layer_dropout
from torchtune.training._parallelism import Parallelism
from torchtune.training._sharding import (
    MismatchError,
    load_from_full_model_state_dict,
    load_from_full_optimizer_state_dict,
    validate_no_params_on_meta_device,
)
from torchtune.training._step import LossAccumulator, StepLoss, clip_grad_norm, scale_grads_
from torchtune.training.activations import apply_selective_activation_checkpointing, get_act_offloading_ctx_manager
from torchtune.training.checkpointing._checkpoint_client import CheckpointClient
from torchtune.training.checkpointing._utils import ADAPTER_KEY, LR_SCHEDULER_KEY, MODEL_KEY, OPT_KEY
from torchtune.training.lr_schedulers import get_lr
from torchtune.training.memory import (
    InBackwardSchedule,
    create_optim_in_bwd_wrapper,
    register_optim_in_bwd_hooks,
    set_activation_checkpointing,
)
from torchtune.training.precision import set_default_dtype
from torchtune.training.quantization import prepare_qat

if TYPE_CHECKING:
    from torchtune.data.formats import ChatFormat


def get_adapter_config(model: nn.Module) -> dict[str, Any] | None:
    """What a checkpoint says of a model's adapter, read off its modules: ``r``, ``lora_alpha``, ``target_modules``,
    ``peft_type`` and, for DoRA, ``use_dora``; None for a model without adapter.

    Args:
        model: the model.

    Raises:
        ValueError: if the adapters have different ranks or scales, which the adapter's file cannot express.
    """
    found: Any = model.named_modules()
    modules: dict[str, Any] = {name: m for name, m in found if isinstance(m, AdapterModule) and hasattr(m, "rank")}
    if not modules:
        return None
    kinds = {(m.rank, m.alpha) for m in modules.values()}
    if len(kinds) > 1:
        raise ValueError(f"All adapters of a model need one rank and one alpha, found {sorted(kinds)}")
    rank, alpha = kinds.pop()
    config = {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({name.rpartition(".")[2] for name in modules}),
        "peft_type": "LORA",
    }
    if any("magnitude" in m.adapter_params() for m in modules.values()):
        config["use_dora"] = True
    return config


def initial_adapter(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """The start values, by parameter, of the adapters of a model on the meta device: the same on any number of ranks.

    Args:
        model: the model.
        seed: of the draws, the same on all ranks; the ranks' own generators stay as they are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, AdapterModule) and isinstance(module, nn.Module):
                module.to_empty(device="cpu")
                module.initialize_parameters()  # type: ignore[operator]
    drawn = {name: parameter.detach() for name, parameter in get_adapter_params(model).items()}
    model.to(device="meta")
    return drawn


def finish_adapter(model: nn.Module) -> None:
    """Sets what of a new adapter depends on the base weights: the magnitudes of DoRA.

    Args:
        model: the model, its weights loaded.
    """
    for module in model.modules():
        if hasattr(module, "initialize_dora_magnitude"):
            module.initialize_dora_magnitude()  # type: ignore[operator]


def build_model(
    cfg: DictConfig,
    model: DictConfig,
    state: dict[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    parallel: Parallelism | None = None,
    loss_fn: nn.Module | None = None,
    frozen: bool = False,
) -> nn.Module:
    """A model made without memory, sharded where there are several ranks, with its weights; to train unless frozen.

    Args:
        cfg: the run's settings: compile, activation checkpointing, sharding.
        model: the model's component.
        state: what a checkpointer loads; ``model`` and ``adapter`` are taken out of it.
        device: where the weights go.
        dtype: of the weights.
        seed: of a new adapter.
        parallel: how the ranks share the model; as ``cfg`` says by default.
        loss_fn: what a model that is tuned on labels minimizes. With it, layers are rounded, split and dropped as
            ``quantizer``, ``tensor_parallel_dim``, ``context_parallel_dim`` and ``layer_dropout`` say. Without it dropout
            is off.
        frozen: the model only answers: in evaluation mode, without gradients.

    Raises:
        RuntimeError: if the weights are those of another model, with what differs.
    """
    _, rank = get_world_size_and_rank()
    parallel = parallel or Parallelism(cfg, device)
    with set_default_dtype(dtype), torch.device("meta"):
        built = config.instantiate(model)
    weights = {**state.pop(MODEL_KEY)}
    has_adapter, new_adapter = get_adapter_config(built) is not None, ADAPTER_KEY not in state
    if has_adapter:
        with set_default_dtype(dtype):
            weights.update(initial_adapter(built, seed) if new_adapter else state.pop(ADAPTER_KEY))
        set_trainable_params(built, get_adapter_params(built))
    if loss_fn is None:
        disable_dropout(built)
    else:
        built = prepare_qat(built, config.instantiate(cfg.quantizer)) if cfg.get("quantizer") else built
        parallel.split_layers(built, loss_fn)
    if cfg.get("compile"):
        compile_model(built, verbose=rank == 0)
    if cfg.get("ac_mode") and not frozen:
        apply_selective_activation_checkpointing(built, cfg.ac_mode, cfg.get("ac_option"))
    elif cfg.get("enable_activation_checkpointing") and not frozen:
        set_activation_checkpointing(built, auto_wrap_policy={TransformerSelfAttentionLayer})
    if cfg.get("layer_dropout") and loss_fn is not None:
        add_layer_dropout(built, cfg.layer_dropout)
    parallel.shard(built)
    offload = cfg.get("fsdp_cpu_offload", False)
    try:
        load_from_full_model_state_dict(built, weights, device, strict=True, cpu_offload=offload)
    except MismatchError as error:
        raise RuntimeError(
            f"{error}. {model._component_} was built, and the weights are those of its checkpointer: the builder, or the sizes "
            "given to it, must be those of config.json in checkpoint_dir"
        ) from error
    if has_adapter and new_adapter:
        finish_adapter(built)
    validate_no_params_on_meta_device(built)
    return built.requires_grad_(False).eval() if frozen else built.train()


# Settings that count something, so that 0 means nothing that a run could do
_COUNTS = ("batch_size", "batch_size_val", "gradient_accumulation_steps", "epochs", "log_every_n_steps")


def check_step_settings(cfg: DictConfig) -> None:
    """Refuses settings of the step that count nothing, or contradict each other.

    Args:
        cfg: a recipe's config.

    Raises:
        ValueError: with the keys and what they are.
    """
    for key in _COUNTS:
        count = cfg.get(key)
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"{key} is {count!r}; expected a whole number from 1")
    limit = cfg.get("max_steps_per_epoch")
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise ValueError(f"max_steps_per_epoch is {limit!r}; expected a whole number, or null for all rows")
    steps = cfg.get("gradient_accumulation_steps") or 1
    if cfg.get("optimizer_in_bwd") and (cfg.get("clip_grad_norm") is not None or steps > 1):
        raise ValueError(
            "optimizer_in_bwd: true steps each parameter as soon as its gradient is there, so it allows neither "
            f"clip_grad_norm (is {cfg.get('clip_grad_norm')}) nor gradient_accumulation_steps > 1 (is {steps}); set these "
            "to null and 1, or optimizer_in_bwd: false"
        )
    if cfg.get("optimizer_in_bwd") and cfg.get("on_nan_loss") == "skip":
        raise ValueError("on_nan_loss: skip comes too late with optimizer_in_bwd: true; set one of them otherwise")
    if cfg.get("enable_activation_offloading") and not cfg.get("enable_activation_checkpointing"):
        raise ValueError("enable_activation_offloading: true needs enable_activation_checkpointing: true")


def build_optimizer(cfg: DictConfig, model: nn.Module, parameters: Sequence[nn.Parameter]) -> Any:
    """The config's ``optimizer``; with ``optimizer_in_bwd`` one for each parameter, behind the face of one.

    Args:
        cfg: a recipe's config.
        model: the model.
        parameters: those of it that are trained.
    """
    if not cfg.get("optimizer_in_bwd"):
        return config.instantiate(cfg.optimizer, parameters)
    optimizers = {parameter: config.instantiate(cfg.optimizer, [parameter]) for parameter in parameters}
    register_optim_in_bwd_hooks(model=model, optim_dict=optimizers)
    return create_optim_in_bwd_wrapper(model=model, optim_dict=optimizers)


def build_lr_scheduler(cfg: DictConfig, optimizer: Any, num_training_steps: int) -> Any:
    """The config's ``lr_scheduler``, None if it has none.

    Args:
        cfg: a recipe's config.
        optimizer: what :func:`build_optimizer` gave.
        num_training_steps: optimizer steps of the run.
    """
    if cfg.get("lr_scheduler") is None:
        return None
    build = partial(config.instantiate, cfg.lr_scheduler, num_training_steps=num_training_steps)
    if cfg.get("optimizer_in_bwd"):
        return InBackwardSchedule(optimizer, build(next(iter(optimizer.optim_map.values()))))
    return build(optimizer)


class Trained:
    """A model with its optimizer, schedule and checkpoints. See :func:`build_model`.

    Args:
        cfg: the run's settings.
        model: the config key of the model's component.
        checkpointer: the config key of its checkpointer.
        chat_format: what it is trained in, which the chat template of its checkpoints follows.
    """

    def __init__(
        self,
        cfg: DictConfig,
        model: str,
        checkpointer: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
        parallel: Parallelism,
        loss_fn: nn.Module | None = None,
        chat_format: ChatFormat | None = None,
    ) -> None:
        self.cfg, self.device = cfg, device
        own = cfg
        if checkpointer != "checkpointer":
            own = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
            own.checkpointer = own[checkpointer]
        self.checkpoints = CheckpointClient(own, chat_format=chat_format)
        self._state = self.checkpoints.load_base_checkpoint()
        common: dict[str, Any] = {"device": device, "dtype": dtype, "seed": seed, "parallel": parallel}
        self.model = build_model(cfg, cfg[model], self._state, loss_fn=loss_fn, **common)
        self.adapter_config = get_adapter_config(self.model)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.activations = get_act_offloading_ctx_manager(
            self.model,
            cfg.get("enable_activation_offloading", False),
            cfg.get("activation_offloading_use_streams", True),
        )
        self.in_backward = bool(cfg.get("optimizer_in_bwd", False))
        self.optimizer = build_optimizer(cfg, self.model, self.parameters)
        self.lr_scheduler: Any = None
        self.lr = get_lr(self.optimizer)
        self.losses = LossAccumulator(device, copies=parallel.copies_of_tokens)
        self.loss_check = LossCheck(cfg.get("on_nan_loss", "stop"))
        self._counted: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def schedule(self, num_training_steps: int) -> None:
        """Makes the learning rate schedule that the config names, if it does.

        Args:
            num_training_steps: optimizer steps of the run.
        """
        self.lr_scheduler = build_lr_scheduler(self.cfg, self.optimizer, num_training_steps)

    def backward(self, loss: torch.Tensor, weight: torch.Tensor | int, rows: Sequence[int] = ()) -> None:
        """Adds a micro-batch's gradients.

        Args:
            loss: its mean loss.
            weight: how many tokens or rows that is the mean of.
            rows: numbers of its rows, to be named should the loss be no number.
        """
        add = self.losses.add_normalized if self.in_backward else self.losses.add
        self.count(loss, weight, rows, add).backward()

    def count(
        self,
        loss: torch.Tensor,
        weight: torch.Tensor | int,
        rows: Sequence[int] = (),
        add: Callable[..., Any] | None = None,
    ) -> torch.Tensor:
        """Counts a micro-batch whose gradients come in another way. See :meth:`Trained.backward`.

        Args:
            add: what adds it up. Default: ``losses.add``.

        Returns:
            The loss, summed up.
        """
        summed = (add or self.losses.add)(loss, weight)
        self._counted.append((summed.detach(), {"rows": rows}))
        return summed

    def step(self, number: int) -> tuple[StepLoss, float | None]:
        """The loss over all ranks of a step on what was added since the last, and the norm of clipped gradients.

        Args:
            number: of the recipe's step, from 1, for errors.

        Raises:
            NonFiniteLossError: if the loss is no number, unless ``on_nan_loss`` leaves such steps out.
        """
        step, norm, max_norm = self.losses.finish(), None, self.cfg.get("clip_grad_norm")
        self.lr = get_lr(self.optimizer)
        if not self.in_backward:
            scale_grads_(self.parameters, step.grad_scale)
            if max_norm is not None:
                norm = float(clip_grad_norm(self.parameters, float(max_norm)))
        parts, batches = zip(*self._counted, strict=True)
        self._counted = []
        usable = self.loss_check(step.loss, norm, parts, batches, number)
        if not self.in_backward:
            if usable:
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        return step, norm

    def resume(self) -> dict[str, Any]:
        """Puts optimizer and schedule where the saved run left them.

        Returns:
            The saved counters and positions.
        """
        state, self._state = self._state, {}
        if self.checkpoints.resumes_from_distributed:
            state = self.checkpoints.load_distributed_checkpoint(self.model, self.optimizer, self.adapter_config)
        else:
            load_from_full_optimizer_state_dict(self.model, self.optimizer, state[OPT_KEY], self.device)
        if self.lr_scheduler is not None and state.get(LR_SCHEDULER_KEY) is not None:
            self.lr_scheduler.load_state_dict(state[LR_SCHEDULER_KEY])
        return state
