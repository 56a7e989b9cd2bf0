"""Tools in the loop: what a model calls is run, and it sees the results before it goes on."""

from torchtune.rlhf.tools._episode import CallRecord, Episode, collect, tokens_after
from torchtune.rlhf.tools._schema import function_schema
from torchtune.rlhf.tools._toolbox import Toolbox, ToolResult
from torchtune.rlhf.tools.rewards import (
    CallArgumentsReward,
    CallNameReward,
    EnvironmentReward,
    ExactCallsReward,
    FormatReward,
    OutcomeReward,
    Reward,
)

__all__ = [
    "CallArgumentsReward",
    "CallNameReward",
    "CallRecord",
    "EnvironmentReward",
    "Episode",
    "ExactCallsReward",
    "FormatReward",
    "OutcomeReward",
    "Reward",
    "ToolResult",
    "Toolbox",
    "collect",
    "function_schema",
    "tokens_after",
]
