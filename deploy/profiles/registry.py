"""The known export profiles. A new one is a file in this package, an entry here and a value of `ProfileName`."""

from config.params import ExportParams
from deploy.profiles.boxmot import BoxMOT
from deploy.profiles.deepstream import DeepStream
from deploy.profiles.openvino import OpenVINO
from deploy.profiles.ours import Ours
from deploy.profiles.profile import PixelLayout, Profile
from deploy.profiles.tao import TAO
from deploy.profiles.ultralytics import Ultralytics, UltralyticsSquare
from utils.errors import ParamsError

PROFILES: dict[str, Profile] = {
    "ours": Ours(),
    "boxmot": BoxMOT(),
    "ultralytics": Ultralytics(),
    "deepstream": DeepStream(),
    "tao": TAO(),
    "openvino": OpenVINO(),
}
"""By export_params.profile."""


SQUARES: dict[str, Profile] = {"ultralytics": UltralyticsSquare()}
"""Those of graphs that resize squares, as export_params.resize asks for."""


def profile_named(name: str, layout: PixelLayout, resize: bool) -> Profile:
    """The profile of a model of this layout whose graph resizes images or not; raises a KeyError if there is none."""
    if name == "ours":
        return Ours(layout)
    return (SQUARES if resize else PROFILES)[name]


def profile_of(options: ExportParams) -> Profile:
    """The profile that the options ask for.

    Raises:
        ParamsError: another option contradicts it.
    """
    given = f'export_params.profile: "{options.profile}"'
    if options.resize and options.profile not in ("ours", *SQUARES):
        raise ParamsError(f"{given} resizes images itself; set export_params.resize to false")
    profile = profile_named(options.profile, options.layout or "nhwc", options.resize)
    if options.layout not in (None, profile.layout):
        raise ParamsError(f'{given} takes "{profile.layout}"; set export_params.layout to null')
    if options.precision not in profile.precisions:
        raise ParamsError(
            f"{given}: TensorRT chooses the precision itself, as the file beside the model says; set "
            f'export_params.precision to "fp32", not "{options.precision}"'
        )
    return profile
