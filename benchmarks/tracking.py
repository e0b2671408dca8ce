"""What re-identification is worth to a tracker: identity switches and IDF1 with it and without, on rendered videos.

    python -m benchmarks.tracking --model runs/first/model.onnx [--seeds 10 --out benchmarks/results/tracking]

Each seed gives another video, with persons of its own, whom the model has not been trained on. The same detections
are tracked by motion alone, with the model, and with an oracle that knows who is in a box, which is as good as a
model could be. Prints a table; with --out also writes OUT.md, and OUT.png, frames of the first video with and without.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.evaluation import hardware
from benchmarks.tracking_strip import write_strip
from data.synthetic.walking import Frame, detections, walking_video
from deploy.card import Threshold
from deploy.predictor import Predictor
from deploy.tracking import Tracker, crop
from deploy.tracking.scores import Seen, clear_mot, idf1
from utils.cli import exit_code_of
from utils.errors import ParamsError
from utils.files import write_text
from utils.logs import log_to_screen

VIDEO = 11  # the stream of random numbers of a seed's video
VISIBLE = 0.35  # least share of a person that is seen, for the detector to find and for the truth to count them
MOTION, REID, ORACLE = "motion alone", "with re-ID", "with an oracle"


class Detected(NamedTuple):
    """A frame as a tracker gets it: boxes (N, 4), true pids (N,), embeddings (N, D); and the truth."""

    boxes: np.ndarray
    pids: np.ndarray
    embeddings: np.ndarray
    truth: Seen


class Score(NamedTuple):
    """How one video was tracked."""

    switches: int
    idf1: float
    mota: float
    tracks: int


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write what was asked for."""
    args = parse_arguments(argv)
    predictor = Predictor(args.model)
    accept, why = accepted(predictor, args)
    scores: dict[str, list[Score]] = {MOTION: [], REID: [], ORACLE: []}
    persons = boxes = 0
    seconds = 0.0
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        rng = np.random.default_rng((seed, VIDEO))
        frames = list(walking_video(rng, args.people, args.frames))
        video, elapsed = detect(frames, predictor, rng)
        seconds, boxes = seconds + elapsed, boxes + sum(len(frame.boxes) for frame in video)
        persons += len({sighting.pid for frame in frames for sighting in frame.sightings})
        followed = track_all(video, accept)
        for name, found in followed.items():
            scores[name].append(score(video, found))
        if args.out is not None and seed == args.first_seed:
            write_strip(args.out.with_suffix(".png"), frames, {name: followed[name] for name in (MOTION, REID)})
    text = "\n".join(
        [
            f"{date.today().isoformat()}; {hardware('cpu')}; model {args.model.name}, cosine distance at most "
            f"{accept:.4g} ({why})",
            "",
            f"{args.seeds} videos of {args.frames} frames (seeds {args.first_seed} to "
            f"{args.first_seed + args.seeds - 1}) with {persons / args.seeds:.1f} persons each, {boxes} boxes in all, "
            f"embedded at {boxes / seconds:.0f} per second.",
            "",
            *table(scores),
            "",
        ]
    )
    if args.out is not None:
        write_text(args.out.with_suffix(".md"), text)
    print(text)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a model.onnx of export_onnx, or a model_best.pth")
    parser.add_argument("--seeds", type=int, default=10, help="how many videos")
    parser.add_argument("--first_seed", type=int, default=100)
    parser.add_argument("--people", type=int, default=8, help="persons in a video")
    parser.add_argument("--frames", type=int, default=200, help="of a video")
    parser.add_argument("--far", type=float, default=1e-2, help="false accept rate of the card's threshold")
    parser.add_argument("--accept", type=float, help="largest cosine distance of one person; default: the card's")
    parser.add_argument("--out", type=Path, help="where to write .md and .png, without suffix")
    args = parser.parse_args(argv)
    if min(args.seeds, args.people, args.frames) < 1:
        parser.error("--seeds, --people, --frames: at least 1 each")
    return args


