"""What downstream projects do: the names they import, and a speech model of two Llama 3.2 decoders (CSM)."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor, nn

from torchtune.models.llama3_2 import llama3_2
from torchtune.modules import TransformerDecoder

MOST_USED = """
torchtune: config generation modules training utils datasets models
torchtune.config: instantiate parse log_config validate
torchtune.config._utils: _get_component_from_path
torchtune.data: Message Role CROSS_ENTROPY_IGNORE_IDX PromptTemplate padded_collate_sft padded_collate_packed InputOutputToMessages
  OpenAIToMessages ShareGPTToMessages validate_messages
torchtune.data._messages: Message
torchtune.datasets: SFTDataset PackedDataset ConcatDataset PreferenceDataset alpaca_dataset chat_dataset instruct_dataset
torchtune.generation: generate sample
torchtune.models.convert_weights: get_mapped_key hf_to_tune tune_to_hf
torchtune.models.llama3: llama3_tokenizer Llama3Tokenizer llama3_8b lora_llama3_8b
torchtune.models.llama3_1: llama3_1_8b
torchtune.models.llama3_2: llama3_2 llama3_2_1b lora_llama3_2_1b
torchtune.models.qwen2_5: qwen2_5_7b_instruct qwen2_5_tokenizer
torchtune.modules: TransformerDecoder TransformerSelfAttentionLayer MultiHeadAttention FeedForward RMSNorm
  RotaryPositionalEmbeddings KVCache local_kv_cache
torchtune.modules.loss: LinearCrossEntropyLoss CEWithChunkedOutputLoss
torchtune.modules.peft: LoRALinear DoRALinear get_adapter_params set_trainable_params get_merged_lora_ckpt
torchtune.modules.transforms.tokenizers: ModelTokenizer
torchtune.recipe_interfaces: FTRecipeInterface
torchtune.training: FullModelHFCheckpointer get_dtype set_default_dtype set_seed get_cosine_schedule_with_warmup
torchtune.training.metric_logging: WandBLogger DiskLogger
torchtune.utils: get_device get_logger batch_to_device
"""


def most_used() -> list[tuple[str, str]]:
    lines = MOST_USED.strip().replace("\n  ", " ").splitlines()
    return [(module, name) for module, names in (line.split(":") for line in lines) for name in names.split()]


def test_the_most_used_names_import() -> None:
    pairs = most_used()
    assert len(pairs) >= 50
    assert [pair for pair in pairs if not hasattr(importlib.import_module(pair[0]), pair[1])] == []


VOCAB, AUDIO, CODEBOOKS = 40, 12, 4


def body(num_layers: int, embed_dim: int) -> TransformerDecoder:
    """A Llama 3.2 decoder from vectors to vectors."""
    model = llama3_2(
        vocab_size=VOCAB,
        num_layers=num_layers,
        num_heads=4,
        num_kv_heads=2,
        embed_dim=embed_dim,
        max_seq_len=32,
        intermediate_dim=2 * embed_dim,
        scale_factor=32,
    )
    model.tok_embeddings = nn.Identity()  # type: ignore[assignment]
    model.output = nn.Identity()
    return model


def causal(size: int) -> Tensor:
    return torch.tril(torch.ones(size, size, dtype=torch.bool))


class Speech(nn.Module):
    """A backbone over frames, and a decoder over the codebooks of a frame, each with a KV cache of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.decoder = body(2, 32), body(1, 16)
        self.text = nn.Embedding(VOCAB, 32)
        self.audio = nn.Embedding(AUDIO * CODEBOOKS, 32)
        self.projection = nn.Linear(32, 16, bias=False)
        self.first = nn.Linear(32, AUDIO, bias=False)
        self.heads = nn.Parameter(torch.randn(CODEBOOKS - 1, 16, AUDIO))

    def setup_caches(self, batch: int) -> None:
        self.backbone.setup_caches(batch, torch.float32)
        self.decoder.setup_caches(batch, torch.float32, decoder_max_seq_len=CODEBOOKS)

    def reset_caches(self) -> None:
        self.backbone.reset_caches()
        self.decoder.reset_caches()

    def run(self, model: TransformerDecoder, x: Tensor, positions: Tensor, size: int) -> Tensor:
        if not model.caches_are_enabled():
            return model(x, input_pos=positions, mask=causal(x.shape[1])[None].expand(len(x), -1, -1))
        return model(x, input_pos=positions, mask=causal(size)[positions])

    def frame(self, frames: Tensor, positions: Tensor) -> Tensor:
        """The codes of the next frame: greedy, ``[b, CODEBOOKS]``."""
        h = self.run(self.backbone, frames, positions, 32)[:, -1]
        codes = [self.first(h).argmax(-1)]
        current = torch.stack([h, self.audio(codes[0])], dim=1)
        place = torch.arange(2).expand(len(h), -1)
        if self.decoder.caches_are_enabled():
            self.decoder.reset_caches()
        seen = current
        for i in range(1, CODEBOOKS):
            cached = self.decoder.caches_are_enabled()
            given = current if cached else seen
            where = place if cached else torch.arange(given.shape[1]).expand(len(h), -1)
            out = self.run(self.decoder, self.projection(given), where, CODEBOOKS)
            codes.append((out[:, -1] @ self.heads[i - 1]).argmax(-1))
            current, place = self.audio(codes[-1] + i * AUDIO)[:, None], place[:, -1:] + 1
            seen = torch.cat([seen, current], dim=1)
        return torch.stack(codes, dim=1)

    def speak(self, text: Tensor, count: int) -> Tensor:
        """``count`` frames after a text, ``[b, count, CODEBOOKS]``."""
        frames = self.text(text)
        positions = torch.arange(frames.shape[1]).expand(len(text), -1)
        said = []
        new = frames
        for _ in range(count):
            cached = self.backbone.caches_are_enabled()
            said.append(
                self.frame(new if cached else frames, positions if cached else torch.arange(frames.shape[1])[None])
            )
            new = self.audio(said[-1] + AUDIO * torch.arange(CODEBOOKS)).sum(1, keepdim=True)
            frames, positions = torch.cat([frames, new], dim=1), positions[:, -1:] + 1
        return torch.stack(said, dim=1)


@torch.no_grad()
def test_a_speech_model_of_two_decoders_says_the_same_with_caches_and_after_a_reset() -> None:
    torch.manual_seed(0)
    model = Speech().eval()
    text = torch.randint(0, VOCAB, (2, 5))
    expected = model.speak(text, 6)
    assert expected.unique().numel() > 2
    model.setup_caches(2)
    assert model.backbone.caches_are_setup() and model.decoder.caches_are_enabled()
    assert torch.equal(model.speak(text, 6), expected)
    model.reset_caches()
    assert torch.equal(model.speak(text.flip(0), 6), expected.flip(0))
    model.reset_caches()
    assert torch.equal(model.speak(text, 6), expected)


def test_caches_are_set_up_once_and_their_length_is_kept() -> None:
    model = body(1, 16)
    model.setup_caches(1, torch.float32, decoder_max_seq_len=8)
    assert model.layers[0].attn.kv_cache.k_cache.shape[2] == 8  # type: ignore[union-attr]
    with torch.no_grad(), pytest.raises(AssertionError, match="room for 8 tokens"):
        model(torch.randn(1, 9, 16), input_pos=torch.arange(9)[None], mask=causal(9)[None])
