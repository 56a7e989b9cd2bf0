"""Generation: a prompt, or a conversation with tools, and the model's answer.

    tune run generate --config generation prompt.user="Tell me a joke."
    tune run generate --config quickstart/generation tools=./tools.json prompt.user="Weather in Oslo?"
    tune run --nproc-per-node 8 dev/generate_v2_distributed --config llama3_3/70B_generation_distributed

In several processes the layers are split over them (tensor parallel). With ``messages`` or ``tools`` the conversation is written in the model's official format, and the answer is printed as the
message it parses to: content, reasoning and tool calls, as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

from torchtune import config, training, utils
from torchtune.data import Message, OpenAIToMessages, validate_messages
from torchtune.generation import generate, generate_from_images, image_prompt

CONFIG_KEYS = {
    "output_dir", "model", "tokenizer", "checkpointer", "quantizer", "prompt", "messages", "tools", "max_new_tokens",
    "temperature", "top_k", "enable_kv_cache", "device", "dtype", "seed", "cudnn_deterministic_mode", "log_level",
    "tensor_parallel_plan", "use_distributed_state_dict", "use_flex",
}  # fmt: skip

log = utils.get_logger("INFO")


def read_json(value: Any, key: str) -> Any:
    """The value of a config key that holds JSON: as YAML, as a JSON string, or the name of a .json file."""
    if value is None:
        return None
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    if isinstance(value, str):
        is_text = value.lstrip().startswith(("[", "{"))
        try:
            return json.loads(value if is_text else Path(value).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{key}: expected JSON, or the name of a file with JSON, found {value[:80]!r}: {error}"
            ) from error
    raise ValueError(f"{key}: expected a list, a JSON string or a file name, found {type(value).__name__}")


def content_of(user: Any) -> Any:
    """The content of a prompt that is a text, or has ``text`` and ``image``, a path or a URL."""
    if not isinstance(user, Mapping):
        return user
    image = [{"type": "image_url", "image_url": {"url": str(user["image"])}}] if user.get("image") is not None else []
    return [*image, {"type": "text", "text": str(user["text"])}]


class InferenceRecipe:
    """One generation, as its config says.

    Args:
        cfg: the settings; ``prompt`` (a text, or ``system`` and ``user`` texts; ``user`` may have ``text`` and ``image``) or
            ``messages`` (OpenAI form, images too), and ``tools``.
            ``use_distributed_state_dict`` and ``use_flex`` are accepted for old configs: weights are mapped from their files
            on every rank in any case.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.device = utils.get_device(cfg.device)
        self.dtype = training.get_dtype(cfg.dtype, device=self.device)
        self.world_size, self.rank = training.get_world_size_and_rank()
        log.setLevel(cfg.get("log_level", "INFO"))
        self.max_new_tokens = cfg.get("max_new_tokens", 300)
        self.seed = training.set_seed(cfg.get("seed"), cfg.get("cudnn_deterministic_mode"))

    def setup(self) -> None:
        """Loads model and tokenizer."""
        self.model = training.load_model(self.cfg, self.device, self.dtype)
        self.tokenizer = config.instantiate(self.cfg.tokenizer)

    def conversation(self) -> tuple[list[Message], list[dict[str, Any]] | None]:
        """The messages to answer, and the tools on offer."""
        tools = read_json(self.cfg.get("tools"), "tools")
        messages = read_json(self.cfg.get("messages"), "messages")
        if messages is None:
            prompt = self.cfg.get("prompt")
            if prompt is None:
                raise ValueError("There is nothing to answer: set prompt.user, or messages (JSON, or a file with JSON)")
            texts = (
                {"user": prompt} if isinstance(prompt, str) else {role: prompt.get(role) for role in ("system", "user")}
            )
            messages = [{"role": role, "content": content_of(text)} for role, text in texts.items() if text is not None]
        sample = OpenAIToMessages(image_urls=True)({"messages": messages, "tools": tools})
        validate_messages(sample["messages"], sample.get("tools"), inference=True)
        return sample["messages"], sample.get("tools")

    @property
    def structured(self) -> bool:
        """True where the answer is to be parsed: a conversation or tools were given."""
        return bool(self.cfg.get("messages") or self.cfg.get("tools"))

    def prompt_tokens(self) -> list[int]:
        """The tokens to continue, where there are no images."""
        messages, tools = self.conversation()
        if self.structured:
            return self.tokenizer.prompt_tokens(messages, tools=tools)
        return self.tokenizer({"messages": [*messages, Message("assistant", "")]}, inference=True)["tokens"]

    @torch.inference_mode()
    def generate(self) -> str:
        """Generates once, prints the answer, and returns it."""
        messages, tools = self.conversation()
        stops = self.tokenizer.official_stop_tokens if self.structured else self.tokenizer.stop_tokens
        options = {"max_generated_tokens": self.max_new_tokens, "temperature": self.cfg.get("temperature", 0.6)}
        options |= {"top_k": self.cfg.get("top_k"), "stop_tokens": stops, "rng": self._shared_draws()}
        started = time.perf_counter()
        if any(message.contains_media for message in messages):
            answer = self._answer_images(messages, tools, options)
        else:
            answer = self._answer_text(options)
        seconds = time.perf_counter() - started
        emitted = [*itertools.takewhile(lambda token: token not in stops, answer)]
        text = self._show(answer[: len(emitted) + 1], emitted)
        if self.rank == 0:
            print(text)
            log.info("%d tokens in %.2f s: %.1f tokens/s", len(emitted), seconds, len(emitted) / seconds)
        return text

    def _answer_text(self, options: dict[str, Any]) -> list[int]:
        tokens = self.prompt_tokens()
        longest = getattr(self.model, "max_seq_len", len(tokens) + self.max_new_tokens)
        if len(tokens) >= longest:
            raise ValueError(f"The prompt has {len(tokens)} tokens, but the model reads {longest}: shorten it")
        if len(tokens) + self.max_new_tokens > longest:
            self.max_new_tokens = options["max_generated_tokens"] = longest - len(tokens)
            log.warning("max_new_tokens is cut to %d: the model reads %d tokens", self.max_new_tokens, longest)
        if self.cfg.get("enable_kv_cache", True):
            room = len(tokens) + self.max_new_tokens
            with self.device:
                self.model.setup_caches(1, self.dtype, encoder_max_seq_len=1, decoder_max_seq_len=room)
        prompt = torch.tensor(tokens, dtype=torch.long, device=self.device)
        output, _ = generate(self.model, prompt, pad_id=self.tokenizer.pad_id, **options)
        return output[0, len(tokens) :].tolist()

    def _answer_images(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, options: dict[str, Any]
    ) -> list[int]:
        if not hasattr(self.tokenizer, "transform_image"):
            raise ValueError(f"The prompt has an image, but {type(self.tokenizer).__name__} reads text only")
        batch = image_prompt(self.tokenizer, messages, tools, official=self.structured)
        return generate_from_images(self.model, batch, use_cache=self.cfg.get("enable_kv_cache", True), **options)

    def _shared_draws(self) -> torch.Generator | None:
        """Random numbers that are the same on all ranks, where there are several."""
        return torch.Generator(self.device).manual_seed(self.seed) if self.world_size > 1 else None

    def _show(self, with_end: list[int], emitted: list[int]) -> str:
        if not self.structured:
            return self.tokenizer.decode(emitted)
        return json.dumps(self.tokenizer.parse_tokens(with_end).to_dict(), indent=2, ensure_ascii=False)


@config.parse
def main(cfg: DictConfig) -> None:
    config.check_keys(cfg, CONFIG_KEYS)
    if training.is_distributed():
        training.init_distributed(backend=training.get_distributed_backend(cfg.device))
    config.log_config(recipe_name="InferenceRecipe", cfg=cfg)
    recipe = InferenceRecipe(cfg)
    recipe.setup()
    recipe.generate()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
