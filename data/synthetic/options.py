"""How large the synthetic data set is."""

from typing import Self

from pydantic import Field, model_validator

from utils.options import Options


class SyntheticOptions(Options):
    """Size and seed of a synthetic data set; the same options always give the same bytes."""

    train_identities: int = Field(default=360, ge=2, le=9000)
    """Number of persons to train on."""
    test_identities: int = Field(default=80, ge=2, le=9000)
    """Number of persons in the query and the gallery; none of them is a training person."""
    cameras: int = Field(default=6, ge=2, le=9)
    """Number of cameras; each person is seen by more than half of them."""
    images_per_camera: int = Field(default=3, ge=1, le=20)
    """Maximum of images per person and camera, in train and in the gallery; the minimum is half of it."""
    distractors: int = Field(default=150, ge=0, le=9000)
    """Gallery images of persons that are in no query (pid 0)."""
    junk: int = Field(default=60, ge=0, le=9000)
    """Gallery images without a usable person (pid -1), which the evaluation ignores."""
    seed: int = Field(default=1, ge=0, lt=2**32)
    """Seed of the persons, the cameras and every image."""

    @model_validator(mode="after")
    def _four_digits(self) -> Self:
        persons = self.train_identities + self.test_identities
        if persons > 9999:
            raise ValueError(f"train_identities + test_identities is {persons}; file names have room for 9999 persons")
        return self
