import io
import json
from pathlib import Path

import pytest

from benchmarks.deployment import FEW, export, make_model
from benchmarks.serving import main, read_answer
from data.synthetic.dataset import make_synthetic
from utils.errors import DataError


def test_answers_are_read_one_after_the_other_until_the_connection_ends() -> None:
    good, bad = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n1\r\n2",
        b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy",
    )
    answers = io.BytesIO(good + good + bad + good[:20])
    assert [read_answer(answers), read_answer(answers)] == [b"1\r\n2"] * 2
    with pytest.raises(DataError, match=r"503 Busy.*busy"):
        read_answer(answers)
    for _ in range(2):
        with pytest.raises(DataError, match="ended a connection without an answer"):
            read_answer(answers)


@pytest.mark.slow
def test_the_service_answers_rightly_under_a_malformed_load(tmp_path: Path) -> None:
    make_synthetic(tmp_path / "images", FEW)
    model = export(make_model(tmp_path / "run", {"model": "resnet_18"}, (64, 32), tmp_path / "images"), "fp32")
    short = ["--rounds", "1", "--images", "8", "--clients", "4", "--minutes", "0.05"]
    main(["--model", str(model), *short, "--out", str(tmp_path / "out")])
    tables = json.loads((tmp_path / "out.json").read_text())["tables"]
    assert [len(row["images/s"]) for row in tables["Overhead"]] == [1, 1]
    kinds = {"embed", "embed a form", "search", "add", "read", "remove", "malformed", "too long", "slow"}
    assert kinds <= {row["request"] for row in tables["Load"]}
    assert all(int(row["answers"]) > 0 for row in tables["Load"])
    assert [row for row in tables["Load"] if row["wrong"] != "0"] == []
    assert "The service runs on" in (tmp_path / "out.md").read_text()
