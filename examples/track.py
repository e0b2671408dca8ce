"""What re-ID embeddings add to a tracker, on rendered videos of a street.

    python -m examples.track --model runs/first/model.onnx [--videos 10 --out tracks.png]

Renders videos (`street.py`) of persons the model was not trained on, tracks the same detections by motion alone and
with re-ID (`tracker.py`), and prints identity switches and IDF1 of both. With --out, draws frames of the first video.
"""

import argparse
import colorsys
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.optimize import linear_sum_assignment

from deploy.predictor import Predictor
from examples.street import detect, walking_video
from examples.tracker import Tracker, overlaps
from utils.cli import exit_code_of
from utils.errors import ParamsError

STRIP_ROWS = 5
NAMES = ("motion alone", "with re-ID")


class Tracked(NamedTuple):
    """The N visible persons of one frame: pids, their boxes (N, 4), and their track ids, 0 without one."""

    pids: np.ndarray
    boxes: np.ndarray
    ids: np.ndarray


def main(argv: Sequence[str]) -> None:
    """Track rendered videos with and without re-ID, and print the table."""
    args = parse_arguments(argv)
    predictor = Predictor(args.model)
    max_distance = args.max_distance or threshold_of(predictor, args.far)
    scores: dict[str, list[tuple[int, float]]] = {name: [] for name in NAMES}
    for seed in range(args.seed, args.seed + args.videos):
        strip = args.out if seed == args.seed else None
        for name, frames in track_video(seed, args.people, args.frames, predictor, max_distance, strip).items():
            scores[name].append((id_switches(frames), idf1(frames)))
    print(f"{args.videos} videos, {args.frames} frames, {args.people} persons; cosine distance <= {max_distance:.4g}\n")
    print("| tracked | ID switches per video | fewest to most | IDF1 |\n|---|---:|---:|---:|")
    for name, rows in scores.items():
        switches, f1 = np.array(rows).T
        print(f"| {name} | {switches.mean():.1f} | {switches.min():.0f} to {switches.max():.0f} | {f1.mean():.1%} |")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.track", description=main.__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model.onnx of export_onnx, or a model_best.pth")
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--people", type=int, default=8, help="persons in a video")
    parser.add_argument("--frames", type=int, default=200, help="images of a video")
    parser.add_argument("--seed", type=int, default=100, help="of the first video")
    parser.add_argument("--far", type=float, default=0.01, help="false accept rate whose threshold is used")
    parser.add_argument("--max_distance", type=float, help="cosine distance to use instead of the model's threshold")
    parser.add_argument("--out", type=Path, help="PNG with frames of the first video")
    args = parser.parse_args(argv)
    if min(args.videos, args.people, args.frames) < 1:
        parser.error("--videos, --people, --frames: at least 1 each")
    return args


def threshold_of(predictor: Predictor, far: float) -> float:
    """The cosine distance that the exported model lists for a false accept rate."""
    thresholds = {one.far: one.distance for one in predictor.card.thresholds} if predictor.card else {}
    if far not in thresholds:
        known = ", ".join(f"{rate:g}" for rate in thresholds) or "none"
        raise ParamsError(f"--far {far:g}: the model lists thresholds for {known}; choose one, or give --max_distance")
    return thresholds[far]


def track_video(
    seed: int, people: int, frames: int, predictor: Predictor, max_distance: float, strip: Path | None
) -> dict[str, list[Tracked]]:
    """Track one video in both ways, and draw some of its frames into the picture `strip`."""
    rng = np.random.default_rng(seed)
    trackers = {name: Tracker(max_distance) for name in NAMES}
    tracked: dict[str, list[Tracked]] = {name: [] for name in NAMES}
    shown = set(np.linspace(frames // 8, frames - 1, STRIP_ROWS).round()) if strip else set()
    rows = []
    for number, frame in enumerate(walking_video(rng, people, frames)):
        boxes, found = detect(frame, rng)
        embeddings = predictor([crop(frame.pixels, box) for box in boxes])
        pictures = []
        for name, tracker in trackers.items():
            ids = np.zeros(len(frame.pids), int)
            ids[found] = tracker.step(boxes, embeddings if name == "with re-ID" else None)
            tracked[name].append(Tracked(frame.pids, frame.boxes, ids))
            if number in shown:
                pictures.append(draw_tracks(frame.pixels, boxes, ids[found]))
        if pictures:
            rows.append(np.concatenate(pictures, axis=1))
    if strip:
        Image.fromarray(np.concatenate(rows)).reduce(2).save(strip)
    return tracked


def crop(pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part (h, w, 3) of the image (H, W, 3) inside of a (4,) box, at least one pixel."""
    height, width = pixels.shape[:2]
    left, top = (int(np.clip(round(box[axis]), 0, size - 1)) for axis, size in ((0, width), (1, height)))
    right, bottom = max(left + 1, round(box[0] + box[2])), max(top + 1, round(box[1] + box[3]))
    return pixels[top:bottom, left:right]


def id_switches(frames: Sequence[Tracked]) -> int:
    """How often a person's track changes.

    A person keeps its track for as long as the track's box overlaps its own by half or more, even if another track
    fits better: two persons who hide one another do not switch with every frame.

    Source: Bernardin, Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics", 2008.
    """
    track_of: dict[int, int] = {}
    switches = 0
    for frame in frames:
        place_of = {track: place for place, track in enumerate(frame.ids.tolist()) if track}
        overlap = overlaps(frame.boxes, frame.boxes)
        for place, (pid, track) in enumerate(zip(frame.pids.tolist(), frame.ids.tolist(), strict=True)):
            before = track_of.get(pid, track)
            if track and not (before in place_of and overlap[place, place_of[before]] >= 0.5):
                switches += track != before
                before = track
            if before:
                track_of[pid] = before
    return switches


def idf1(frames: Sequence[Tracked]) -> float:
    """Share of boxes with the right identity when each person is given the one track that suits best, 0 to 1.

    Source: Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", 2016.
    """
    pids, ids = np.concatenate([frame.pids for frame in frames]), np.concatenate([frame.ids for frame in frames])
    matches = np.zeros((1 + pids.max(initial=0), 1 + ids.max(initial=0)))
    np.add.at(matches, (pids[ids > 0], ids[ids > 0]), 1)
    best = matches[linear_sum_assignment(matches, maximize=True)].sum()
    return 2 * float(best) / (len(pids) + int((ids > 0).sum())) if len(pids) else float("nan")


def draw_tracks(pixels: np.ndarray, boxes: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The image with the box and id of each confirmed track, in a colour of its own."""
    picture = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(26)
    for track, (x, y, width, height) in zip(ids, boxes, strict=True):
        if track:
            red, green, blue = colorsys.hsv_to_rgb(track * 0.618034 % 1.0, 0.9, 0.85)  # hues by the golden ratio
            colour = (round(255 * red), round(255 * green), round(255 * blue))
            draw.rectangle((x, y, x + width, y + height), outline=colour, width=3)
            draw.text((x + width / 2, y - 2), str(track), colour, font, "mb", stroke_width=2, stroke_fill="white")
    return np.asarray(picture)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
