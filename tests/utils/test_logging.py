from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from torchtune.utils import deprecate_parameter, deprecated, get_logger, log_once, log_rank_zero

ROOT = Path(__file__).resolve().parents[2]


class Kept:
    pass


def test_a_deprecated_function_warns_once_and_works() -> None:
    @deprecated("Please use `other` instead.")
    def old(x: int) -> int:
        return x + 1

    with pytest.warns(
        FutureWarning, match="old is deprecated and will be removed in future versions. Please use `other`"
    ):
        assert old(1) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert old(2) == 3


def test_a_deprecated_class_stays_a_class() -> None:
    @deprecated("Please use `Other` instead.")
    class Old(Kept):
        def __init__(self, x: int) -> None:
            self.x = x

    with pytest.warns(FutureWarning, match="Old is deprecated and will be removed in future versions."):
        assert Old(3).x == 3
    assert issubclass(Old, Kept)


def test_a_deprecated_parameter_warns_where_it_is_given() -> None:
    @deprecate_parameter("a", "Please use b instead.")
    def func(a: int | None = None, b: int = 0) -> int:
        return b

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert func(b=2) == 2
    message = "a is deprecated for func and will be removed in future versions. Please use b instead."
    with pytest.warns(FutureWarning, match=message):
        func(1)


def test_a_wrong_call_of_a_deprecated_function_is_a_type_error() -> None:
    @deprecate_parameter("a")
    def func(a: int = 0) -> None: ...

    with pytest.raises(TypeError, match="nope"):
        func(nope=1)  # type: ignore[call-arg]


def test_only_rank_zero_logs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = get_logger("info")
    log_rank_zero(logger, "from zero")
    monkeypatch.setenv("RANK", "1")
    log_rank_zero(logger, "from one")
    assert caplog.messages == ["from zero"]
    assert caplog.records[0].funcName == "test_only_rank_zero_logs"


def test_log_once(caplog: pytest.LogCaptureFixture) -> None:
    logger = get_logger("INFO")
    for _ in range(3):
        log_once(logger, "a message of test_log_once", logging.WARNING)
    assert caplog.messages == ["a message of test_log_once"]


def test_the_logger_has_one_handler_and_the_level() -> None:
    before = get_logger().handlers[:]
    assert get_logger("DEBUG").level == logging.DEBUG
    assert get_logger("INFO").handlers == before
    with pytest.raises(ValueError, match="Unknown log level 'LOUD'"):
        get_logger("LOUD")


def test_logging_needs_no_torch() -> None:
    code = (
        "import sys\nfrom torchtune import utils\n"
        "utils.log_rank_zero(utils.get_logger('INFO'), 'hello')\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr == "INFO:torchtune:hello\n"
