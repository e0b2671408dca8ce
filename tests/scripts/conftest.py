"""How tests run very many commands that end at once."""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import Script
from tests.scripts.preloaded import ScriptServer


class PreloadedScript(Script):
    """An entry script in a process of its own, which need not import torch first."""

    def __init__(self, folder: Path, output: Path, server: ScriptServer) -> None:
        super().__init__(folder)
        self.output, self.server = output, server

    def run(
        self, script: str, *arguments: str, launcher: Sequence[str] = (), timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run it to the end."""
        assert not launcher, "torchrun starts new processes; use a Script"
        return self.server.run(script, arguments, self.environment(), self.folder, self.output, timeout)


@pytest.fixture(scope="session")
def script_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptServer]:
    with ScriptServer(Script(tmp_path_factory.getbasetemp()).environment()) as server:
        yield server


@pytest.fixture
def preloaded_script(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, script_server: ScriptServer
) -> PreloadedScript:
    # Its output lies elsewhere: tests look at what a script leaves in its folder.
    return PreloadedScript(tmp_path, tmp_path_factory.mktemp("output"), script_server)
