"""Evaluation with EleutherAI's lm-evaluation-harness: any of its tasks, with the model's own chat format and tools.

    pip install 'torchtune[eval]'
    tune run eleuther_eval --config qwen3/evaluation tasks=[hellaswag] apply_chat_template=true

A model that reads images takes tasks that have some. Tasks of your own, on files that you have: ``include_path`` names their folder of YAML files.
"""

from __future__ import annotations

import json
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from torchtune import config, training, utils
from torchtune.data import Message, OpenAIToMessages, format_content_with_images
from torchtune.generation import generate_from_images, generate_tokens, image_prompt

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, make_table
except ImportError as error:
    raise ImportError("The recipe eleuther_eval needs lm-evaluation-harness: pip install 'torchtune[eval]'") from error

CONFIG_KEYS = {
    "output_dir", "model", "checkpointer", "resume_from_checkpoint", "tokenizer", "tasks", "limit", "include_path",
    "num_fewshot", "apply_chat_template", "chat_template", "tools", "max_seq_length", "batch_size", "enable_kv_cache",
    "quantizer", "device", "dtype", "seed", "cudnn_deterministic_mode", "log_level",
}  # fmt: skip

log = utils.get_logger("INFO")
_IMAGE = "<image>"  # where the harness's prompts have an image


