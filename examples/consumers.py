"""The rendered street in the trackers of other packages, with a model exported for them.

    python -m examples.consumers boxmot --model runs/first/resnet50_boxmot.onnx

Each function below shows how a package is given the model, or its embeddings. The packages are not among our
requirements; BoxMOT and Ultralytics are AGPL-3.0. Install the one you use.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from deploy.predictor import Predictor
from examples.street import detect, walking_video
from examples.track import Tracked, crop, id_switches, idf1
from examples.tracker import Tracker
from utils.cli import exit_code_of
from utils.errors import ParamsError

Step = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Pixels (H, W, 3) uint8 RGB and boxes (N, 4) of x, y, width, height -> track ids (N,), 0 without one."""
CONFIDENCE = 0.9
"""Of every detection."""


def boxmot(model: Path, max_distance: float) -> Step:
    """BoxMOT's BoT-SORT, which embeds with a model of the profile "boxmot"."""
    from boxmot import BotSort  # pyright: ignore[reportMissingImports]

    tracker = BotSort(reid_weights=model, device="cpu", appearance_thresh=max_distance)

    def step(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        tracks = np.asarray(tracker.update(detections(boxes), bgr(pixels))).reshape(-1, 8)
        return ids_of(len(boxes), tracks[:, 7], tracks[:, 4])

    return step


def ultralytics(model: Path, max_distance: float) -> Step:
    """Ultralytics' BoT-SORT, which embeds with a model of the profile "ultralytics"."""
    from ultralytics.engine.results import Boxes  # pyright: ignore[reportMissingImports]
    from ultralytics.trackers.bot_sort import BOTSORT  # pyright: ignore[reportMissingImports]
    from ultralytics.utils import YAML, IterableSimpleNamespace  # pyright: ignore[reportMissingImports]
    from ultralytics.utils.checks import check_yaml  # pyright: ignore[reportMissingImports]

    own = {"with_reid": True, "model": str(model), "device": "cpu", "appearance_thresh": 1 - max_distance / 2}
    tracker = BOTSORT(IterableSimpleNamespace(**{**YAML.load(check_yaml("botsort.yaml")), **own}))

    def step(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        tracks = tracker.update(Boxes(detections(boxes), pixels.shape[:2]), bgr(pixels)).reshape(-1, 8)
        return ids_of(len(boxes), tracks[:, 7], tracks[:, 4])

    return step


def deep_sort_realtime(model: Path, max_distance: float) -> Step:
    """DeepSORT, which is given the embeddings of `Predictor`."""
    from deep_sort_realtime.deepsort_tracker import DeepSort  # pyright: ignore[reportMissingImports]

    predictor, tracker = Predictor(model), DeepSort(embedder=None, max_cosine_distance=max_distance)

    def step(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        embeddings = predictor([crop(pixels, box) for box in boxes])
        found = [(box.tolist(), CONFIDENCE, "person") for box in boxes]
        tracks = tracker.update_tracks(found, embeds=list(embeddings), others=list(range(len(boxes))))
        seen = [track for track in tracks if track.is_confirmed() and track.time_since_update == 0]
        return ids_of(len(boxes), [track.get_det_supplementary() for track in seen], [int(t.track_id) for t in seen])

    return step


def supervision(model: Path, max_distance: float) -> Step:
    """supervision's `Detections`, which carry the embeddings; our tracker gives them ids."""
    import supervision as sv  # pyright: ignore[reportMissingImports]

    predictor, tracker = Predictor(model), Tracker(max_distance)

    def step(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        found = sv.Detections(xyxy=np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))
        found.data["embedding"] = predictor([sv.crop_image(pixels, box) for box in found.xyxy])
        found.tracker_id = tracker.step(boxes, found.data["embedding"])
        return found.tracker_id

    return step


PACKAGES: dict[str, Callable[[Path, float], Step]] = {
    "boxmot": boxmot,
    "ultralytics": ultralytics,
    "deep-sort-realtime": deep_sort_realtime,
    "supervision": supervision,
}


def detections(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) -> (N, 6) float32 of left, top, right, bottom, confidence and class."""
    rest = np.tile([CONFIDENCE, 0.0], (len(boxes), 1))
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:], rest]).astype(np.float32)


def bgr(pixels: np.ndarray) -> np.ndarray:
    """The image as OpenCV reads it."""
    return np.ascontiguousarray(pixels[..., ::-1])


def ids_of(number: int, places: Sequence[int] | np.ndarray, tracks: Sequence[int] | np.ndarray) -> np.ndarray:
    """Track ids (number,) from the ids of the tracks seen, and the places of their detections."""
    ids = np.zeros(number, int)
    ids[np.asarray(places, int)] = np.asarray(tracks, int)
    return ids


def main(argv: Sequence[str]) -> None:
    """Track one rendered video, and print identity switches and IDF1."""
    parser = argparse.ArgumentParser(prog="python -m examples.consumers", description=main.__doc__)
    parser.add_argument("package", choices=PACKAGES, help="whose tracker")
    parser.add_argument("--model", type=Path, required=True, help="a model of export_onnx")
    parser.add_argument("--frames", type=int, default=200, help="images of the video")
    parser.add_argument("--seed", type=int, default=100, help="of the video")
    parser.add_argument("--max_distance", type=float, default=0.3, help="largest cosine distance of one person")
    args = parser.parse_args(argv)
    try:
        step = PACKAGES[args.package](args.model, args.max_distance)
    except ModuleNotFoundError as error:
        raise ParamsError(f"{args.package} needs {error.name}; type: pip install {args.package}") from error
    rng = np.random.default_rng(args.seed)
    tracked: list[Tracked] = []
    for frame in walking_video(rng, frames=args.frames):
        boxes, found = detect(frame, rng)
        ids = np.zeros(len(frame.pids), int)
        ids[found] = step(frame.pixels, boxes)
        tracked.append(Tracked(frame.pids, frame.boxes, ids))
    print(f"{args.package}: {id_switches(tracked)} identity switches, IDF1 {idf1(tracked):.1%}, {args.frames} frames")


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
