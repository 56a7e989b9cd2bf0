"""Where torchtune 0.6 went wrong and this is right: each has a test, and this table says which.

The key is what torchtune did. docs/migrating.md tells users.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
_LLAMA3, _LLAMA4 = "models/llama3/test_llama3_tokenizer.py", "models/llama4/test_llama4_tokenizer.py"
_QWEN, _SPM = "models/qwen2/test_qwen_tokenizers.py", "models/mistral/test_sentencepiece_tokenizers.py"
_PHI4, _HF = "models/phi4/test_phi4_tokenizer.py", "modules/transforms/tokenizers/test_hf_tokenizer.py"
_BASE, _OPENAI = "modules/transforms/tokenizers/test_base_tokenizers.py", "data/test_openai_rows.py"
_COLLATE, _PACKED, _LOSS = "data/test_collate.py", "datasets/test_packed.py", "modules/test_loss.py"
_REPAIRED, _GRPO, _REWARDS = "surface/test_repaired.py", "dev/test_grpo.py", "rlhf/test_rewards.py"

TABLE: dict[str, tuple[tuple[str, str], ...]] = {
    "decode does not stop at an end token in first place": (
        (_LLAMA3, "test_decoding_stops_at_eos_in_first_place"),
        (_LLAMA4, "test_decoding_stops_at_eos_in_first_place"),
    ),
    "the final end token is masked only because max_seq_len is set": (
        (_QWEN, "test_a_sample_that_fits_trains_its_end_token"),
        (_SPM, "test_a_sample_that_fits_is_the_same_with_and_without_a_limit"),
        (_PHI4, "test_a_sample_that_fits_trains_its_end_token"),
    ),
    "an empty list of messages raises IndexError in Qwen": ((_QWEN, "test_no_messages_is_an_error_that_says_so"),),
    "Qwen 3 ignores truncation_type": ((_QWEN, "test_truncation_on_either_side"),),
    "Llama 2's template repeats the content before a tool result": (
        (_SPM, "test_llama2_template_keeps_the_content_of_a_tool_result"),
    ),
    "the end of a prompt is overwritten by EOS when max_seq_len is set": (
        (_BASE, "test_an_open_question_that_fits_keeps_its_last_token"),
        (_SPM, "test_a_sample_that_fits_is_the_same_with_and_without_a_limit"),
    ),
    "tool roles are unsupported": (
        (_SPM, "test_tool_and_ipython_are_the_same"),
        (_SPM, "test_mistral_template_takes_tool_results"),
        (_PHI4, "test_tool_and_ipython_are_the_same"),
        ("data/test_prompt_templates.py", "test_both_tool_roles_are_alike"),
    ),
    "Mistral and Gemma know no add_end_tokens": ((_SPM, "test_both_names_of_the_end_token_argument"),),
    "Mistral and Gemma ignore inference": ((_SPM, "test_inference_leaves_the_answer_open"),),
    "Phi 3 cannot decode its special ids": ((_SPM, "test_decoding_shows_control_tokens_on_request"),),
    "Phi 4 splits words unlike its vocabulary": ((_PHI4, "test_words_are_split_as_cl100k_does"),),
    "Phi 4 decodes to pieces": ((_PHI4, "test_decoding_gives_text"),),
    "Phi 4 as a transform never ends the answer": (
        (_PHI4, "test_as_a_transform_it_ends_the_answer_except_for_inference"),
    ),
    "Phi 4 as a transform knows no inference": (
        (_PHI4, "test_as_a_transform_it_ends_the_answer_except_for_inference"),
    ),
    "add_bos=False is not honoured": ((_HF, "test_no_bos_although_the_file_adds_one"),),
    "BOS is skipped where the text holds its string": ((_HF, "test_bos_also_where_the_text_holds_its_string"),),
    "bos_token null raises": ((_HF, "test_a_config_with_bos_null_loads"),),
    "an unknown ShareGPT role is a bare KeyError": (
        ("data/test_sharegpt_rows.py", "test_what_cannot_be_read_is_refused_with_the_index_of_its_message"),
    ),
    "content null repeats the message before": (
        (_OPENAI, "test_content_null_or_missing_never_takes_the_text_of_another_message"),
    ),
    "content null in the first message raises UnboundLocalError": (
        (_OPENAI, "test_content_null_in_the_first_message"),
    ),
    "unknown content parts are dropped": ((_OPENAI, "test_unknown_parts_are_refused_not_dropped"),),
    "a call is not marked, so validation refuses the row": (
        ("data/test_flags.py", "test_text_before_an_ipython_result_is_a_call"),
        ("datasets/test_sft.py", "test_openai_and_sharegpt_rows_of_one_conversation_give_the_same_tokens"),
    ),
    "a second tool result is refused": (("data/test_validate.py", "test_legal_flows_are_accepted"),),
    "wikitext and cnn_dailymail hand max_seq_len to the loader": (
        ("datasets/test_named.py", "test_max_seq_len_cuts_texts_and_does_not_reach_the_loader"),
    ),
    "packs keep samples of no length": ((_PACKED, "test_samples_without_tokens_leave_no_trace"),),
    "a concatenated dataset never ends": ((_PACKED, "test_concatenated_datasets_follow_each_other_and_end"),),
    "pad_to_multiple_of adds a whole block": (
        (_COLLATE, "test_a_length_that_is_a_multiple_already_gets_no_extra_block"),
    ),
    "pad_to_multiple_of takes the length before alignment": (
        (_COLLATE, "test_the_padded_length_is_a_multiple_when_tokens_and_labels_differ_in_length"),
    ),
    "a missing key is a KeyError": ((_COLLATE, "test_bad_options_are_refused"),),
    "only the first key of encoder inputs survives": ((_COLLATE, "test_every_key_of_encoder_input_survives"),),
    "reverse KL cuts labels unlike logits": (
        (_LOSS, "test_distillation_losses_equal_their_divergences_whole_and_in_uneven_chunks"),
    ),
    "chunked losses are NaN when every label is ignored": (
        (_LOSS, "test_losses_are_zero_not_nan_when_every_label_is_ignored"),
    ),
    "GRPO needs padding masks": ((_GRPO, "test_padding_masks_are_optional"),),
    "GRPO by completion sums over the batch": ((_GRPO, "test_completion_loss_has_one_ratio_for_each_completion"),),
    "one sequence without a batch cannot be cut, and cutting changes the input": (
        (_REWARDS, "test_one_sequence_without_a_batch_is_cut_at_its_stop_token"),
        (_REWARDS, "test_cutting_leaves_the_input_as_it_was"),
    ),
    "an override's value may hold no equals sign": (("config/test_parse.py", "test_an_override_is_yaml"),),
    "a missing and an unknown argument escape validate": (
        ("config/test_validate.py", "test_a_missing_and_an_unknown_argument_together_are_collected"),
    ),
    "torchtune.rlhf.loss does not import": ((_REPAIRED, "test_losses_of_preferences_and_policies_import"),),
    "tokenizers and the Qwen 3 builder are not exported": (
        (_REPAIRED, "test_tokenizers_are_exported_from_their_packages"),
    ),
    "the last token is replaced by EOS without add_eos": ((_HF, "test_the_last_token_stays_without_eos"),),
    "an empty content list uses an unset variable": ((_BASE, "test_a_message_without_content_adds_nothing"),),
}


@cache
def functions(file: str) -> frozenset[str]:
    """Names of the functions of a test file, methods included."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("bug", TABLE)
def test_each_has_its_test(bug: str) -> None:
    assert [name for file, name in TABLE[bug] if name not in functions(file)] == []
