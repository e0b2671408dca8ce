"""The options of the data: its location, image size, sampling and augmentation."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator

from data.augmentation.normalisation import STATISTICS, Normalisation
from data.cache import DataCache
from data.decoding import RESAMPLING, Interpolation, Resize
from data.layouts import LayoutChoice
from data.synthetic.options import SyntheticOptions
from utils.files import expand_user
from utils.options import Options

Pixels = Annotated[int, Field(ge=0)]

if TYPE_CHECKING:
    NormalisationSetting = Normalisation
    InterpolationSetting = Interpolation
else:
    # `Params` replace "auto" by what it stands for when they are made, so no reader of them meets the word.
    NormalisationSetting = Literal["auto", *STATISTICS]
    InterpolationSetting = Literal["auto", *RESAMPLING]


class RandomRectangle(Options):
    """A random rectangle of some images."""

    probability: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that an image gets such a rectangle; 0 = off."""
    min_area: float = Field(default=0.02, gt=0.0, le=1.0)
    """Smallest area of the rectangle, as a share of the image."""
    max_area: float = Field(default=0.4, gt=0.0, le=1.0)
    """Largest area of the rectangle, as a share of the image."""
    min_aspect: float = Field(default=0.3, gt=0.0, le=1.0)
    """Smallest height / width of the rectangle; the largest is its inverse."""


class RandomErasing(RandomRectangle):
    """Random erasing (Zhong et al. 2017): a random rectangle of the image is replaced."""

    fill: Literal["mean", "colour", "noise"] = "mean"
    """Mean colour of the normalisation (BoT), a random colour (timm's "rand"), or noise (timm's "pixel", TransReID)."""

    @property
    def draws_noise(self) -> bool:
        """Whether random pixels are drawn."""
        return self.probability > 0 and self.fill == "noise"


class GrayscalePatch(RandomRectangle):
    """Local grayscale (Gong et al. 2021): a random rectangle of the image loses its colour."""


