"""What a camera does to an image: colour cast, contrast, blur, noise and JPEG quality."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from data.synthetic.scene import draw_panorama


@dataclass(frozen=True)
class Camera:
    """One camera of the network.

    Attributes:
        panorama: What it sees without persons, RGB.
        gains: White balance, one factor per channel.
        gamma: Exponent of its tone curve; above 1 darkens.
        saturation: 0 is grey, 1 leaves colours as they are.
        sharpness: Resolution of distant boxes as a share of the full one, 0 to 1.
        noise: Standard deviation of the sensor noise, grey levels of 255.
        yaw: Radians by which most persons it sees are turned, see `pose.Pose`.
        quality: Middle of its JPEG qualities.
    """

    panorama: Image.Image
    gains: tuple[float, float, float]
    gamma: float
    saturation: float
    sharpness: float
    noise: float
    yaw: float
    quality: int


def make_cameras(seed: int, count: int) -> list[Camera]:
    """Draws the cameras; their casts and tone curves are spread evenly, so every seed is about equally hard."""
    rng = np.random.default_rng((seed, 1))
    hues, tones, views = (rng.permutation(count) / count for _ in range(3))
    return [_make_camera(rng, *spread) for spread in zip(hues, tones, views, strict=True)]


def _make_camera(rng: np.random.Generator, hue: float, tone: float, view: float) -> Camera:
    turns = 2 * math.pi * (hue + np.arange(3) / 3)
    red, green, blue = (1.0 + 0.06 * np.cos(turns)).tolist()
    return Camera(
        panorama=draw_panorama(rng),
        gains=(red, green, blue),
        gamma=float(0.88 + 0.26 * tone + rng.uniform(-0.03, 0.03)),
        saturation=float(rng.uniform(0.85, 1.1)),
        sharpness=float(rng.uniform(0.7, 1.0)),
        noise=float(rng.uniform(2.0, 6.0)),
        yaw=float(2 * math.pi * view + rng.uniform(-0.3, 0.3)),
        quality=int(rng.integers(66, 90)),
    )


def develop(image: Image.Image, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Gives an RGB image the look of the camera, with small changes from shot to shot."""
    share = min(1.0, camera.sharpness * rng.uniform(0.8, 1.2))
    if share < 0.9:
        size = (round(image.width * share), round(image.height * share))
        image = image.resize(size, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur((rng.uniform(0.0, 0.7), rng.uniform(0.0, 0.35))))
    gamma = camera.gamma * rng.uniform(0.92, 1.08)
    saturation = camera.saturation * rng.uniform(0.88, 1.1)
    gains = np.asarray(camera.gains) * rng.uniform(0.95, 1.05, 3) * rng.uniform(0.88, 1.1)
    return expose(image, gamma, saturation, gains, camera.noise, rng)


def expose(
    image: Image.Image, gamma: float, saturation: float, gains: np.ndarray, noise: float, rng: np.random.Generator
) -> Image.Image:
    """Tone curve, saturation, white balance (one factor per channel) and sensor noise, see `Camera`; RGB."""
    pixels = np.asarray(image, dtype=np.float32) * np.float32(1 / 255)
    pixels = pixels ** np.float32(gamma)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + np.float32(saturation) * (pixels - grey)
    pixels = pixels * (gains * 255).astype(np.float32)
    pixels = pixels + np.float32(noise) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def jpeg_quality(camera: Camera, rng: np.random.Generator) -> int:
    """Draws the JPEG quality of a shot, 60 to 95."""
    return int(np.clip(camera.quality + rng.integers(-8, 9), 60, 95))
