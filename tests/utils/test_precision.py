"""What is computed in, and whether it is compiled, on machines that are made up."""

import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from utils.errors import ParamsError
from utils.precision import (
    BF16,
    FP16,
    FP32,
    STEPS_WORTH_COMPILING,
    Compilation,
    CompileName,
    choose_compilation,
    choose_precision,
    evaluation_precision,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Machine:
    """A machine with a GPU on which everything can be compiled, until something is taken away."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch, self.programs, self.headers = patch, folder / "bin", folder / "include"
        self.programs.mkdir()
        self.headers.mkdir()
        (self.headers / "Python.h").touch()
        for name in ("gcc", "g++"):
            self.install(name)
        patch.setenv("PATH", str(self.programs))
        for variable in ("CC", "CXX"):
            patch.delenv(variable, raising=False)
        patch.setattr(sysconfig, "get_path", lambda name, scheme: str(self.headers) if name == "include" else "")
        (folder / "triton.py").touch()
        patch.syspath_prepend(folder)
        self.capability(9, 0)

    def install(self, program: str) -> None:
        (self.programs / program).touch(mode=0o755)

    def remove(self, program: str) -> None:
        (self.programs / program).unlink()

    def capability(self, major: int, minor: int) -> None:
        self.patch.setattr(torch.cuda, "get_device_capability", lambda _: (major, minor))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def test_the_precision_is_what_the_device_can() -> None:
    assert choose_precision("auto", CPU) == choose_precision("fp32", CPU) == FP32
    assert choose_precision("bf16", CPU) == BF16
    assert not BF16.scales_gradients
    assert FP16.scales_gradients
    with pytest.raises(ParamsError, match=r'precision: "fp16" needs a GPU'):
        choose_precision("fp16", CPU)


def test_a_gpu_without_bf16_takes_float32_unless_told_otherwise(machine: Machine) -> None:
    assert choose_precision("auto", GPU) == choose_precision("bf16", GPU) == BF16
    machine.capability(7, 5)
    assert choose_precision("auto", GPU) == FP32
    assert choose_precision("fp16", GPU) == FP16
    with pytest.raises(ParamsError, match=r'precision: this GPU .* bf16; set "fp16" or "fp32"'):
        choose_precision("bf16", GPU)
    # An evaluation need not be that of the training.
    assert evaluation_precision("bf16", GPU) == FP32


@pytest.mark.usefixtures("machine")
def test_only_a_gpu_compiles_unasked() -> None:
    assert choose_compilation("auto", GPU) == Compilation("on")
    assert choose_compilation("graphs", GPU) == Compilation("graphs")
    assert choose_compilation("off", GPU) == choose_compilation("auto", CPU) == Compilation("off")
    assert choose_compilation("on", CPU) == Compilation("on")
    with pytest.raises(ParamsError, match='"graphs" needs a GPU'):
        choose_compilation("graphs", CPU)


@pytest.mark.usefixtures("machine")
def test_a_short_training_compiles_only_if_asked_to() -> None:
    few = STEPS_WORTH_COMPILING - 1
    mode, reason = choose_compilation("auto", GPU, few)
    assert mode == "off"
    assert f"{few} steps" in reason
    assert choose_compilation("auto", GPU, few + 1) == choose_compilation("on", GPU, few) == Compilation("on")


def no_compiler(machine: Machine) -> None:
    machine.remove("gcc")


def no_such_compiler(machine: Machine) -> None:
    machine.patch.setenv("CC", "icc")


def no_headers(machine: Machine) -> None:
    (machine.headers / "Python.h").unlink()


def no_triton(machine: Machine) -> None:
    machine.patch.setitem(sys.modules, "triton", None)


def old_gpu(machine: Machine) -> None:
    machine.capability(6, 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_compiler, r"a C compiler \(install gcc or clang\)"),
        (no_such_compiler, r"a C compiler \(CC names icc"),
        (no_headers, r"Python\.h \(install python3-dev"),
        (no_triton, "triton"),
        (old_gpu, r"compute capability 7\.0"),
    ],
)
def test_what_compilation_lacks_on_a_gpu_is_named(machine: Machine, spoil: object, message: str) -> None:
    assert callable(spoil)
    spoil(machine)
    names: tuple[CompileName, ...] = ("on", "graphs")
    for name in names:
        with pytest.raises(ParamsError, match=rf'^compile: "{name}" needs .*{message}.*; or set "off"$'):
            choose_compilation(name, GPU)
    mode, reason = choose_compilation("auto", GPU)
    assert mode == "off"
    assert message.replace("\\", "").split("(")[0] in reason
    assert choose_compilation("off", GPU) == Compilation("off")


def test_all_that_is_missing_is_named_at_once(machine: Machine) -> None:
    no_compiler(machine)
    no_headers(machine)
    with pytest.raises(ParamsError, match=r"C compiler .* and Python\.h"):
        choose_compilation("on", GPU)


def test_any_compiler_that_is_searched_for_will_do(machine: Machine) -> None:
    machine.remove("gcc")
    machine.install("clang")
    assert choose_compilation("auto", GPU) == Compilation("on")
    machine.remove("clang")
    machine.install("own")
    machine.patch.setenv("CC", "own")
    assert choose_compilation("auto", GPU) == Compilation("on")


def test_on_a_cpu_a_cpp_compiler_is_needed(machine: Machine) -> None:
    machine.remove("g++")
    with pytest.raises(ParamsError, match=r"a C\+\+ compiler \(install g\+\+\)"):
        choose_compilation("on", CPU)
    machine.remove("gcc")
    machine.install("g++")
    assert choose_compilation("on", CPU) == Compilation("on")
