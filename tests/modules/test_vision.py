"""Vision transformer, its tokens, exportable position embeddings, vector quantization."""

from __future__ import annotations

import pytest
import torch
from _tiny_layers import DIM, attention, mlp
from torch import Tensor, nn

from torchtune.modules import TransformerSelfAttentionLayer, VectorQuantizedEmbeddings, VisionTransformer
from torchtune.modules._export._position_embeddings import (
    TiledTokenPositionalEmbedding,
    TilePositionalEmbedding,
    replace_tile_positional_embedding,
    replace_tiled_token_positional_embedding,
)
from torchtune.modules._export.attention import MultiHeadAttention as ExportAttention
from torchtune.modules.vision_transformer import CLSEmbedding, CLSProjection


class NoPositions(nn.Module):
    def forward(self, x: Tensor, aspect_ratio: Tensor) -> Tensor:
        return x


def vision_transformer(**options: object) -> VisionTransformer:
    torch.manual_seed(0)
    layer = TransformerSelfAttentionLayer(attention(rope=False, is_causal=False), mlp())
    return VisionTransformer(4, 8, 2, DIM, layer, NoPositions(), **options)  # type: ignore[arg-type]


def test_tiles_become_patches_with_a_cls_token_and_layers_see_the_whole_image() -> None:
    model = vision_transformer(out_indices=[0, 1])
    images = torch.randn(1, 2, 3, 3, 8, 8)
    out, hidden = model(images, torch.tensor([[[1, 3], [3, 1]]]))
    assert out.shape == (1, 2, 3, 5, DIM) and model.get_image_tokens_per_tile() == 5
    assert [h.shape for h in hidden] == [out.shape] * 2
    patch = images[0, 1, 2, :, 4:8, 0:4]  # second row, first column: the third patch
    want = model.ln_pre((model.conv.weight * patch).sum((1, 2, 3)))
    torch.testing.assert_close(hidden[0][0, 1, 2, 1 + 2], want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(hidden[0][0, 0, 1, 0], model.ln_pre(model.cls_token_embedding.weight))
    x = hidden[0][0, 1].flatten(0, 1).unsqueeze(0)
    for layer in model.layers:
        x = layer(x)
    torch.testing.assert_close(out[0, 1].flatten(0, 1), model.ln_post(x)[0], atol=1e-5, rtol=1e-4)


def test_tile_embeddings_and_cls_projection_are_applied() -> None:
    pre, post = TilePositionalEmbedding(2, DIM), TilePositionalEmbedding(2, DIM)
    for module in (pre, post):
        nn.init.ones_(module.gate)
    model = vision_transformer(pre_tile_pos_embed=pre, post_tile_pos_embed=post, cls_projection=CLSProjection(DIM, 6))
    out, _ = model(torch.randn(1, 1, 2, 3, 8, 8), torch.tensor([[[1, 2]]]))
    assert out.shape == (1, 1, 2, 1, 6)
    out.sum().backward()
    for module in (pre, post):
        assert module.embedding.grad[0, :2].any() and not module.embedding.grad[1].any()


def test_cls_token_is_put_on_the_chosen_side() -> None:
    x = torch.randn(2, 3, 4, DIM)
    for append, place in ((False, 0), (True, -1)):
        embedding = CLSEmbedding(DIM, append_cls_token=append)
        out = embedding(x)
        torch.testing.assert_close(out[1, 2, place], embedding.weight)
        torch.testing.assert_close(out[:, :, 1:] if not append else out[:, :, :-1], x)


def test_impossible_vision_transformers_are_refused() -> None:
    with pytest.raises(ValueError, match="must be layers of 0 to 1"):
        vision_transformer(out_indices=[2])
    with pytest.raises(ValueError, match="aspect_ratio was not provided"):
        vision_transformer()(torch.randn(1, 1, 2, 3, 8, 8))
    vision_transformer()(torch.randn(1, 1, 1, 3, 8, 8))


@pytest.mark.parametrize("ratio", [(1, 1), (1, 3), (2, 2), (3, 1)])
def test_exportable_position_embeddings_equal_a_loop_over_tiles(ratio: tuple[int, int]) -> None:
    torch.manual_seed(0)
    tiles, tokens = TilePositionalEmbedding(3, DIM), TiledTokenPositionalEmbedding(3, DIM, tile_size=8, patch_size=4)
    for module in (tiles, tokens):
        nn.init.constant_(module.gate, 0.4)
    rows, columns = ratio
    x, aspect = torch.randn(2, 4, 5, DIM), torch.tensor([ratio, (1, 2)])
    gate = tiles.gate.tanh()
    want_tiles = x.clone()
    want_tokens = x + tokens.local_token_positional_embedding * (1 - gate)
    for image, (r, c) in enumerate([(rows, columns), (1, 2)]):
        for tile in range(r * c):
            row, column = divmod(tile, c)
            want_tiles[image, tile] += tiles.embedding[row, column] * gate
            want_tokens[image, tile] += tokens.global_token_positional_embedding[row, column] * gate
    torch.testing.assert_close(tiles(x, aspect), want_tiles)
    torch.testing.assert_close(tokens(x, aspect), want_tokens)
    exported = torch.export.export(tiles, (x, aspect))
    torch.testing.assert_close(exported.module()(x, aspect), want_tiles)


def test_position_embeddings_in_a_model_are_replaced_with_their_weights() -> None:
    model = nn.ModuleDict(
        {
            "tiles": TilePositionalEmbedding(3, DIM),
            "inner": nn.Sequential(TiledTokenPositionalEmbedding(2, DIM, tile_size=12, patch_size=4)),
        }
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [model["tiles"], model["inner"][0]]
    assert replace_tile_positional_embedding(model) is model
    assert replace_tiled_token_positional_embedding(model) is model
    assert model["tiles"] is not modules[0] and model["inner"][0] is not modules[1]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_exportable_attention_is_the_ordinary_one() -> None:
    ordinary = attention(rope=False)
    export = ExportAttention(
        embed_dim=DIM,
        num_heads=4,
        num_kv_heads=2,
        head_dim=4,
        q_proj=ordinary.q_proj,
        k_proj=ordinary.k_proj,
        v_proj=ordinary.v_proj,
        output_proj=ordinary.output_proj,
    )
    x = torch.randn(1, 5, DIM)
    program = torch.export.export(export, (x, x))
    torch.testing.assert_close(program.module()(x, x), ordinary(x, x), atol=1e-5, rtol=1e-5)


def test_vectors_become_the_nearest_entry_and_pass_gradients_straight_through() -> None:
    torch.manual_seed(0)
    codebook = VectorQuantizedEmbeddings(7, 4)
    nn.init.normal_(codebook.embedding)
    z = torch.randn(2, 3, 4, requires_grad=True)
    quantized, ids = codebook(z)
    nearest = torch.cdist(z.detach().view(-1, 4), codebook.embedding.detach()).argmin(1).view(2, 3)
    assert torch.equal(ids, nearest)
    torch.testing.assert_close(quantized, codebook.decode(ids))
    (quantized * 3).sum().backward()
    torch.testing.assert_close(z.grad, torch.full_like(z, 3.0))
    assert repr(codebook) == "VectorQuantizedEmbeddings(num_embeddings=7, embedding_dim=4)"
    with pytest.raises(ValueError, match="embedding_dim=4"):
        codebook(torch.randn(1, 2, 5))