class AutoAugment(Options):
    """AutoAugment (Cubuk et al. 2019) with its policy for ImageNet, before all other augmentation."""

    probability: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that an image gets one of the 25 sub-policies, each of two operations; 0 = off."""


class DataAugmentation(Options):
    """Augmentation of the training images, and the normalisation and interpolation that evaluation shares."""

    mirror: bool = True
    """Flip left-right with probability 0.5."""
    pad: Pixels | tuple[Pixels, Pixels] = 0
    """Pixels of zero padding on each side, or [above and below, left and right], before a random crop; 0 = off."""
    resize_h: int = Field(default=0, ge=0)
    """Height to resize to before the random crop; 0 = img_h."""
    resize_w: int = Field(default=0, ge=0)
    """Width to resize to before the random crop; 0 = img_w."""
    random_erasing: RandomErasing = RandomErasing()
    """Random erasing (Zhong et al. 2017)."""
    auto_augment: AutoAugment = AutoAugment()
    """AutoAugment (Cubuk et al. 2019)."""
    grayscale: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that a whole image loses its colour; 0 = off."""
    grayscale_patch: GrayscalePatch = GrayscalePatch()
    """Local grayscale (Gong et al. 2021)."""
    brightness: float = Field(default=0.0, ge=0.0, le=1.0)
    """Multiply the brightness by a factor drawn from [1 - x, 1 + x]."""
    contrast: float = Field(default=0.0, ge=0.0, le=1.0)
    """Multiply the contrast around the mean grey by a factor drawn from [1 - x, 1 + x]."""
    saturation: float = Field(default=0.0, ge=0.0, le=1.0)
    """Multiply the saturation by a factor drawn from [1 - x, 1 + x]."""
    hue: float = Field(default=0.0, ge=0.0, le=0.5)
    """Rotate the hue by up to this share of the colour circle in either direction."""
    jitter_probability: float = Field(default=1.0, gt=0.0, le=1.0)
    """Probability that brightness, contrast, saturation and hue of an image change, as far as they are on."""
    rotation: float = Field(default=0.0, ge=0.0, le=180.0)
    """Rotate the image by up to this many degrees in either direction; corners become zero."""
    noise: float = Field(default=0.0, ge=0.0, le=1.0)
    """Standard deviation of Gaussian noise, for pixels scaled to 0..1."""
    normalisation: NormalisationSetting = "auto"  # pyright: ignore[reportAssignmentType]
    """Mean and standard deviation per channel; "auto": as the backbone's weights expect; "unit": 0 and 1."""
    interpolation: InterpolationSetting = "auto"  # pyright: ignore[reportAssignmentType]
    """How all images are resized, with antialiasing; "auto": as the backbone's weights expect."""

    @property
    def pads(self) -> tuple[int, int]:
        """Pixels of padding above and below, and left and right."""
        return (self.pad, self.pad) if isinstance(self.pad, int) else self.pad

    @property
    def jitters_colours(self) -> bool:
        """Whether brightness, contrast, saturation or hue change."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    @property
    def draws_pixels(self) -> bool:
        """Whether a number is drawn for each pixel."""
        return self.noise > 0 or self.random_erasing.draws_noise


class BatchSampling(Options):
    """Sampling of the images of a batch."""

    class_balanced: bool = False
    """true: P identities with K images each (P x K sampling); false: images in random order."""
    P: int = Field(default=16, ge=1)
    """Identities in a batch of P x K sampling."""
    K: int = Field(default=4, ge=1)
    """Images of each identity in a batch of P x K sampling."""
    every_image: bool = False
    """P x K sampling draws identities by their numbers of images: with a small K nearly every image; false: equally."""
    balance: Literal["source", "one_source", "camera"] | None = None
    """P x K batches: P / S identities of each of S data sets, all of one, or K images of many cameras; null: any."""


class DataOptions(Options):
    """The keys of params.json that belong to `data/`."""

    batches_dir: str | tuple[str, ...] = "synthetic"
    """Folder of the data set, an .lmdb file made by build_lmdb, or "synthetic"; a list to train on several."""
    test_dirs: tuple[str, ...] = ()
    """Data sets to evaluate on, each on its own, instead of those of batches_dir; their training half is not used."""
    data_layout: LayoutChoice = "auto"
    """Layout of the data sets: that of a public one, or one folder per identity; "auto" detects it for each."""
    test_list: str = ""
    """VehicleID's list of test images, a file in train_test_split; "" = the largest of 800, 1600 and 2400 vehicles."""
    label_fixes: str | tuple[str, ...] = ""
    """CSV file with corrections of training labels, as audit_data writes; a list: one after the other; "" = none."""
    synthetic: SyntheticOptions = SyntheticOptions()
    """The built-in pedestrians, for batches_dir "synthetic"."""
    bad_images: Literal["error", "skip"] = "error"
    """Unreadable images: "error" lists them and stops before training, "skip" logs them and leaves them out."""
    data_cache: DataCache = "auto"
    """Where decoded images are kept; "auto" uses the device or RAM where there is ample room."""
    img_h: int = Field(default=256, ge=16)
    """Height of the network's input in pixels."""
    img_w: int = Field(default=128, ge=16)
    """Width of the network's input in pixels."""
    batch_size: int | None = Field(default=None, ge=2)
    """Images in a batch on each device; null = P x K."""
    data_augmentation: DataAugmentation = DataAugmentation()
    """Augmentation, normalisation and interpolation."""
    batch_sampling_params: BatchSampling = BatchSampling()
    """Random or P x K sampling."""

    @field_validator("batches_dir")
    @classmethod
    def _one_or_several(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or "" in (value if isinstance(value, tuple) else ()):
            raise ValueError('names no data set; for the current folder write "."')
        return value[0] if len(value) == 1 and not isinstance(value, str) else value

    @field_validator("test_dirs")
    @classmethod
    def _all_named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError('"" names no data set; for the current folder write "."')
        return value

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets to train on."""
        return (self.batches_dir,) if isinstance(self.batches_dir, str) else self.batches_dir

    @property
    def test_sets(self) -> tuple[str, ...]:
        """The data sets to evaluate on."""
        return self.test_dirs or self.sources

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Every data set once, those to train on first; the position is its number where they are joined."""
        return tuple(dict.fromkeys((*self.sources, *self.test_dirs)))

    @property
    def data_names(self) -> dict[str, str]:
        """The last part of the path of every data set, or the whole path where two end alike."""
        names = {path: expand_user(path).resolve().name.removesuffix(".lmdb") for path in self.data_sets}
        values = list(names.values())
        return {path: name if name and values.count(name) == 1 else path for path, name in names.items()}

    @property
    def data_name(self) -> str:
        """The data sets to train on, for messages."""
        return ", ".join(self.sources)

    def with_data(self, path: str) -> Self:
        """The same options for a single data set; labels are corrected in one to train on only."""
        label_fixes = self.label_fixes if path in self.sources else ""
        return self.model_copy(update={"batches_dir": path, "test_dirs": (), "label_fixes": label_fixes})

    @property
    def batch_images(self) -> int:
        """Images of one batch on one device."""
        sampling = self.batch_sampling_params
        return sampling.P * sampling.K if self.batch_size is None else self.batch_size

    @property
    def resize_to(self) -> tuple[int, int]:
        """Height and width a training image has before the random crop."""
        augmentation = self.data_augmentation
        return augmentation.resize_h or self.img_h, augmentation.resize_w or self.img_w

    @property
    def train_resize(self) -> Resize:
        """How a training image is resized before the random crop."""
        return Resize(*self.resize_to, self.data_augmentation.interpolation)

    @property
    def eval_resize(self) -> Resize:
        """How an image is resized for the network outside of training."""
        return Resize(self.img_h, self.img_w, self.data_augmentation.interpolation)
