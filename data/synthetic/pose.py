"""Where a walking body's joints are, and where a camera sees them."""

import math
from dataclasses import dataclass

from data.synthetic.identity import Person

Point = tuple[float, float]


@dataclass(frozen=True)
class Pose:
    """How a person stands in front of a camera.

    Attributes:
        yaw: Radians the body is turned: 0 faces the camera, pi/2 walks to the right, pi shows the back.
        phase: Radians of the step, 0 to 2 pi.
        stride: Largest angle between a leg and the vertical, radians; 0 stands still.
    """

    yaw: float
    phase: float
    stride: float


@dataclass(frozen=True)
class View:
    """Orthographic view of a turned body. Body axes: lateral (towards the left hand), forward, and height y."""

    yaw: float

    @property
    def facing(self) -> float:
        """1 when the chest points to the camera, 0 from the side, -1 when the back does."""
        return math.cos(self.yaw)

    @property
    def side(self) -> float:
        """1 when the body walks to the right of the image, -1 to the left."""
        return math.sin(self.yaw)

    def x(self, lateral: float, forward: float = 0.0) -> float:
        """Horizontal place in the image, in body heights from the body's axis."""
        return lateral * self.facing + forward * self.side

    def depth(self, lateral: float, forward: float = 0.0) -> float:
        """How much nearer to the camera than the body's axis, in body heights."""
        return forward * self.facing - lateral * self.side

    def half_width(self, lateral: float, forward: float) -> float:
        """Half the visible width of an elliptic cross-section with these half axes."""
        return math.hypot(lateral * self.facing, forward * self.side)


@dataclass(frozen=True)
class Limb:
    """A leg (hip, knee, ankle) or an arm (shoulder, elbow, hand) as seen in the image, and its depth."""

    joints: tuple[Point, Point, Point]
    depth: float


SHOULDER = 0.185  # heights, measured from the crown downwards in body heights
ANKLE = 0.955


def hip_height(person: Person) -> float:
    """Where the legs begin, in body heights from the crown."""
    return 1.0 - person.legs


def legs(person: Person, pose: Pose) -> list[Limb]:
    """Both legs, the farther one first."""
    half = (ANKLE - hip_height(person)) / 2
    found = []
    for lateral, sign in ((0.044 * person.build, 1.0), (-0.044 * person.build, -1.0)):
        swing = sign * pose.stride * math.sin(pose.phase)
        bend = 0.9 * pose.stride * max(0.0, sign * math.cos(pose.phase)) + 0.25 * max(0.0, -swing)
        found.append(_limb(View(pose.yaw), (lateral, hip_height(person)), (half, half), (swing, swing - bend)))
    return sorted(found, key=lambda limb: limb.depth)


def arms(person: Person, pose: Pose) -> list[Limb]:
    """Both arms, which swing against the legs, the farther one first."""
    found = []
    for lateral, sign in ((0.094 * person.build, -1.0), (-0.094 * person.build, 1.0)):
        swing = sign * 0.9 * pose.stride * math.sin(pose.phase)
        joint = (lateral, SHOULDER + 0.025)
        found.append(_limb(View(pose.yaw), joint, (0.15, 0.14), (swing, swing + 0.3), math.copysign(0.022, lateral)))
    return sorted(found, key=lambda limb: limb.depth)


def _limb(view: View, root: Point, lengths: Point, angles: Point, spread: float = 0.0) -> Limb:
    """Follows two bones from the root (lateral, y); angles are from the vertical, forwards positive."""
    lateral, y = root
    middle = (lateral + spread, lengths[0] * math.sin(angles[0]), y + lengths[0] * math.cos(angles[0]))
    end = (
        lateral + spread,
        middle[1] + lengths[1] * math.sin(angles[1]),
        middle[2] + lengths[1] * math.cos(angles[1]),
    )
    joints = ((view.x(lateral), y), (view.x(*middle[:2]), middle[2]), (view.x(*end[:2]), end[2]))
    return Limb(joints, view.depth(lateral))
