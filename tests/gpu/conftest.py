import os
from pathlib import Path

import pytest

from tests.conftest import Script


class GpuScript(Script):
    """An entry script that sees the GPUs of this machine."""

    def environment(self) -> dict[str, str]:
        return dict(os.environ)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    # Preloaded processes are started with GPUs hidden.
    return GpuScript(tmp_path, preloaded=False)
