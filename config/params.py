"""The one frozen tree that params.json becomes: each package's own options, put together."""

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from config.evaluation import EvaluationParams
from config.export import ExportParams
from config.gan import GanParams
from data.options import DataOptions
from losses.options import LossOptions
from models.options import ModelOptions
from utils.options import Options
from utils.precision import PrecisionName

Step = Annotated[int, Field(ge=1)]


class LearningRate(Options):
    """Learning rates and how they change during training."""

    base_lr: float = Field(default=0.01, ge=0.0)
    """Learning rate of the backbone."""
    fc_lr: float = Field(default=0.1, ge=0.0)
    """Learning rate of everything else: heads, classifiers, losses."""
    decay_step: Annotated[int, Field(ge=0)] | tuple[Step, ...] = 40
    """Multiply both rates by decay_gamma every so many epochs (iterations); a list names each time; 0 = never."""
    decay_gamma: float = Field(default=0.1, gt=0.0, le=1.0)
    """Factor of each decay."""
    decay_unit: Literal["auto", "epoch", "iteration"] = "auto"
    """What decay_step counts; "auto": iterations with class_balanced sampling, otherwise epochs."""
    warmup_epoch: float = Field(default=0.0, ge=0.0)
    """Epochs over which the rates rise linearly, step by step, to their full value; 0 = no warm-up."""
    warmup_factor: float = Field(default=0.1, gt=0.0, le=1.0)
    """Share of the full rate at the first step of the warm-up."""


class CheckpointOptions(Options):
    """When last.pth is written, besides after the last step of every epoch. Writing does not change the training."""

    every_steps: int = Field(default=0, ge=0)
    """Save what it takes to go on after every so many steps; 0 = not by steps."""
    every_minutes: float = Field(default=5.0, ge=0.0)
    """Save it when so many minutes have passed since the last time; 0 = not by time."""


class Params(LossOptions, ModelOptions, DataOptions):
    """Everything one training run is made from. Written, resolved, into the run's folder."""

    epoch: int = Field(default=60, ge=1)
    """Epochs to train."""
    optimizer: Literal["sgd", "nesterov", "adam", "amsgrad", "rmsprop", "adamw"] = "sgd"
    """Optimization algorithm."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Momentum of sgd, nesterov and rmsprop."""
    weight_decay: float = Field(default=5e-4, ge=0.0)
    """L2 regularization (decoupled for adamw)."""
    lr: LearningRate = LearningRate()
    """Learning rates, decay and warm-up."""
    gan_params: GanParams = GanParams()
    """The person generator, for train_gan and for generated images in the training of a re-ID network."""
    fine_tune: bool = False
    """Train the classifiers only and freeze every layer before them."""
    parallels: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """GPUs to train on, by index, with a process for each; empty: the first GPU, or the CPU where there is none."""
    accumulate_steps: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged for one step of the optimizer."""
    precision: PrecisionName = "auto"
    """Number format of the network's activations; "auto": bf16 on a GPU that has it, else fp32. Losses are fp32."""
    compile: Literal["auto", "on", "graphs", "off"] = "auto"
    """torch.compile: "auto" compiles on a GPU, where it pays; "graphs" also replays the network as CUDA graphs."""
    sync_bn: bool = False
    """Batch normalisation over the batches of all processes instead of each its own."""
    keep_freed_memory: bool = True
    """On the CPU under Linux: reuse freed memory instead of returning it; about a third faster."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of everything random: initial weights, sampling, augmentation, dropout."""
    deterministic: bool = False
    """On a GPU: algorithms that give the same bits each time, at some cost in speed; on a CPU they do anyway."""
    max_bad_steps: int = Field(default=3, ge=1)
    """Steps in a row with a loss or gradient that is not finite after which training stops; none of them is applied."""
    checkpoint: CheckpointOptions = CheckpointOptions()
    """When the state to go on from is saved."""
    evaluation_params: SerializeAsAny[EvaluationParams] = EvaluationParams()
    """The evaluation after each epoch; its plug-in declares further keys."""
    log_every: int = Field(default=10, ge=1)
    """Steps between two readings of the losses."""
    export_params: ExportParams = ExportParams()
    """How export_onnx writes the trained network."""
    working_dir: str = "runs"
    """Folder that holds the runs."""
