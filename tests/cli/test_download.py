from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from torchtune._cli.tune import main


def tune(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tune", "download", *argv])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """The hub's download, writing two files."""

    def write(repo_id: str, *, local_dir: Path, **kwargs: Any) -> str:
        (Path(local_dir) / ".cache").mkdir(parents=True)
        (Path(local_dir) / ".cache" / "lock").touch()
        for name in ("model.safetensors", "config.json"):
            (Path(local_dir) / name).touch()
        return str(local_dir)

    fake = mock.Mock(side_effect=write)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return fake


def test_files_are_listed(
    hub: mock.Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["a/b", "--output-dir", str(tmp_path / "out"), "--hf-token", "T", "--ignore-patterns", "*.bin"]
    assert tune(monkeypatch, *argv) == 0
    hub.assert_called_once_with("a/b", local_dir=tmp_path / "out", ignore_patterns="*.bin", token="T")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "Successfully downloaded model repo and wrote to the following locations:",
        str(tmp_path / "out" / "config.json"),
        str(tmp_path / "out" / "model.safetensors"),
    ]


def test_the_default_folder_is_named_after_the_model(hub: mock.Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.side_effect = lambda *args, local_dir, **kwargs: str(local_dir)
    assert tune(monkeypatch, "owner/Model-1B") == 0
    assert hub.call_args.kwargs["local_dir"] == Path("/tmp/Model-1B")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "gated repository"),
        ("RepositoryNotFoundError", "Repository 'a/b' not found on the Hugging Face Hub"),
        ("LocalEntryNotFoundError", "Failed to download a/b"),
    ],
)
def test_refusals_of_the_hub_are_explained(
    error: str, message: str, hub: mock.Mock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import errors

    kind = getattr(errors, error)
    response = mock.Mock(headers={}, status_code=403)
    hub.side_effect = kind("no") if kind is errors.LocalEntryNotFoundError else kind("no", response=response)
    assert tune(monkeypatch, "a/b") == 2
    assert message in capsys.readouterr().err


def test_an_unknown_source_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(monkeypatch, "a/b", "--source", "elsewhere") == 2
    assert "argument --source: invalid choice: 'elsewhere'" in capsys.readouterr().err


class TestKaggle:
    @pytest.fixture
    def kaggle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A stand-in for kagglehub, which is an optional package."""
        fake = mock.MagicMock()
        fake.exceptions.KaggleApiHTTPError = type("KaggleApiHTTPError", (Exception,), {"response": None})
        fake.model_download.return_value = str(tmp_path)
        for name in ("kagglehub", "kagglehub.exceptions", "kagglehub.config"):
            monkeypatch.setitem(sys.modules, name, getattr(fake, name.partition(".")[2]) if "." in name else fake)
        monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
        monkeypatch.delenv("KAGGLE_KEY", raising=False)
        return fake

    def test_credentials_are_handed_on(self, kaggle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        argv = ["o/m/pytorch/1b", "--source", "kaggle", "--kaggle-username", "u", "--kaggle-api-key", "k"]
        assert tune(monkeypatch, *argv) == 0
        kaggle.config.set_kaggle_credentials.assert_called_once_with("u", "k")
        kaggle.model_download.assert_called_once_with("o/m/pytorch/1b")

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["o/m/pytorch/1b", "--output-dir", "x"], "--output-dir flag is not supported for Kaggle model downloads"),
            (
                ["o/m/pytorch/1b", "--ignore-patterns", "x"],
                "--ignore-patterns flag is not supported for Kaggle model downloads",
            ),
            (["o/m/keras/1b"], "may not be compatible with torchtune"),
        ],
    )
    def test_what_kaggle_cannot_do_is_a_warning(
        self, argv: list[str], message: str, kaggle: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.warns(UserWarning, match=message):
            assert tune(monkeypatch, *argv, "--source", "kaggle") == 0

    def test_bad_credentials_are_a_warning(self, kaggle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        kaggle.config.set_kaggle_credentials.side_effect = ValueError("empty")
        argv = ["o/m/pytorch/1b", "--source", "kaggle", "--kaggle-username", " ", "--kaggle-api-key", " "]
        with pytest.warns(UserWarning, match="Failed to set Kaggle credentials with error: 'empty'"):
            assert tune(monkeypatch, *argv) == 0

    @pytest.mark.parametrize(
        ("status", "message"),
        [(403, "gated model"), (404, "not found on the Kaggle Model Hub"), (500, "Failed to download")],
    )
    def test_refusals_of_kaggle_are_explained(
        self,
        status: int,
        message: str,
        kaggle: Any,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        error = kaggle.exceptions.KaggleApiHTTPError("no")
        error.response = mock.Mock(status_code=status)
        kaggle.model_download.side_effect = error
        assert tune(monkeypatch, "o/m/pytorch/1b", "--source", "kaggle") == 2
        assert message in capsys.readouterr().err

    def test_without_kagglehub_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "kagglehub", None)
        assert tune(monkeypatch, "o/m/pytorch/1b", "--source", "kaggle") == 2
        assert "pip install kagglehub" in capsys.readouterr().err
