import logging

import pytest

from utils.cli import exit_code_of
from utils.errors import DataError, optional_imports


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


def test_a_missing_package_is_a_message_with_the_command_that_installs_it(caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        with optional_imports("the service", "pip install -r requirements-deploy.txt"):
            import no_such_package  # pyright: ignore[reportMissingImports] # noqa: F401

    assert exit_code_of(work) == 2
    assert "the service needs the package no_such_package" in caplog.text
    assert "pip install -r requirements-deploy.txt" in caplog.text
