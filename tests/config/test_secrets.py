"""Tokens and keys never reach a log or a saved config."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from torchtune import config
from torchtune.config._secrets import HIDDEN, without_secrets
from torchtune.training.metric_logging import DiskLogger

TOKEN = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    "key", ["token", "hf_token", "api_key", "apikey", "wandb-api-key", "AWS_SECRET_ACCESS_KEY", "password", "secret"]
)
def test_values_of_secret_keys_are_hidden(key: str) -> None:
    assert without_secrets({"a": [{key: "x1"}], "b": "x2"}) == {"a": [{key: HIDDEN}], "b": "x2"}


@pytest.mark.parametrize("key", ["pad_token", "image_token", "max_tokens", "tokenizer", "tokens", "key", "num_tokens"])
def test_words_of_the_vocabulary_and_numbers_stay(key: str) -> None:
    assert without_secrets({key: "<pad>", "token": 3}) == {key: "<pad>", "token": 3}


def test_a_reference_to_the_environment_stays() -> None:
    row = {"token": "${oc.env:HF_TOKEN}", "api_key": "${oc.env:KEY,fallback}"}
    assert without_secrets(row) == {"token": "${oc.env:HF_TOKEN}", "api_key": HIDDEN}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TOKEN, HIDDEN),
        (f"a {TOKEN}.", f"a {HIDDEN}."),
        ("https://me:word@host/x", f"https://{HIDDEN}@host/x"),
        ("Authorization: Bearer abcdefghijklmnop1234", f"Authorization: {HIDDEN}"),
        ("https://host/a:b@c", "https://host/a:b@c"),
        ("sk-1", "sk-1"),
    ],
)
def test_what_looks_like_a_token_is_hidden_under_any_key(text: str, shown: str) -> None:
    assert without_secrets({"note": text}) == {"note": shown}


def test_the_value_of_a_secret_variable_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "quite-some-words")
    assert without_secrets({"headers": ["x quite-some-words y"]}) == {"headers": [f"x {HIDDEN} y"]}


def test_no_secret_is_in_the_log_the_saved_config_or_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secrets: dict[str, Any] = {"WANDB_API_KEY": "wandb-0123456789abcdef", "HF_TOKEN": TOKEN}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    cfg = OmegaConf.create(
        {
            "output_dir": str(tmp_path),
            "metric_logger": {"api_key": "comet-key-1", "note": "${oc.env:WANDB_API_KEY}", "url": "http://u:p1@h/"},
            "download": {"headers": {"x": "${oc.env:HF_TOKEN}"}},
        }
    )
    monkeypatch.setattr(logging.getLogger("torchtune"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="torchtune"):
        config.log_config("Test", cfg)
    logger = DiskLogger(str(tmp_path / "logs"))
    logger.log_config(cfg)
    logger.log_dict({"loss": 1.0}, step=1)
    logger.close()
    assert "Running Test with resolved config" in caplog.text
    written = [caplog.text, *(path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file())]
    for text in written:
        for secret in (*secrets.values(), "comet-key-1", ":p1@"):
            assert secret not in text
    assert "${oc.env:WANDB_API_KEY}" in (tmp_path / "torchtune_config.yaml").read_text()
