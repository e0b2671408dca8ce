"""The one frozen tree that params.json becomes: each package's own options, put together."""

from typing import Annotated, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from config.clustering import ClusteringParams
from config.evaluation import EvaluationParams
from config.gan import GanParams
from data.augmentation.normalisation import normalisation_of
from data.decoding import RESAMPLING, Resize
from data.options import DataAugmentation, DataOptions
from losses.options import LossOptions
from models.backbones.registry import weights_preprocessing
from models.options import ModelOptions
from utils.options import Options
from utils.precision import CompileName, PrecisionName

Step = Annotated[int, Field(ge=1)]


class LearningRate(Options):
    """Learning rates and how they change during training."""

    base_lr: float = Field(default=0.01, ge=0.0)
    """Learning rate of the backbone."""
    fc_lr: float = Field(default=0.1, ge=0.0)
    """Learning rate of everything else: heads, classifiers, losses."""
    bias_factor: float = Field(default=1.0, gt=0.0)
    """Factor of the rates of all biases; some recipes have 2."""
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    """Factor of the backbone's rate from each of its stages to the one before; the last stage has base_lr."""
    freeze_backbone_steps: int = Field(default=0, ge=0)
    """Iterations at the start in which the backbone is not trained; its normalisation then runs as in evaluation."""
    schedule: Literal["step", "cosine", "flat_cosine", "poly"] = "step"
    """Course of both rates after the warm-up, up to the end of the training; "flat_cosine": constant at first."""
    decay_step: Annotated[int, Field(ge=0)] | tuple[Step, ...] = 40
    """For "step": epochs (or iterations) between decays of both rates; a list names each decay; 0 = never."""
    decay_gamma: float = Field(default=0.1, gt=0.0, le=1.0)
    """For "step": factor of both rates at each decay."""
    decay_unit: Literal["auto", "epoch", "iteration"] = "auto"
    """For "step": unit of decay_step; "auto": iterations with class_balanced sampling, otherwise epochs."""
    end_factor: float = Field(default=0.0, ge=0.0, le=1.0)
    """For "cosine", "flat_cosine" and "poly": share of the full rates that is reached at the end of the training."""
    flat_epoch: float = Field(default=0.0, ge=0.0)
    """For "flat_cosine": epochs at the full rates before the cosine, the warm-up included."""
    poly_power: float = Field(default=1.0, gt=0.0)
    """For "poly": power of the remaining share of the steps; 1 = linear."""
    warmup_epoch: float = Field(default=0.0, ge=0.0)
    """Epochs of linear warm-up, step by step; 0 = no warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Iterations of linear warm-up, instead of warmup_epoch."""
    warmup_factor: float = Field(default=0.1, gt=0.0, le=1.0)
    """Share of the full rates at the first step of the warm-up."""


class CheckpointOptions(Options):
    """When last.pth is written, besides at the end of every epoch. Writing does not change the training."""

    every_steps: int = Field(default=0, ge=0)
    """Steps between saves; 0 = not by steps."""
    every_minutes: float = Field(default=5.0, ge=0.0)
    """Minutes between saves; 0 = not by time."""


ProfileName = Literal["ours", "boxmot", "ultralytics", "deepstream", "tao", "openvino"]


class ExportParams(Options):
    """Input, precision and checks of the exported model."""

    profile: ProfileName = "ours"
    """The program that runs the model; "ours" is Predictor and the service. See docs/deploying.md."""
    layout: Literal["nhwc", "nchw"] | None = None
    """Layout of the uint8 RGB input: (B, H, W, 3), the default of "ours", or (B, 3, H, W), that of other profiles."""
    resize: bool = False
    """Resize inside the model, which then takes images of any size, one size a batch ("ultralytics": a square)."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Precision of the network; "int8" is calibrated on training images. Embeddings are float32."""
    simplify: bool = False
    """Simplify the graph with onnxslim."""
    opset: int = Field(default=20, ge=18, le=23)
    """ONNX opset version; 18 is the first that resizes with antialiasing."""
    calibration_images: int = Field(default=256, ge=8)
    """Training images for the calibration of "int8"."""
    measured_images: int = Field(default=2000, ge=0)
    """Maximum of test images for the metrics and thresholds of the exported model; 0 = not measured."""
    licence: str = Field(default="", pattern="^[a-z0-9.-]*$")
    """For export_hub: licence of the weights as the hub abbreviates it, such as "apache-2.0"; "" = not stated."""