def accepted(predictor: Predictor, args: argparse.Namespace) -> tuple[float, str]:
    """The largest distance at which two embeddings may be of one person, and where it comes from."""
    if args.accept is not None:
        return args.accept, "as told"
    thresholds: tuple[Threshold, ...] = predictor.card.thresholds if predictor.card else ()
    for threshold in thresholds:
        if threshold.far == args.far:
            return threshold.distance, f"the card's for a false accept rate of {args.far:g}"
    known = ", ".join(f"{threshold.far:g}" for threshold in thresholds)
    advice = f"the model's card has {known}; choose one of these" if known else "the model tells none"
    raise ParamsError(
        f"{args.model}: --far: no threshold for a false accept rate of {args.far:g}; {advice}, or give a distance with "
        "--accept"
    )


def detect(frames: Sequence[Frame], predictor: Predictor, rng: np.random.Generator) -> tuple[list[Detected], float]:
    """What the detector finds in the frames, with the embeddings; and the seconds these took."""
    found = [detections(frame, rng, visible=VISIBLE) for frame in frames]
    crops = [crop(frame.pixels, box) for frame, (boxes, _) in zip(frames, found, strict=True) for box in boxes]
    start = time.perf_counter()
    embeddings = predictor(crops)
    elapsed = time.perf_counter() - start
    parts = np.split(embeddings, np.cumsum([len(boxes) for boxes, _ in found])[:-1])
    video = [
        Detected(boxes, pids, part, truth_of(frame))
        for frame, (boxes, pids), part in zip(frames, found, parts, strict=True)
    ]
    return video, elapsed


def truth_of(frame: Frame) -> Seen:
    """The persons who can be seen well enough to be found."""
    there = [sighting for sighting in frame.sightings if sighting.visible >= VISIBLE]
    boxes = np.array([sighting.box for sighting in there]).reshape(-1, 4)
    return Seen(np.array([sighting.pid for sighting in there], dtype=int), boxes)


def track_all(video: Sequence[Detected], accept: float) -> dict[str, list[Seen]]:
    """Tracks a video in each of the ways, with the same settings otherwise."""
    one_hot = np.eye(1 + max((int(frame.pids.max(initial=0)) for frame in video), default=0))
    trackers = {MOTION: Tracker(), REID: Tracker(accept), ORACLE: Tracker(0.5, refuse=1.0)}
    followed: dict[str, list[Seen]] = {name: [] for name in trackers}
    for frame in video:
        embeddings = {MOTION: None, REID: frame.embeddings, ORACLE: one_hot[frame.pids]}
        for name, tracker in trackers.items():
            numbers = tracker.step(frame.boxes, embeddings[name])
            followed[name].append(Seen(numbers[numbers > 0], frame.boxes[numbers > 0]))
    return followed


def score(video: Sequence[Detected], found: Sequence[Seen]) -> Score:
    """Compares tracks with the truth."""
    truth = [frame.truth for frame in video]
    counts = clear_mot(truth, found)
    tracks = {int(number) for seen in found for number in seen.ids}
    return Score(counts.switches, idf1(truth, found), counts.mota, len(tracks))


def table(scores: dict[str, list[Score]]) -> list[str]:
    """Lines of a table: means over the videos, and how far single ones lie apart."""
    lines = [
        "| tracked | ID switches per video | least to most | IDF1 | MOTA | tracks per video |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, videos in scores.items():
        switches, idf1s, motas, tracks = (np.array(column, dtype=float) for column in zip(*videos, strict=True))
        lines.append(
            f"| {name} | {switches.mean():.1f} | {switches.min():.0f} to {switches.max():.0f} "
            f"| {idf1s.mean():.1%} | {motas.mean():.1%} | {tracks.mean():.1f} |"
        )
    return lines


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
