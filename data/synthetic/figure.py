"""Draws a person: legs, arms, clothes, in the order in which nearer things hide farther ones."""

from data.synthetic.accessories import draw_bag_before, draw_bag_behind, draw_head, draw_long_hair, draw_tote
from data.synthetic.canvas import Canvas
from data.synthetic.cloth import cloth
from data.synthetic.colours import CLOTHES, Colour, shaded
from data.synthetic.identity import Person
from data.synthetic.pose import SHOULDER, Limb, Point, Pose, View, arms, hip_height, legs

_FAR = 0.78  # brightness of the limb on the far side
_FACING = 0.15  # from here on the chest can be seen


def draw_person(canvas: Canvas, person: Person, pose: Pose) -> None:
    """Draws a person walking; crown at y = 0, soles at y = 1, axis of the body at x = 0."""
    view = View(pose.yaw)
    far_arm, near_arm = arms(person, pose)
    far_leg, near_leg = legs(person, pose)
    if view.facing > 0:
        draw_long_hair(canvas, person, view)
    draw_bag_behind(canvas, person, view)
    _draw_arm(canvas, person, far_arm, _far_shade(far_arm))
    _draw_leg(canvas, person, view, far_leg, _FAR if abs(view.side) > 0.4 else 0.92)
    _draw_leg(canvas, person, view, near_leg, 1.0)
    if person.bottom == "skirt" and person.top != "dress":
        _draw_skirt(canvas, person, view, near_leg, far_leg)
    _draw_torso(canvas, person, view, near_leg, far_leg)
    draw_head(canvas, person, view)
    draw_bag_before(canvas, person, view)
    if view.facing <= 0:
        draw_long_hair(canvas, person, view)
    _draw_arm(canvas, person, near_arm, 0.94)
    if abs(far_arm.depth) < 0.05:  # seen from the front or the back, both arms are before the body
        _draw_arm(canvas, person, far_arm, 0.9)
    draw_tote(canvas, person, near_arm.joints[2])


def _far_shade(arm: Limb) -> float:
    return _FAR if abs(arm.depth) > 0.03 else 0.9


def _draw_leg(canvas: Canvas, person: Person, view: View, leg: Limb, shade: float) -> None:
    hip, knee, ankle = leg.joints
    build = person.build
    radii = (0.05 * build, 0.037 * build, 0.026)
    skin, colour = shaded(person.skin, shade), shaded(CLOTHES[person.bottom_colour], shade)
    shoes = shaded(CLOTHES[person.shoes], shade)
    toe = (ankle[0] + view.x(0.0, 0.062), ankle[1] + 0.018)
    canvas.limb([(ankle[0], ankle[1] + 0.008), toe], (0.026, 0.02), shoes)
    bare = person.bottom != "trousers" and person.top != "dress"
    canvas.limb(leg.joints, radii, skin if bare else colour)
    canvas.limb([(ankle[0], ankle[1] - 0.005), (ankle[0], ankle[1] + 0.01)], (0.027, 0.027), shoes)
    if person.bottom == "shorts" and person.top != "dress":
        hem = _between(hip, knee, 0.8)
        canvas.limb([hip, hem], (0.054 * build, 0.05 * build), colour)
        if person.bottom_pattern == "band":
            canvas.limb([_between(hip, knee, 0.6), hem], (0.051 * build, 0.05 * build), _print(person, shade))
    elif person.bottom == "trousers" and person.bottom_pattern == "band" and person.top != "dress":
        canvas.line(leg.joints, 0.02, _print(person, shade))


def _draw_arm(canvas: Canvas, person: Person, arm: Limb, shade: float) -> None:
    shoulder, elbow, hand = arm.joints
    build = person.build
    sleeve_colour = person.pattern_colour if person.pattern == "two-tone" else person.top_colour
    skin, sleeve = shaded(person.skin, shade), shaded(CLOTHES[sleeve_colour], shade)
    radii = (0.032 * build, 0.029 * build, 0.022)
    if person.top in ("long sleeve", "coat"):
        canvas.ellipse(hand, (0.023, 0.026), skin)
        wide = 1.2 if person.top == "coat" else 1.05
        wrist = _between(elbow, hand, 0.85)
        canvas.limb([shoulder, elbow, wrist], [radius * wide for radius in radii], sleeve)
        return
    canvas.limb(arm.joints, radii, skin)
    length = 0.5 if person.top == "dress" else 0.8
    canvas.limb([shoulder, _between(shoulder, elbow, length)], (0.037 * build, 0.039 * build), sleeve)


def _draw_skirt(canvas: Canvas, person: Person, view: View, near: Limb, far: Limb) -> None:
    waist, hem = hip_height(person) - 0.05, near.joints[1][1] - 0.01
    top = view.half_width(0.08 * person.build, 0.065 * person.build)
    outline = _flared(top, waist, top + 0.035, hem, near, far)
    pattern = "two-tone" if person.bottom_pattern == "band" else "plain"
    canvas.textured(outline, cloth(pattern, CLOTHES[person.bottom_colour], _print(person, 1.0)))


def _draw_torso(canvas: Canvas, person: Person, view: View, near: Limb, far: Limb) -> None:
    build, hip = person.build, hip_height(person)
    thick = 1.1 if person.top == "coat" else 1.0
    shoulder = view.half_width(0.115 * build, 0.064 * build) * thick
    waist = view.half_width(0.088 * build, 0.062 * build) * thick
    right = [(0.03, SHOULDER - 0.04), (0.75 * shoulder, SHOULDER - 0.015), (shoulder, SHOULDER + 0.02)]
    middle = hip - 0.08
    if person.top in ("coat", "dress"):
        knee = near.joints[1][1]
        hem = knee - (0.1 if person.top == "coat" else 0.01)
        flare = 0.015 if person.top == "coat" else 0.045
        lower = _flared(waist, middle, waist + flare, hem, near, far)
    else:
        lower = [(waist, middle), (waist * 1.02, hip + 0.015), (-waist * 1.02, hip + 0.015), (-waist, middle)]
    outline = [*right, *lower, *[(-x, y) for x, y in reversed(right)]]
    canvas.textured(outline, cloth(person.pattern, CLOTHES[person.top_colour], CLOTHES[person.pattern_colour]))
    if person.top == "coat" and view.facing > _FACING:
        seam = view.x(0.0, 0.07)
        canvas.line([(seam, SHOULDER - 0.02), (seam, hip + 0.08)], 0.008, shaded(CLOTHES[person.top_colour], 0.6))
    if person.pattern == "logo" and view.facing > _FACING:
        half = 0.055 * build * view.facing
        canvas.box((view.x(0.0, 0.05), SHOULDER + 0.1), (half, 0.042), CLOTHES[person.pattern_colour], 0.01)


def _flared(top: float, top_y: float, bottom: float, bottom_y: float, near: Limb, far: Limb) -> list[Point]:
    """Outline of cloth that hangs from the waist around both thighs, from its right upper corner clockwise."""
    fall = (bottom_y - near.joints[0][1]) / max(near.joints[1][1] - near.joints[0][1], 1e-6)
    knees = [_between(leg.joints[0], leg.joints[1], min(1.0, fall))[0] for leg in (near, far)]
    right = max(bottom, max(knees) + 0.05)
    left = min(-bottom, min(knees) - 0.05)
    return [(top, top_y), (right, bottom_y), ((right + left) / 2, bottom_y + 0.012), (left, bottom_y), (-top, top_y)]


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _print(person: Person, shade: float) -> Colour:
    """The second colour of the lower clothes."""
    return shaded(CLOTHES[person.pattern_colour], shade)
