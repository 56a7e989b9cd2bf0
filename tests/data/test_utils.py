"""Truncation, images, nodes, and what importing the package costs."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchtune import data
from torchtune.data import _utils, format_content_with_images, load_image, truncate


@given(st.lists(st.integers(), max_size=8), st.integers(0, 10), st.sampled_from(["left", "right"]))
def test_truncate_keeps_one_end(tokens: list[int], size: int, side: str) -> None:
    kept = truncate(tokens, size, truncation_type=side)
    assert len(kept) == min(size, len(tokens))
    assert kept == (tokens[:size] if side == "right" else tokens[len(tokens) - len(kept) :])
    ended = truncate(tokens, size, -1, side)
    assert ended == ([*kept[:-1], -1] if kept else [])


def test_truncate_knows_two_sides() -> None:
    with pytest.raises(ValueError, match="truncation_type must be 'left' or 'right', but found 'middle'"):
        truncate([1, 2], 1, truncation_type="middle")


def test_images_take_the_place_of_their_tags() -> None:
    parts = format_content_with_images("<i>a <i>", image_tag="<i>", images=["A", "B"])  # type: ignore[list-item]
    assert [(part["type"], part["content"]) for part in parts] == [("image", "A"), ("text", "a "), ("image", "B")]


@pytest.mark.parametrize("images", [[], ["A", "B"]])
def test_tags_and_images_must_be_as_many(images: list) -> None:
    with pytest.raises(
        ValueError, match=rf"Number of images \({len(images)}\) does not match number of image tags \(1\)"
    ):
        format_content_with_images("a <i>", image_tag="<i>", images=images)


def test_images_load_from_paths_and_data_urls(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    data = io.BytesIO()
    image_module.new("RGBA", (3, 2), (255, 0, 10, 255)).save(data, "png")
    (tmp_path / "a.png").write_bytes(data.getvalue())
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    for place in (tmp_path / "a.png", str(tmp_path / "a.png"), url):
        image = load_image(place)
        assert image.shape == (3, 2, 3) and str(image.dtype) == "torch.uint8"
        assert image[:, 0, 0].tolist() == [255, 0, 10]


def test_images_as_parquet_keeps_them(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    data = io.BytesIO()
    image_module.new("RGB", (3, 2), (255, 0, 10)).save(data, "png")
    (tmp_path / "a.png").write_bytes(data.getvalue())
    for row in (
        {"bytes": data.getvalue(), "path": None},
        {"bytes": data.getvalue(), "path": "elsewhere.png"},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ):
        assert _utils.row_image(row).shape == (3, 2, 3)
    with pytest.raises(ValueError, match="The row's image b.png can't be decoded"):
        _utils.row_image({"bytes": b"no image", "path": "b.png"})
    with pytest.raises(ValueError, match="image_urls=True"):
        _utils.row_image({"bytes": None, "path": "https://h/a.png"})


def test_images_that_cannot_be_loaded(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    (tmp_path / "a.png").write_text("no image")
    for place in (tmp_path / "a.png", tmp_path / "missing.png"):
        with pytest.raises(ValueError, match="Failed to load local image as torch.Tensor"):
            load_image(place)
    with pytest.raises(ValueError, match="Failed to load remote image as torch.Tensor"):
        load_image("data:image/png;base64,bm8=")


def test_nodes_load_transform_mix_and_batch_rows(tmp_path: Path) -> None:
    pytest.importorskip("torchdata.nodes")
    pytest.importorskip("datasets")
    from torchtune.data._utils import get_dataloader, get_multi_dataset, load_hf_dataset

    for name, values in (("a", range(6)), ("b", range(100, 104))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"x": value}) + "\n" for value in values))

    def load(name: str, **options: object) -> object:
        files = str(tmp_path / f"{name}.jsonl")
        return load_hf_dataset("json", lambda row: {"y": row["x"] + 1}, data_files=files, split="train", **options)

    even = load("a", shuffle=False, filter_fn=lambda row: row["x"] % 2 == 0)
    batches = list(get_dataloader(even, lambda row: row["y"] * 10, 2, sum, drop_last=False, prefetch_factor=None))
    assert batches == [40, 50]
    nodes = {name: load(name, seed=1) for name in "ab"}
    mixed = get_multi_dataset(nodes, {"a": 1.0, "b": 1.0}, "ALL_DATASETS_EXHAUSTED")
    seen = sorted(row["y"] for batch in get_dataloader(mixed, dict, 5) for row in batch)
    assert seen == [*range(1, 7), *range(101, 105)]


def test_importing_the_package_needs_no_torch_and_collation_is_there_when_asked_for() -> None:
    program = (
        "import sys, torchtune.data as d\n"
        "from torchtune.data import formats\n"
        "heavy = {'torch', 'numpy', 'PIL', 'datasets', 'torchdata', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert d.formats is formats and 'padded_collate' in dir(d)\n"
        "assert all(hasattr(d, name) for name in d.__all__) and 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


PURE = [
    "_message",
    "_json_values",
    "_flags",
    "_validate",
    "_masking",
    "_tools",
    "_tool_calls",
    "_speakers",
    "_arrow",
    "_turns",
]


@pytest.mark.parametrize("name", PURE)
def test_the_heart_imports_only_the_standard_library_and_its_own_kind(name: str) -> None:
    import ast

    import torchtune.data

    tree = ast.parse((Path(torchtune.data.__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    guarded = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)) or id(node) in guarded:
            continue
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for module in modules:
            own = module.startswith("torchtune.data._") and module.rsplit(".", 1)[1] in PURE
            assert own or module.split(".")[0] in sys.stdlib_module_names, module


def test_image_urls_are_fetched_only_by_option_and_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Endless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/a.png"
    with pytest.raises(ValueError, match="images are fetched from the network only with image_urls=True"):
        _utils.row_image(url)
    monkeypatch.setattr(_utils, "MAX_IMAGE_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        _utils.row_image(url, image_urls=True)
    monkeypatch.setattr(_utils, "MAX_IMAGE_BYTES", 1 << 40)
    monkeypatch.setattr(_utils, "time", SimpleNamespace(monotonic=iter(range(0, 10**6, 40)).__next__))
    with pytest.raises(ValueError, match="took longer than 60 s"):
        _utils.row_image(url, image_urls=True)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_image_paths_stay_in_their_folder(path: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="leads out of|expected the name of a file"):
        _utils.row_image(path, tmp_path / "images")
    rows = {
        data.OpenAIToMessages(image_dir=tmp_path / "images"): {
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": path}}]}]
        },
        data.ShareGPTToMessages(column_map={"conversations": "c", "image": "i"}, image_dir=tmp_path / "images"): {
            "c": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "!"}],
            "i": path,
        },
        data.InputOutputToMessages(
            column_map={"input": "q", "output": "a", "image": "i"}, image_dir=tmp_path / "images"
        ): {"q": "?", "a": "!", "i": path},
    }
    for transform, row in rows.items():
        with pytest.raises(ValueError):
            transform(row)
