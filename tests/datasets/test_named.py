"""Tests of text, preference, image and named datasets."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from torchtune.datasets import (
    TextCompletionDataset,
    alpaca_cleaned_dataset,
    alpaca_dataset,
    cnn_dailymail_articles_dataset,
    hh_rlhf_helpful_dataset,
    preference_dataset,
    samsum_dataset,
    slimorca_dataset,
    stack_exchange_paired_dataset,
    text_completion_dataset,
    wikitext_dataset,
)
from torchtune.datasets.multimodal import (
    multimodal_chat_dataset,
    the_cauldron_dataset,
    the_cauldron_transform,
    vqa_dataset,
)


def words(ids: list[int]) -> str:
    return bytes(token for token in ids if token > 1).decode()


def test_a_text_that_is_cut_loses_its_end(short_tokenizer: Any, write_rows: Callable[..., str]) -> None:
    path = write_rows([{"text": "abc"}, {"text": "x" * 20}])
    ds = text_completion_dataset(short_tokenizer, "json", data_files=path)
    assert ds[0] == {"tokens": [0, 97, 98, 99, 1], "labels": [97, 98, 99, 1, -100]}
    assert ds[1]["tokens"] == [0] + [120] * 14
    assert ds[1]["labels"] == [120] * 14 + [-100]
    assert text_completion_dataset(short_tokenizer, "json", add_eos=False, data_files=path)[0]["tokens"][-1] == 99


def test_a_row_without_text_is_named(tokenizer: Any, write_rows: Callable[..., str]) -> None:
    ds = TextCompletionDataset(tokenizer, "json", data_files=write_rows([{"text": "a"}, {"body": "b"}, {"text": 3}]))
    with pytest.raises(ValueError, match=r"row 2 of rows.jsonl: column 'text' must be a text but is missing"):
        ds[1]
    with pytest.raises(ValueError, match=r"row 3 of rows.jsonl: column 'text' must be a text but is int"):
        ds[2]


def test_packed_texts_go_on_in_the_next_pack(short_tokenizer: Any, write_rows: Callable[..., str]) -> None:
    path = write_rows([{"text": "a" * 10}, {"text": ""}, {"text": "b" * 10}])
    packs = text_completion_dataset(short_tokenizer, "json", packed=True, data_files=path)
    assert packs[0]["seq_lens"].tolist() == [12, 2, 2]
    whole = text_completion_dataset(short_tokenizer, "json", packed=True, split_across_pack=False, data_files=path)
    assert [whole[i]["seq_lens"].tolist() for i in range(2)] == [[12, 2, 2], [12, 4]]


@pytest.mark.parametrize(("build", "column"), [(wikitext_dataset, "page"), (cnn_dailymail_articles_dataset, "article")])
def test_max_seq_len_cuts_texts_and_does_not_reach_the_loader(
    build: Any, column: str, tokenizer: Any, write_rows: Callable[..., str]
) -> None:
    ds = build(tokenizer, source="json", data_files=write_rows([{column: "x" * 20}]), max_seq_len=8)
    assert len(ds[0]["tokens"]) == 7
    assert len(build(tokenizer, source="json", data_files=write_rows([{column: "x" * 20}]))[0]["tokens"]) == 22


@pytest.mark.parametrize("build", [wikitext_dataset, cnn_dailymail_articles_dataset])
def test_the_subset_is_asked_for(build: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("datasets.load_dataset", lambda source, **kwargs: asked.update(kwargs, source=source) or [])
    build(tokenizer)
    assert (
        asked
        == {
            wikitext_dataset: {
                "source": "EleutherAI/wikitext_document_level",
                "name": "wikitext-103-v1",
                "split": "train",
            },
            cnn_dailymail_articles_dataset: {"source": "ccdv/cnn_dailymail", "name": "3.0.0", "split": "train"},
        }[build]
    )


@pytest.mark.parametrize(
    ("build", "source"),
    [(alpaca_dataset, "tatsu-lab/alpaca"), (alpaca_cleaned_dataset, "yahma/alpaca-cleaned")],
)
def test_alpaca_trains_on_its_prompt(
    build: Any, source: str, tokenizer: Any, write_rows: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows([{"instruction": "Sort.", "output": "Done."}])
    labels = words(build(tokenizer, source="json", data_files=path)[0]["labels"])
    assert "### Instruction:\nSort." in labels and labels.endswith("Done.")
    assert words(build(tokenizer, source="json", data_files=path, train_on_input=False)[0]["labels"]) == "Done."
    monkeypatch.setattr("datasets.load_dataset", lambda source, **kwargs: [source])
    assert build(tokenizer)._data == [source]


def test_named_columns_are_read(tokenizer: Any, write_rows: Callable[..., str]) -> None:
    samsum = samsum_dataset(tokenizer, source=write_rows([{"id": "1", "dialogue": "A: hi", "summary": "A greets."}]))
    assert words(samsum[0]["tokens"]) == "A: hiA greets."
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    assert words(slimorca_dataset(tokenizer, source=write_rows([{"conversations": turns}]))[0]["labels"]) == "A"


def test_preference_labels_are_not_shifted(tokenizer: Any, write_rows: Callable[..., str]) -> None:
    ask = {"role": "user", "content": "Q"}
    row = {key: [ask, {"role": "assistant", "content": key[0]}] for key in ("chosen", "rejected")}
    expected = {
        "chosen_input_ids": [0, 81, 99, 1],
        "chosen_labels": [-100, -100, 99, 1],
        "rejected_input_ids": [0, 81, 114, 1],
        "rejected_labels": [-100, -100, 114, 1],
    }
    for build in (preference_dataset, hh_rlhf_helpful_dataset):
        assert build(tokenizer, source=write_rows([row]))[0] == expected
    paired = {"question": "Q", "response_j": "c", "response_k": "r"}
    assert stack_exchange_paired_dataset(tokenizer, source=write_rows([paired]))[0] == expected
    trained = stack_exchange_paired_dataset(tokenizer, source=write_rows([paired]), train_on_input=True)
    assert trained[0]["chosen_labels"] == [-100, 81, 99, 1]


def test_chosen_calls_are_validated_and_rejected_ones_may_be_of_unknown_tools(
    tokenizer: Any, write_rows: Callable[..., str]
) -> None:
    def row(chosen: str, rejected: str) -> dict[str, Any]:
        def answer(name: str) -> list[dict[str, Any]]:
            call = {"type": "function", "function": {"name": name, "arguments": {"x": 1}}}
            return [{"role": "user", "content": "Q"}, {"role": "assistant", "tool_calls": [call]}]

        tools = [{"type": "function", "function": {"name": "f", "description": "D"}}]
        return {"chosen": answer(chosen), "rejected": answer(rejected), "tools": tools}

    ds = preference_dataset(tokenizer, source=write_rows([row("f", "g"), row("g", "f")]))
    for key, name in (("chosen", "f"), ("rejected", "g")):
        text = words(ds[0][f"{key}_input_ids"])
        assert '"description": "D"' in text and f'"name": "{name}", "arguments"' in text
    with pytest.raises(ValueError, match=r"row 2 of rows.jsonl: .*'g'"):
        ds[1]


@pytest.mark.parametrize("build", [preference_dataset, hh_rlhf_helpful_dataset, stack_exchange_paired_dataset])
def test_preferences_are_not_packed(build: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="Packed is currently not supported for preference datasets"):
        build(tokenizer, source="json", packed=True)


@pytest.mark.parametrize("build", [multimodal_chat_dataset, vqa_dataset, the_cauldron_dataset])
def test_images_are_not_packed(build: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="Multimodal datasets don't support packing yet."):
        build(tokenizer, source="json", packed=True)


def test_the_cauldron_puts_its_images_before_the_first_question() -> None:
    turns = [{"user": "What?", "assistant": "A cat."}, {"user": "Sure?", "assistant": "Yes."}]
    sample = the_cauldron_transform(texts_col="qa", new_system_prompt="S")({"images": ["<1>", "<2>"], "qa": turns})
    system, first, answer, second, _ = sample["messages"]
    assert (system.masked, first.masked, answer.masked) == (True, True, False)
    assert [part["type"] for part in first.content] == ["image", "image", "text"]
    assert first.get_media() == ["<1>", "<2>"] and not second.contains_media


def test_the_cauldron_reads_images_that_a_stream_gives_as_files() -> None:
    image_module = pytest.importorskip("PIL.Image")
    data = io.BytesIO()
    image_module.new("RGB", (3, 2), (255, 0, 10)).save(data, "png")
    row = {"images": [{"bytes": data.getvalue(), "path": None}], "texts": [{"user": "What?", "assistant": "A cat."}]}
    question, _ = the_cauldron_transform()(row)["messages"]
    assert question.get_media()[0].shape == (3, 2, 3)
