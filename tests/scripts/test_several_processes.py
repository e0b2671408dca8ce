"""train.py and evaluator.py in several processes, as torchrun starts them; on the CPU, where Gloo joins them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import ROOT, Script

Market = Callable[[Path], Path]
OF_EACH = ("batch_sampling_params.P=2", "gather_embeddings=true", "sync_bn=true")
"""Half of the tiny params' batch, and what makes two of them act as one."""
OF_A_BATCH_OF_ITS_OWN = {"feature_dropout": 0.0, "global_feature_erasing": 0.0, "spectral_trans": 0.0}
"""What depends on how images are shared out, switched off."""


class Processes(Script):
    """Two processes for each script."""

    def command(self, script: str, *arguments: str, restarts: int = 0) -> list[str]:
        """The command line of torchrun; warnings are errors in the processes."""
        launcher = ["torchrun", "--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}", "--no-python"]
        return [*launcher, *super().command(script, *arguments)]

    def run_command(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run any command line where the scripts run."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=300, check=False
        )

    def environment(self) -> dict[str, str]:
        """As for a single process; torchrun is that of this interpreter."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**super().environment(), "PATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, make_market: Market) -> Processes:
    processes = Processes(tmp_path_factory.mktemp("several"))
    make_market(processes.folder / "market")
    model = {**json.loads(processes.write_params().read_text())["model_params"], **OF_A_BATCH_OF_ITS_OWN}
    processes.write_params(model_params=model, log_every=1)
    return processes


@pytest.fixture(scope="module")
def finished(processes: Processes) -> Processes:
    process = processes.run("train.py", "--sub_working_dir", "together", "--set", *OF_EACH)
    assert process.returncode == 0, process.stderr
    (processes.folder / "together.txt").write_text(process.stderr)
    return processes


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curves(run: Path) -> dict[str, list[float]]:
    """What TensorBoard shows of each step."""
    events = EventAccumulator(str(run))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name.startswith("train/")]
    return {name: [event.value for event in events.Scalars(name)] for name in names}


def test_one_process_writes_and_speaks_for_all(finished: Processes) -> None:
    run = finished.folder / "runs" / "together"
    names = sorted(re.sub(r"tfevents\..*", "tfevents.*", entry.name) for entry in run.iterdir())
    assert names == ["events.out.tfevents.*", "metrics.jsonl", "model_best.pth", "params.json", "train_log"]
    told = (finished.folder / "together.txt").read_text()
    for line in ("one of 2 processes", "2 epochs of 4 steps of 4 images on each of 2 devices", "finished: "):
        assert told.count(line) == 1, told
    assert [record["step"] for record in records(run)] == [4, 8]


def test_two_processes_do_what_one_does_with_the_double_batch(finished: Processes) -> None:
    alone = Script(finished.folder).run("train.py", "--sub_working_dir", "alone")
    assert alone.returncode == 0, alone.stderr
    two, one = (curves(finished.folder / "runs" / name) for name in ("together", "alone"))
    assert two.keys() == one.keys() > {"train/softmax_parts", "train/triplet_global", "train/accuracy"}
    for name, values in one.items():
        # The same weights see the same crops of the same images. Later steps have felt how rounding differs.
        assert two[name][0] == pytest.approx(values[0], rel=1e-4), name


def test_the_evaluator_has_the_same_figures_from_one_process_and_from_two(finished: Processes) -> None:
    outcomes = []
    for number, script in enumerate((Script(finished.folder), finished)):
        result, features = f"result_{number}.json", f"features_{number}.npz"
        arguments = ("runs/together", "--set", f"result_log_file={result}", f"features_path={features}")
        process = script.run("evaluator.py", *arguments)
        assert process.returncode == 0, process.stderr
        assert process.stdout.count("mAP_trapezoid") == 1
        outcomes.append(json.loads((finished.folder / result).read_text()))
    assert outcomes[0]["metrics"] == pytest.approx(outcomes[1]["metrics"], abs=1e-6)
    assert outcomes[0]["counts"] == outcomes[1]["counts"]
    epochs = records(finished.folder / "runs/together")
    best = max((record["metrics"] for record in epochs), key=lambda metrics: metrics["mAP"])
    assert outcomes[1]["metrics"] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("lr.base_lr=0.02", "lr.base_lr is 0.02, but 0.01 in process 0"),
        ("batches_dir=other", "not the data set that process 0 has"),
        ("batches_dir=nowhere", "process 1 of 2: nowhere: no such folder"),
    ],
)
def test_processes_that_differ_all_stop_with_one_message(
    processes: Processes, make_market: Market, changes: str, message: str
) -> None:
    other = make_market(processes.folder / "other")
    (other / "bounding_box_train" / "0020_c1s1_000001_00.jpg").unlink(missing_ok=True)
    script = Script(processes.folder).command("train.py", "--sub_working_dir", "mixed", "--set", *OF_EACH)
    mixed = processes.folder / "mixed.sh"
    mixed.write_text(f'[ "$RANK" = 1 ] && change={changes}\nexec {" ".join(script)} $change\n')
    launcher = processes.command("train.py")
    command = [*launcher[: launcher.index("--no-python") + 1], "bash", str(mixed)]
    process = processes.run_command(command)
    assert process.returncode != 0
    assert process.stderr.count(message) == 1, process.stderr
    assert re.search(r"exitcode *: 2 ", process.stderr), process.stderr
    assert not (processes.folder / "runs" / "mixed").exists()


@pytest.fixture
def long_run(processes: Processes, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A run of many epochs, started with the restarts that the test's parameter allows."""
    name, restarts = request.param
    command = processes.command(
        "train.py", "--sub_working_dir", name, "--set", *OF_EACH, "epoch=6", "lr.decay_step=0", restarts=restarts
    )
    process = subprocess.Popen(
        command, cwd=processes.folder, env=processes.environment(), stderr=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.wait()


def wait_for_epochs(run: Path, number: int, launchers: list[subprocess.Popen[str]]) -> None:
    """Until so many epochs of a run are done."""
    deadline = time.monotonic() + 240
    while not (run / "metrics.jsonl").exists() or len(records(run)) < number:
        assert all(launcher.poll() is None for launcher in launchers)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(launcher: subprocess.Popen[str]) -> list[int]:
    """The processes it has started."""
    return [int(child) for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]


def variables(process: int) -> list[bytes]:
    """Of a process's environment."""
    return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")


def kill_the_second_process(run: Path, launcher: subprocess.Popen[str]) -> None:
    """Once two epochs are done."""
    wait_for_epochs(run, 2, [launcher])
    (second,) = (child for child in children(launcher) if b"RANK=1" in variables(child))
    os.kill(second, signal.SIGKILL)


@pytest.mark.parametrize("long_run", [("killed", 0)], indirect=True)
def test_a_run_whose_process_is_killed_stops_and_can_go_on(
    processes: Processes, long_run: subprocess.Popen[str]
) -> None:
    run = processes.folder / "runs" / "killed"
    kill_the_second_process(run, long_run)
    _, told = long_run.communicate(timeout=120)
    assert long_run.returncode != 0
    assert "SIGKILL" in told
    assert (run / "last.pth").is_file()
    resumed = processes.run("train.py", "--operation", "resume_train", "--sub_working_dir", "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(r"resumed after step \d+, in epoch [2-6] of 6", resumed.stderr)
    assert [record["epoch"] for record in records(run)] == [1, 2, 3, 4, 5, 6]
    alone = Script(processes.folder).run("train.py", "--operation", "resume_train", "--sub_working_dir", "killed")
    assert alone.returncode == 2


@pytest.mark.parametrize("long_run", [("restarted", 1)], indirect=True)
def test_a_run_that_torchrun_starts_again_goes_on_by_itself(
    processes: Processes, long_run: subprocess.Popen[str]
) -> None:
    run = processes.folder / "runs" / "restarted"
    kill_the_second_process(run, long_run)
    _, told = long_run.communicate(timeout=240)
    assert long_run.returncode == 0, told
    assert re.search(r"resumed after step \d+, in epoch [2-6] of 6", told)
    assert [record["epoch"] for record in records(run)] == [1, 2, 3, 4, 5, 6]
    assert not (run / "last.pth").exists()


@pytest.mark.slow
def test_two_machines_train_together_and_go_on_when_a_process_of_one_dies(processes: Processes) -> None:
    """Two of torchrun's agents on this machine, each of which believes to be one of two machines."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    _, *rest = processes.command("train.py", "--sub_working_dir", "machines", "--set", *OF_EACH, "epoch=6")
    where = f"--nnodes=2 --rdzv-backend=c10d --rdzv-endpoint={endpoint} --rdzv-id=a --local-addr=localhost"
    changed = {
        "--standalone": where,
        "--nproc-per-node=2": "--nproc-per-node=1",
        "--max-restarts=0": "--max-restarts=3",
    }
    command = ["torchrun", *(word for old in rest for word in changed.get(old, old).split())]
    agents = [
        subprocess.Popen(command, cwd=processes.folder, env=processes.environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        run = processes.folder / "runs" / "machines"
        wait_for_epochs(run, 2, agents)
        second = next(child for agent in agents for child in children(agent) if b"RANK=1" in variables(child))
        os.kill(second, signal.SIGKILL)
        told = [agent.communicate(timeout=300)[1] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert [agent.returncode for agent in agents] == [0, 0], told
    assert re.search(r"resumed after step \d+, in epoch [2-6] of 6", "".join(told)), told
    assert [record["epoch"] for record in records(run)] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_may_be_started_again_needs_a_name(processes: Processes) -> None:
    command = processes.command("train.py", restarts=1)
    process = processes.run_command(command)
    assert process.returncode != 0
    assert "add --sub_working_dir NAME" in process.stderr


def test_gpus_that_are_not_there_are_told_of(processes: Processes) -> None:
    process = Script(processes.folder).run("train.py", "--set", "parallels=[0,1]")
    assert process.returncode == 2
    assert "parallels: there is no GPU 0, 1; this machine has 0" in process.stderr
    assert str(ROOT) not in process.stderr
