"""The known export profiles. A new one is a file in this package, an entry here and a value in `ExportParams`."""

from config.params import ExportParams
from deploy.profiles.boxmot import BoxMOT
from deploy.profiles.deepstream import DeepStream
from deploy.profiles.openvino import OpenVINO
from deploy.profiles.profile import Profile
from deploy.profiles.tao import TAO
from deploy.profiles.ultralytics import Ultralytics
from utils.errors import ParamsError

PROFILES: dict[str, Profile] = {
    "boxmot": BoxMOT(),
    "ultralytics": Ultralytics(),
    "deepstream": DeepStream(),
    "tao": TAO(),
    "openvino": OpenVINO(),
}
"""By export_params.profile. "ours" is none of them: it takes uint8 pixels and also returns the lengths."""


def profile_of(options: ExportParams) -> Profile | None:
    """The profile that the options ask for; None: "ours".

    Raises:
        ParamsError: another option contradicts it.
    """
    profile = PROFILES.get(options.profile)
    if profile is None:
        return None
    given = f'export_params.profile: "{options.profile}"'
    if options.layout == "nhwc":
        raise ParamsError(f'{given} takes "nchw"; set export_params.layout to null')
    if options.resize and not profile.allows_resize:
        raise ParamsError(f"{given} resizes images itself; set export_params.resize to false")
    if options.precision not in profile.precisions:
        raise ParamsError(
            f"{given}: TensorRT chooses the precision itself, as the file beside the model says; set "
            f'export_params.precision to "fp32", not "{options.precision}"'
        )
    return profile
