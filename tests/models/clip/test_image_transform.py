"""CLIP's image transform against Llama 3.2 Vision's image processor in transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from torchtune.models.clip import CLIPImageTransform
from torchtune.models.clip._transform import image_to_tensor
from torchtune.models.clip.inference._transform import CLIPImageTransform as InferenceTransform
from torchtune.modules.transforms.vision_utils.get_canvas_best_fit import (
    find_supported_resolutions,
    get_canvas_best_fit,
)
from torchtune.modules.transforms.vision_utils.get_inscribed_size import get_inscribed_size
from torchtune.modules.transforms.vision_utils.pad_dim_to_size import pad_dim_to_size
from torchtune.modules.transforms.vision_utils.resize_with_pad import resize_with_pad
from torchtune.modules.transforms.vision_utils.tile_crop import tile_crop

MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
SIZES = [(10, 10), (31, 90), (64, 64), (40, 300), (300, 40), (200, 210), (33, 64), (700, 500), (1, 400)]


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """A smooth image, so that ways to resample differ little."""
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    channels = [
        (rows * columns.add(1) / 2).expand(height, width),
        rows.expand(height, width),
        columns.expand(height, width),
    ]
    pixels = (torch.stack(channels, dim=-1) * 255).byte().contiguous()
    return Image.frombytes("RGB", (width, height), bytes(pixels.flatten().tolist())).convert(mode)


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_those_of_the_reference_processor(size: tuple[int, int]) -> None:
    processors = pytest.importorskip("transformers.models.mllama.image_processing_pil_mllama")
    options: dict[str, Any] = {"image_mean": MEAN, "image_std": STD, "return_tensors": "pt"}
    processor = processors.MllamaImageProcessorPil(size={"height": 32, "width": 32}, max_image_tiles=4)
    image = picture(*size)
    expected = processor(images=[[image]], **options)
    transform = CLIPImageTransform(image_mean=MEAN, image_std=STD, tile_size=32, dtype=torch.float32)
    found = transform({"image": image, "other": 1})
    tiles = found["image"]
    assert tiles.shape[0] == int(found["aspect_ratio"].prod()) == expected["num_tiles"][0][0]
    # The reference rounds to bytes after resizing.
    assert torch.allclose(tiles, expected["pixel_values"][0, 0, : len(tiles)].float(), atol=1.5 / 255 / min(STD))
    assert found["other"] == 1


def test_canvases_are_chosen_as_the_reference_chooses_them() -> None:
    reference = pytest.importorskip("transformers.models.mllama.image_processing_pil_mllama")
    for tiles in (1, 2, 4, 6, 12):
        canvases = torch.tensor(find_supported_resolutions(tiles, 56))
        for height in range(5, 400, 37):
            for width in range(3, 400, 41):
                found = get_canvas_best_fit(torch.empty(3, height, width), canvases, False)
                assert found == tuple(reference.get_optimal_tiled_canvas(height, width, tiles, 56))
                on_canvas = get_inscribed_size((height, width), found, 56)
                assert on_canvas == tuple(reference.get_image_size_fit_to_canvas(height, width, *found, 56))


def test_supported_resolutions_of_four_tiles() -> None:
    assert set(find_supported_resolutions(4, 224)) == {
        *[(224, 896), (448, 448), (224, 224), (896, 224), (224, 672), (672, 224), (224, 448), (448, 224)]
    }


def test_the_largest_canvas_is_taken_where_asked_for() -> None:
    transform = CLIPImageTransform(tile_size=16, resize_to_max_canvas=True, dtype=torch.float32)
    found = transform({"image": picture(10, 10)})
    assert found["aspect_ratio"].tolist() == [2, 2]
    assert found["image"].shape == (4, 3, 16, 16)
    assert found["image"][3].any(), "the image fills the canvas"


def test_small_images_are_not_enlarged_beyond_a_tile() -> None:
    found = CLIPImageTransform(tile_size=32, possible_resolutions=[(64, 64)])({"image": picture(8, 4)})
    assert found["image"].dtype == torch.bfloat16
    assert (
        not found["image"][1:].any() and found["image"][0, :, :, :16].any() and not found["image"][0, :, :, 16:].any()
    )


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_images_of_other_modes_become_rgb(mode: str) -> None:
    assert CLIPImageTransform(tile_size=8)({"image": picture(8, 8, mode)})["image"].shape == (1, 3, 8, 8)


def test_tensors_and_pictures_give_the_same() -> None:
    image = picture(20, 50)
    transform = CLIPImageTransform(tile_size=16, dtype=torch.float32)
    as_bytes = (image_to_tensor(image) * 255).round().byte()
    for tensor in (image_to_tensor(image), as_bytes):
        assert torch.equal(transform({"image": tensor})["image"], transform({"image": image})["image"])


def test_the_transform_for_inference_takes_the_image_by_name() -> None:
    image = picture(20, 50)
    found = InferenceTransform(MEAN, STD, tile_size=16)(image=image, text="a")
    expected = CLIPImageTransform(image_mean=MEAN, image_std=STD, tile_size=16, dtype=torch.float32)({"image": image})
    assert torch.equal(found["image"], expected["image"]) and found["text"] == "a"


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="go together"):
        CLIPImageTransform(image_mean=MEAN)
    with pytest.raises(ValueError, match=r"possible_resolutions or max_num_tiles"):
        CLIPImageTransform(max_num_tiles=None)
    with pytest.raises(ValueError, match="resample must be one of"):
        CLIPImageTransform(resample="lanczos")


def test_resizing_keeps_proportions_and_pads_right_and_below() -> None:
    image = torch.ones(3, 200, 500)
    resized = resize_with_pad(image, (1000, 1200), "bilinear", 600)
    assert resized.shape == (3, 1000, 1200)
    assert torch.allclose(resized[:, :240, :600], torch.ones(3, 240, 600)) and resized.sum() == pytest.approx(
        3 * 240 * 600
    )


def test_tiles_are_cut_row_by_row() -> None:
    image = torch.arange(4 * 6).view(1, 4, 6)
    tiles = tile_crop(image, 2)
    assert tiles.shape == (6, 1, 2, 2)
    assert tiles[1].flatten().tolist() == [2, 3, 8, 9] and tiles[3].flatten().tolist() == [12, 13, 18, 19]
    with pytest.raises(ValueError, match="no multiples"):
        tile_crop(image, 3)


def test_a_dimension_is_padded_at_its_end() -> None:
    assert pad_dim_to_size(torch.ones(2, 2), 3, 0, fill=7).tolist() == [[1, 1], [1, 1], [7, 7]]
    with pytest.raises(ValueError, match="larger than requested"):
        pad_dim_to_size(torch.ones(2, 2), 1, 1)