class AuditParams(Options):
    """The audit of a training set, audit_data."""

    folds: int = Field(default=0, ge=0, le=20)
    """Train that many networks, each without a share of the identities, which it then judges; 0 = one given network."""
    probes: int = Field(default=0, ge=0)
    """Cells, of about sqrt(N), in which the nearest of N images are looked for; 0 = exactly, in all."""
    min_score: float = Field(default=0.5, ge=0.0, le=1.0)
    """Write the corrections to fixes.csv whose score, 0..1, is at least this."""
    near_duplicate: float = Field(default=4.0, ge=0.0, le=255.0)
    """Mean difference of pixels, 0..255, up to which two thumbnails are copies; 0 = only the same pixels."""
    max_shown: int = Field(default=40, ge=1)
    """Findings of each kind that the page shows, the surest first; audit.json has all."""

    @field_validator("folds")
    @classmethod
    def _one_fold_is_none(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("1 leaves no identity to train on; 2 is the least")
        return folds


class Params(LossOptions, ModelOptions, DataOptions):
    """Everything a training run is made from; the run's folder gets a copy with all values."""

    epoch: int = Field(default=60, ge=1)
    """Number of epochs."""
    optimizer: Literal["sgd", "nesterov", "adam", "amsgrad", "rmsprop", "adamw"] = "sgd"
    """Optimizer."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Momentum of sgd, nesterov and rmsprop."""
    weight_decay: float = Field(default=5e-4, ge=0.0)
    """L2 regularization (decoupled for adamw)."""
    decay_norms_and_biases: bool = True
    """Whether weight_decay acts on biases and on parameters of one dimension, such as those of normalisations, too."""
    clip_grad_norm: float = Field(default=0.0, ge=0.0)
    """Maximum norm of all gradients as one vector; larger ones are scaled down; 0 = any."""
    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Decay of a moving average of the weights, which is evaluated and kept in their place; 0 = none; often 0.999."""
    lr: LearningRate = LearningRate()
    """Learning rates, decay and warm-up."""
    gan_params: GanParams = GanParams()
    """The person generator, for train_gan and for generated images in re-ID training."""
    clustering_params: ClusteringParams = ClusteringParams()
    """Training without labels."""
    fine_tune: bool = False
    """Train only the classifiers; all layers before them are frozen."""
    parallels: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Indices of the GPUs to train on, one process each; empty: the first GPU, or the CPU where there is none."""
    accumulate_steps: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged for one optimizer step."""
    precision: PrecisionName = "auto"
    """Precision of the network; "auto": bf16 on a GPU that supports it, otherwise fp32. Losses are fp32."""
    compile: CompileName = "auto"
    """torch.compile: "auto": on a GPU, if it works there, for at least 4000 steps; "graphs": with CUDA graphs."""
    sync_bn: bool = False
    """Synchronise batch normalisation across processes."""
    keep_freed_memory: bool = True
    """On the CPU under Linux: reuse freed memory instead of returning it; about a third faster."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of all randomness: initial weights, sampling, augmentation, dropout."""
    deterministic: bool = False
    """Use deterministic algorithms on a GPU, at some cost in speed; the CPU is deterministic anyway."""
    max_bad_steps: int = Field(default=3, ge=1)
    """Consecutive steps with a non-finite loss or gradient that stop the training; each of them is skipped."""
    checkpoint: CheckpointOptions = CheckpointOptions()
    """When the resume state is saved."""
    evaluation_params: SerializeAsAny[EvaluationParams] = EvaluationParams()
    """The evaluation after each epoch; its plug-in declares further keys."""
    log_every: int = Field(default=10, ge=1)
    """Steps between logged losses."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow", "clearml"], ...] = ("tensorboard",)
    """Where params, curves, images and the best model go; all but "tensorboard" need a package of that name."""
    export_params: ExportParams = ExportParams()
    """How export_onnx writes the trained network."""
    audit_params: AuditParams = AuditParams()
    """How audit_data judges the training set."""
    working_dir: str = "runs"
    """Folder of all runs."""

    @model_validator(mode="after")
    def _resolve_preprocessing(self) -> Self:
        """Replace "auto" by what the backbone's weights expect, for all readers and for the files that are written."""
        # Frozen for everybody else.
        object.__setattr__(self, "data_augmentation", _resolved(self.data_augmentation, self.model_params.model))
        return self

    @property
    def is_unsupervised(self) -> bool:
        """Whether it trains without labels."""
        return self.clustering_params.method is not None

    @property
    def generator_resize(self) -> Resize:
        """How an image is resized to the size of the generated ones."""
        height = self.gan_params.img_h
        return Resize(height, height // 2, self.data_augmentation.interpolation)

    @property
    def num_generated(self) -> int:
        """Generated images that join each batch of a re-ID training."""
        return round(self.gan_params.mix_ratio * self.batch_images)


def _resolved(given: DataAugmentation, model: str) -> DataAugmentation:
    """The same without "auto"; raises ValueError if what the model's weights expect is unknown here."""
    auto = [key for key in ("normalisation", "interpolation") if getattr(given, key) == "auto"]
    if not auto:
        return given
    expected = weights_preprocessing(model)
    known = {
        "normalisation": normalisation_of(expected.mean, expected.std),
        "interpolation": expected.interpolation if expected.interpolation in RESAMPLING else None,
    }
    for key in auto:
        if known[key] is None:
            expects = f"mean {expected.mean}, standard deviation {expected.std}, {expected.interpolation} interpolation"
            raise ValueError(f"data_augmentation.{key}: no value means what {model} expects ({expects}); name one")
    return given.model_copy(update={key: known[key] for key in auto})