class HarnessModel(TemplateLM):
    """A model and its tokenizer as the harness uses them.

    Args:
        model: a decoder, in evaluation mode.
        tokenizer: its model tokenizer.
        device: where the model is.
        max_length: tokens of a prompt with its answer.
        batch_size: prompts at once.
        tools: OpenAI function schemas that every chat offers.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        device: torch.device,
        max_length: int = 4096,
        batch_size: int = 8,
        tools: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self._model: Any = model
        self._device = device
        self._tokens = tokenizer
        self._tools = tools
        self.MULTIMODAL = hasattr(tokenizer, "transform_image")  # the harness asks for it by this name
        self.max_length = min(max_length, getattr(model, "max_seq_len", max_length))
        self.batch_size = batch_size
        # The harness passes chats on as text; their tokens can't be had back from that, since text makes no control tokens.
        self._chats: dict[str, list[int]] = {}
        self._histories: dict[str, tuple[list[dict[str, Any]], str]] = {}

    @property
    def eot_token_id(self) -> int:
        """Ends a text."""
        return self._tokens.eos_id

    @property
    def prefix_token_id(self) -> int:
        """Stands before a text without context."""
        return self.eot_token_id if self._tokens.bos_id is None else self._tokens.bos_id

    @property
    def tokenizer_name(self) -> str:
        """For the harness's own cache of requests."""
        return type(self._tokens).__name__

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The name of the chat format; the harness keeps it with the results."""
        return self.tokenizer_name if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a chat in the model's official format; its tokens are kept."""
        history = [dict(message) for message in chat_history]
        begun = "" if add_generation_prompt else history.pop()["content"]
        sample = OpenAIToMessages()({"messages": history, "tools": self._tools})
        tokens = self._tokens.prompt_tokens(sample["messages"], tools=sample.get("tools"))
        try:
            text = self._tokens.decode(tokens, skip_special_tokens=False)
        except TypeError:  # SentencePiece has no text for control tokens
            text = self._tokens.decode(tokens)
        self._histories[text + begun] = (history, begun)
        self._chats[text + begun] = tokens + (self.tok_encode(begun, add_special_tokens=False) if begun else [])
        return text + begun

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The tokens of a text or of a chat."""
        if string in self._chats:
            return list(self._chats[string])
        return self._tokens.encode(string, add_bos=add_special_tokens is not False, add_eos=False)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context in self._chats:
            return self.tok_encode(context), self.tok_encode(continuation, add_special_tokens=False)
        return super()._encode_pair(context, continuation)

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """For each (texts, context, continuation) the log probability, and whether greedy decoding would give it."""
        rows = [(context + continuation)[-(self.max_length + 1) :] for _, context, continuation in requests]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        bar = training.progress_bar(len(rows), desc="likelihoods", disable=disable_tqdm)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            width = len(rows[batch[0]]) - 1
            tokens = torch.zeros(len(batch), width, dtype=torch.long)
            for at, i in enumerate(batch):
                tokens[at, : len(rows[i]) - 1] = torch.tensor(rows[i][:-1])
            logits = self._model(tokens.to(self._device))  # padding on the right is seen by no token before it
            for at, i in enumerate(batch):
                count = min(len(requests[i][2]), len(rows[i]) - 1)
                scores = logits[at, len(rows[i]) - 1 - count : len(rows[i]) - 1].float().log_softmax(-1)
                wanted = torch.tensor(rows[i][len(rows[i]) - count :], device=scores.device)
                total = scores.gather(1, wanted[:, None]).sum().item()
                found[i] = (total, bool((scores.argmax(-1) == wanted).all()))
                self.cache_hook.add_partial("loglikelihood", requests[i][0], found[i])
            bar.update(len(batch))
        bar.close()
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log probability of each text, read in windows."""
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            parts = [(("", ""), *make_disjoint_window(window)) for window in windows]
            totals.append(sum(score for score, _ in self._loglikelihood_tokens(parts, disable_tqdm=True)))
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The model's answers, each cut where its task says."""
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            if len(request.args) > 2:
                answers[i] = self._answer_images(request)
            else:
                groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(i)
        for group in groups.values():
            options = requests[group[0]].args[1]
            count, sampling = self._sampling(options)
            outputs = generate_tokens(
                self._model,
                [self.tok_encode(requests[i].args[0])[-(self.max_length - count) :] for i in group],
                batch_size=self.batch_size,
                **sampling,
            )
            for i, ids in zip(group, outputs, strict=True):
                answers[i] = self._cut(ids, options)
                self.cache_hook.add_partial("generate_until", requests[i].args, answers[i])
        return answers

    def _sampling(self, options: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """How many tokens a task asks for, and how they are drawn."""
        count = int(options.get("max_gen_toks") or options.get("max_new_tokens") or 256)
        if self.max_length - count < 1:
            raise ValueError(f"The task asks for {count} new tokens, but max_seq_length is {self.max_length}: raise it")
        drawn = options.get("do_sample") or float(options.get("temperature") or 0) > 0
        return count, {
            "stop_tokens": self._tokens.official_stop_tokens,
            "max_generated_tokens": count,
            "temperature": float(options.get("temperature") or 1.0) if drawn else 0.0,
            "top_k": options.get("top_k") if drawn else None,
        }

    def _cut(self, ids: list[int], options: dict[str, Any]) -> str:
        """The text of generated ids, up to where the task ends it."""
        text = self._tokens.decode([*takewhile(lambda token: token not in self._tokens.official_stop_tokens, ids)])
        until = options.get("until") or []
        ends = [text.find(stop) for stop in ([until] if isinstance(until, str) else until) if stop and stop in text]
        return text[: min(ends)] if ends else text

    def _answer_images(self, request: Any) -> str:
        """The answer to a prompt with images; without a chat template it is asked as one message of a user."""
        context, options, media = request.args
        images = [image.convert("RGB") for image in media.get("visual") or ()]
        others = sorted(key for key, value in media.items() if key != "visual" and value)
        history, begun = self._histories.get(context, ([{"role": "user", "content": context}], ""))
        found = sum(message["content"].count(_IMAGE) for message in history)
        if others or begun or found != len(images):
            raise ValueError(
                f"The task {request.task_name} has {len(images)} images for {found} {_IMAGE} in its prompt"
                + (f", and {', '.join(others)}" if others else "")
                + (f", and begins the answer with {begun!r}" if begun else "")
                + "; this recipe takes images only, one for each, and no begun answer"
            )
        messages, left = [], iter(images)
        for message in history:
            parts = [next(left) for _ in range(message["content"].count(_IMAGE))]
            content = format_content_with_images(message["content"], image_tag=_IMAGE, images=parts)
            messages.append(Message(message["role"], content))
        batch = image_prompt(self._tokens, messages, self._tools)
        count, sampling = self._sampling(options)
        if batch["tokens"].shape[1] + count > self.max_length:
            raise ValueError(
                f"A prompt of the task {request.task_name} has {batch['tokens'].shape[1]} tokens with its images, and asks "
                f"for {count} new ones, but max_seq_length is {self.max_length}: raise it"
            )
        return self._cut(generate_from_images(self._model, batch, **sampling), options)


class EleutherEvalRecipe:
    """Evaluates a model on tasks of the harness.

    Args:
        cfg: the settings; the keys are :data:`CONFIG_KEYS`.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        log.setLevel(cfg.get("log_level", "INFO"))
        self.device = utils.get_device(cfg.device)
        self.dtype = training.get_dtype(cfg.dtype, device=self.device)
        self.seed = training.set_seed(cfg.get("seed"), debug_mode=cfg.get("cudnn_deterministic_mode"))

    def setup(self) -> None:
        """Loads model and tokenizer, and finds the tasks."""
        cfg = self.cfg
        tools = cfg.get("tools")
        if isinstance(tools, str):
            tools = json.loads(Path(tools).expanduser().read_text(encoding="utf-8"))
        elif tools is not None:
            tools = OmegaConf.to_container(tools, resolve=True)
        self.harness = HarnessModel(
            training.load_model(cfg, self.device, self.dtype),
            config.instantiate(cfg.tokenizer),
            device=self.device,
            max_length=cfg.get("max_seq_length", 4096),
            batch_size=cfg.get("batch_size", 8),
            tools=tools,
        )
        tasks = cfg.get("tasks")
        if tasks is None:
            raise ValueError("tasks is not set; name tasks of lm-evaluation-harness, such as tasks=[hellaswag]")
        self.tasks = tasks.split(",") if isinstance(tasks, str) else list(tasks)
        self.task_manager = TaskManager(include_path=cfg.get("include_path"))

    def evaluate(self) -> dict[str, Any]:
        """Runs the tasks, prints a table, and returns what the harness found."""
        cfg = self.cfg
        found: Any = simple_evaluate(
            self.harness,
            tasks=self.tasks,
            num_fewshot=cfg.get("num_fewshot"),
            limit=cfg.get("limit"),
            apply_chat_template=bool(cfg.get("apply_chat_template", cfg.get("chat_template", False))),
            task_manager=self.task_manager,
            random_seed=self.seed,
            torch_random_seed=self.seed,
            log_samples=False,
            bootstrap_iters=1000,
        )
        print(make_table(found))
        return found


@config.parse
def recipe_main(cfg: DictConfig) -> None:
    """Runs the recipe with a parsed config."""
    config.check_keys(cfg, CONFIG_KEYS)
    config.log_config(recipe_name="EleutherEvalRecipe", cfg=cfg)
    recipe = EleutherEvalRecipe(cfg)
    recipe.setup()
    recipe.evaluate()


if __name__ == "__main__":
    sys.exit(recipe_main())
