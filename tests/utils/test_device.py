from __future__ import annotations

from unittest import mock

import pytest
import torch

from torchtune import utils
from torchtune.utils import _device


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """A machine with two CUDA devices, none of them real."""
    fake = mock.Mock()
    fake.is_available.return_value = True
    fake.device_count.return_value = 2
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(_device, "_check_usable", lambda device: None)
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return fake


def test_the_cpu_is_found() -> None:
    assert utils.get_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_a_device_that_is_not_there_says_so() -> None:
    with pytest.raises(RuntimeError, match="The device cuda was asked for"):
        utils.get_device("cuda")


def test_cuda_is_preferred_and_gets_an_index(cuda: mock.Mock) -> None:
    assert utils.get_device() == torch.device("cuda:0")
    assert utils.get_device("cuda:1") == torch.device("cuda:1")
    cuda.set_device.assert_called_with(torch.device("cuda:1"))
    assert utils.get_device_support() is utils.DeviceSupport.CUDA
    assert utils.get_torch_device_namespace() is torch.cuda


def test_the_local_rank_is_the_index(cuda: mock.Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert utils.get_device("cuda") == torch.device("cuda:1")
    with pytest.raises(RuntimeError, match="You can't specify a device index when using distributed training"):
        utils.get_device("cuda:0")


def test_more_processes_than_devices_are_refused(cuda: mock.Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RuntimeError, match="The local rank is larger than the number of available GPUs"):
        utils.get_device("cuda")


def test_unknown_types_are_refused() -> None:
    assert utils.DeviceSupport.from_type("mps").communication_backend == "gloo"
    with pytest.raises(ValueError, match="Unknown device type abacus"):
        utils.DeviceSupport.from_type("abacus")


def test_a_batch_moves_in_place_and_deeply() -> None:
    batch = {"tokens": torch.ones(2, dtype=torch.int64), "encoder_input": {"images": torch.ones(1)}}
    utils.batch_to_device(batch, torch.device("meta"))
    assert batch["tokens"].device.type == "meta"  # type: ignore[union-attr]
    assert batch["encoder_input"]["images"].device.type == "meta"


def test_what_cannot_move_is_named() -> None:
    with pytest.raises(ValueError, match="Got key 'ids' with value of type <class 'list'>"):
        utils.batch_to_device({"ids": [1]}, torch.device("cpu"))


def test_one_process_is_world_size_one() -> None:
    assert utils.get_world_size_and_rank() == (1, 0)


@pytest.mark.parametrize(("version", "expected"), [("1.0", True), ("2.9.0", True), ("99", False)])
def test_torch_version_ge(version: str, expected: bool) -> None:
    assert utils.torch_version_ge(version) is expected


def test_torch_version_ge_ignores_the_local_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.10.0a0+git1")
    assert utils.torch_version_ge("2.10")
    assert utils.torch_version_ge("2.9.1")
    assert not utils.torch_version_ge("2.10.1")
    with pytest.raises(ValueError, match="'two' is no version"):
        utils.torch_version_ge("two")
