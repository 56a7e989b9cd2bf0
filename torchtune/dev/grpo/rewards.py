"""Rewards for reasoning in tags: ``<think>...</think> <answer>...</answer>``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torchtune.modules.transforms.tokenizers import ModelTokenizer

_TAGS = ("think", "answer")


def extract_tags(text: str) -> dict[str, list[str]]:
    """What stands between ``<think>`` and ``</think>``, and between ``<answer>`` and ``</answer>``.

    Args:
        text: an answer.
    """
    return {tag: re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in _TAGS}


def shaped_correctness_reward(answer: str, completion: str) -> tuple[float, float]:
    """Reward an answer for its form, and more for being right.

    Args:
        answer: the right answer.
        completion: what the model wrote, after a prompt that ends in ``<think>``.

    Returns:
        the reward: 100 if the last ``<answer>`` is exactly right; else 5 for exactly one ``<think>``, 5 for exactly one
        ``<answer>``, 20 if one of the answers is right and 10 if one contains what is right; and 1.0 if the last is right.
    """
    found = extract_tags("<think>" + completion)
    attempts = found["answer"]
    if attempts and attempts[-1] == answer:
        return 100.0, 1.0
    merits = (
        (5.0, len(found["think"]) == 1),
        (5.0, len(attempts) == 1),
        (20.0, answer in attempts),
        (10.0, any(answer in attempt for attempt in attempts)),
    )
    return sum(points for points, earned in merits if earned), 0.0


def batch_shaped_correctness_reward(
    tokenizer: ModelTokenizer, completions: torch.Tensor, answers: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rewards and successes of groups of answers, each ``[b, g]``, by :func:`shaped_correctness_reward`.

    Args:
        tokenizer: decodes the completions.
        completions: ids ``[b, g, r]``: ``g`` answers to each of ``b`` prompts.
        answers: the right answer to each prompt.
    """
    results = torch.tensor(
        [
            [shaped_correctness_reward(answer, tokenizer.decode(ids)) for ids in group]  # type: ignore[attr-defined]
            for group, answer in zip(completions.tolist(), answers, strict=True)
        ],
        device=completions.device,
    )
    return results[..., 0], results[..., 1]


class ShapedCorrectnessReward:
    """:func:`shaped_correctness_reward` as a reward function of recipes."""

    def __call__(self, episode: Any) -> float:
        """The reward of an :class:`~torchtune.rlhf.tools.Episode` whose row has an ``answer``."""
        if "answer" not in episode.row:
            raise ValueError(
                f"The row has no column 'answer'; it has {sorted(episode.row)}. Name reward_functions in the config"
            )
        return shaped_correctness_reward(str(episode.row["answer"]), episode.text)[0]


class FormattedMathCorrectnessReward:
    """Rewards an answer tag that holds the right answer.

    Args:
        answer_tag: name of the tag.
        positive_reward: for an answer that is right, as a number where both are numbers.
        negative_reward: for one that is not.
    """

    def __init__(self, answer_tag: str, positive_reward: float, negative_reward: float = 0.0) -> None:
        self.answer_tag = answer_tag
        self.positive_reward = positive_reward
        self.negative_reward = negative_reward
        self._pattern = re.compile(f"<{answer_tag}>(.*?)</{answer_tag}>", re.DOTALL)

    def __call__(self, episode: Any) -> float:
        """The reward of an :class:`~torchtune.rlhf.tools.Episode` whose row has an ``answer``."""
        attempts = self._pattern.findall(episode.text)
        right = bool(attempts) and _same_answer(attempts[-1], str(episode.row["answer"]))
        return self.positive_reward if right else self.negative_reward


class ThinkingAnswerFormattingReward:
    """Rewards text in a thinking tag, followed by text in an answer tag, and nothing else.

    Args:
        think_tag: name of the first tag; the prompt may end in it.
        answer_tag: name of the second.
        positive_reward: for this form.
        negative_reward: for any other.
    """

    def __init__(self, think_tag: str, answer_tag: str, positive_reward: float, negative_reward: float = 0.0) -> None:
        self.positive_reward = positive_reward
        self.negative_reward = negative_reward
        inside = rf"(?:(?!</?(?:{think_tag}|{answer_tag})>).)+"
        self._pattern = re.compile(
            rf"\s*(?:<{think_tag}>)?{inside}</{think_tag}>\s*<{answer_tag}>{inside}</{answer_tag}>\s*", re.DOTALL
        )

    def __call__(self, episode: Any) -> float:
        """The reward of an :class:`~torchtune.rlhf.tools.Episode`."""
        return self.positive_reward if self._pattern.fullmatch(episode.text) else self.negative_reward


def _same_answer(attempt: str, answer: str) -> bool:
    texts = [text.strip().replace(",", "").removeprefix("$") for text in (attempt, answer)]
    try:
        return float(texts[0]) == float(texts[1])
    except ValueError:
        return texts[0] == texts[1]
