"""OpenVINO, as the demos of its Open Model Zoo use person re-identification models: raw BGR pixels."""

import numpy as np

from deploy.profiles.profile import Profile


class OpenVINO(Profile):
    """Source: the pages of person-reidentification-retail-0277 and others in Open Model Zoo, and its Python demos."""

    consumer = "OpenVINO"
    input_name, output_names = "data", ("reid_embedding",)
    mean, std = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)
    is_bgr = True

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """BGR in 0..255."""
        return np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2), dtype=np.float32)

    def file_name(self, backbone: str, height: int, width: int) -> str:
        """An .xml file, which has its weights in a .bin beside it."""
        return "model.xml"
