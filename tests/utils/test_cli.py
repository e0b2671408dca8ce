import logging

import pytest

from utils.cli import exit_code_of
from utils.errors import DataError


def failing(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "has_traceback"),
    [(DataError("folder: empty"), 2, False), (KeyboardInterrupt(), 130, False), (ValueError("ours"), 1, True)],
)
def test_exit_codes_and_tracebacks(
    error: BaseException, code: int, has_traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert exit_code_of(lambda: failing(error)) == code
    assert ("Traceback" in caplog.text) == has_traceback
    assert str(error) in caplog.text


def test_success_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    assert exit_code_of(lambda: None) == 0
    assert caplog.text == ""
