import os
from pathlib import Path

import pytest

from tests.conftest import Script


class GpuScript(Script):
    """An entry script that sees the GPUs of this machine."""

    def command(self, script: str, *arguments: str) -> list[str]:
        # The compiler advises a lower precision of float32 products.
        python, *rest = super().command(script, *arguments)
        return [python, *rest[:2], "-W", "ignore:TensorFloat32 tensor cores:UserWarning", *rest[2:]]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    # Preloaded processes are started with GPUs hidden.
    return GpuScript(tmp_path, preloaded=False)
