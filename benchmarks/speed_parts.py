"""The parts of the speed benchmark: pipeline, steps, extraction, and the losses in two number formats."""

from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.speed_ceiling import Ceiling, Floor, Work, floor_of
from benchmarks.speed_contestant import Contestant
from benchmarks.speed_ours import OurExtraction, OurPipeline, OurTraining
from benchmarks.speed_rounds import Entry, asked, complete, median_ratio, prepare, take_turns
from benchmarks.speed_settings import FEEDS, Feed, Plan, Setting, Variant
from benchmarks.speed_textbook import TextbookExtraction, TextbookPipeline, TextbookTraining

SETTLE = 2
"""Steps before the rounds that do not count, on a GPU, whose memory was given back after the first ones."""
CURVE_SEEDS = 3
"""Trainings in fp32 that show what a seed changes."""
CURVE_WINDOWS = 6
"""Stretches of a loss curve whose means are compared."""


class Task(NamedTuple):
    """What all parts need."""

    plan: Plan
    images: Path
    """Folder in the layout of Market-1501."""
    device: str
    """"cpu" or "cuda:0"."""
    workers: int
    """Of the textbook's loaders."""

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device != "cpu"


def our_training(task: Task, setting: Setting, variant: Variant, seed: int = 0) -> Contestant:
    """A training of ours in a process of its own."""
    name = f"{setting.name}, ours, {variant.name}"
    return Contestant(name, OurTraining, setting, variant, task.images, task.device, seed)


def measure_pipeline(task: Task) -> dict[str, Any]:
    """Images per second of each stage by itself, and of all that stands before the network."""
    setting, batches = task.plan.pipeline, task.plan.pipeline_batches
    with ExitStack() as stack:
        ours = stack.enter_context(Contestant("our pipeline", OurPipeline, setting, task.images, task.device))
        arguments = setting, task.images, task.device, task.workers
        theirs = stack.enter_context(Contestant("textbook pipeline", TextbookPipeline, *arguments))
        textbook = Entry({"name": f"textbook, {task.workers} workers"}, theirs, "deliver")
        anew = Entry({"name": "ours, every image decoded anew"}, ours, "deliver", (-(-batches // 3), False))
        kept = Entry({"name": "ours, from the second epoch on"}, ours, "deliver", (batches, True))
        stages = {
            "ours": asked(ours, kept.row, "stages"),
            "textbook": asked(theirs, textbook.row, "stages"),
        }
        filling = asked(ours, kept.row, "keep_images")
        take_turns([textbook, anew, kept], setting.rounds)
    complete([textbook, anew, kept], textbook, 1)
    rows = [entry.row for entry in (kept, anew, textbook)]
    size = {"height": setting.height, "width": setting.width, "batch": setting.batch}
    return {**size, "stages": stages, "keeping_images": filling, "rows": rows}


class Early(NamedTuple):
    """Trainings that have taken their first steps already and wait for their turn."""

    contestants: dict[tuple[Setting, Variant], Contestant]
    costs: dict[Contestant, dict[str, float]]


def start_compiled(task: Task) -> Early:
    """The compiled trainings of all settings, which compile at the same time while nothing is measured."""
    contestants = {
        (setting, variant): our_training(task, setting, variant)
        for setting in task.plan.settings
        for variant in task.plan.variants
        if variant.compile == "on"
    }
    return Early(contestants, prepare(contestants.values(), at_once=True))


def measure_steps(task: Task, setting: Setting, early: Early, ceiling: Ceiling | None) -> dict[str, Any]:
    """Examples per second of the plan's variants and of the textbook.

    Args:
        task: what to measure with.
        setting: what is trained.
        early: some contestants, perhaps; those of this setting have ended afterwards.
        ceiling: of the device; None: not known, and no share of it is given.
    """
    with ExitStack() as stack:
        arguments = setting, task.images, task.device, task.workers
        textbook = Contestant(f"{setting.name}, textbook", TextbookTraining, *arguments)
        ours = {
            variant: early.contestants.get((setting, variant)) or our_training(task, setting, variant)
            for variant in task.plan.variants
        }
        for contestant in (textbook, *ours.values()):
            stack.enter_context(contestant)
        fresh = [one for one in (*ours.values(), textbook) if one not in early.contestants.values()]
        costs = early.costs | prepare(fresh, at_once=False)
        entries = [
            _step_entry(setting, variant.name, ours[variant], feed, costs)
            for variant in task.plan.variants
            for feed in variant.feeds
        ]
        entries += [_step_entry(setting, "textbook", textbook, feed, costs) for feed in FEEDS]
        for entry in entries:
            if entry.method == "loaded" and entry.contestant is not textbook:
                asked(entry.contestant, entry.row, "keep_images")
            elif entry.method == "resident" and task.is_gpu:
                asked(entry.contestant, entry.row, "resident", SETTLE)
        take_turns(entries, setting.rounds)
        counting: dict[str, Any] = {}
        work = _work(ours, counting) if ceiling else {}
    _compare(entries, textbook, setting)
    for variant, contestant in ours.items():
        for entry in entries:
            if entry.contestant is contestant and entry.method == "resident" and ceiling and variant.precision in work:
                _add_floor(entry, floor_of(work[variant.precision], ceiling), setting)
    return {**asdict(setting), "counting": counting, "rows": [entry.row for entry in entries]}


def measure_extraction(task: Task) -> dict[str, Any]:
    """Images per second from JPEG files to embeddings, the first time and, with images kept decoded, later."""
    setting, number = task.plan.extraction, task.plan.extraction_images
    first, later, baseline = ({"name": name} for name in ("ours, first pass", "ours, later passes", "textbook"))
    with ExitStack() as stack:
        variant = replace(task.plan.variants[0], compile="off")
        arguments = setting, variant, task.images, number, task.device
        ours = stack.enter_context(Contestant("our extraction", OurExtraction, *arguments))
        arguments = setting, task.images, number, task.device, task.workers
        theirs = stack.enter_context(Contestant("textbook extraction", TextbookExtraction, *arguments))
        entries = [Entry(baseline, theirs, "embed"), Entry(first, ours, "embed_anew"), Entry(later, ours, "embed")]
        for entry in entries:
            asked(entry.contestant, entry.row, "embed")
        take_turns(entries, task.plan.extraction_rounds)
    complete(entries, entries[0], 1)
    return {**asdict(setting), "images": number, "rows": [first, later, baseline]}


def measure_curve(task: Task) -> dict[str, Any]:
    """Losses of the same training in bf16 and fp32, and of others in fp32, which differ in their seed alone."""
    setting, steps = task.plan.curve, task.plan.curve_steps
    row: dict[str, Any] = {}
    runs = {("bf16", 0): Variant("bf16"), **{("fp32", seed): Variant("fp32") for seed in range(CURVE_SEEDS)}}
    with ExitStack() as stack:
        contestants = {
            run: stack.enter_context(our_training(task, setting, variant, run[1])) for run, variant in runs.items()
        }
        # One after another: they are not timed, but together they might not fit into memory.
        losses = {run: asked(contestant, row, "losses", steps) for run, contestant in contestants.items()}
    result = {**asdict(setting), "steps": steps, **row}
    if "error" in row:
        return result
    return result | compared_curves(losses[("bf16", 0)], [losses[("fp32", seed)] for seed in range(CURVE_SEEDS)])


def compared_curves(bf16: list[float], fp32: list[list[float]]) -> dict[str, Any]:
    """Means over windows of steps, how far bf16 is from fp32, and how far seeds are apart, in the mean.

    Args:
        bf16: loss of each step.
        fp32: the same for several seeds; the first is that of bf16.
    """
    curves = torch.tensor([bf16, *fp32])
    windows = torch.stack(
        [part.mean(1) for part in curves.split(max(1, -(-curves.shape[1] // CURVE_WINDOWS)), dim=1)], 1
    )
    spread = (windows[1:, None] - windows[None, 1:]).abs().amax((0, 1))
    distance = (windows[0] - windows[1]).abs()
    return {
        "bf16": windows[0].tolist(),
        "fp32": windows[1:].tolist(),
        "distance": distance.mean().item(),
        "spread": spread.mean().item(),
        "within_noise": bool(distance.mean() <= spread.mean()),
    }


def _step_entry(
    setting: Setting, name: str, contestant: Contestant, feed: Feed, costs: dict[Contestant, dict[str, float]]
) -> Entry:
    """A row of a setting's table."""
    row: dict[str, Any] = {"name": name, "feed": feed}
    if feed == "resident" and contestant in costs:
        row |= costs[contestant]
    return Entry(row, contestant, feed, (setting.steps,))


def _compare(entries: list[Entry], textbook: Contestant, setting: Setting) -> None:
    """Rates, ratios to the textbook with the same feed, and of loaded steps' time to resident ones'."""
    for feed in FEEDS:
        same = [entry for entry in entries if entry.method == feed]
        (baseline,) = (entry for entry in same if entry.contestant is textbook)
        complete(same, baseline, setting.batch)
    for loaded in entries:
        for resident in entries:
            same = loaded.contestant is resident.contestant
            if (
                same
                and (loaded.method, resident.method) == ("loaded", "resident")
                and "error" not in loaded.row | resident.row
            ):
                loaded.row["times_resident_step"] = median_ratio(loaded, resident)


def _work(ours: dict[Variant, Contestant], row: dict[str, Any]) -> dict[str, list[Work]]:
    """The operations of a step by number format, as steps that are not compiled show them; errors go to the row."""
    found = {}
    for variant, contestant in ours.items():
        is_plain = variant.compile == "off" and variant.channels_last
        # Whatever has failed before has its error already.
        if is_plain and contestant.error is None and (work := asked(contestant, row, "work")) is not None:
            found[variant.precision] = work
    return found


def _add_floor(entry: Entry, floor: Floor, setting: Setting) -> None:
    """How near the ceilings a step is, and what takes its time."""
    if "error" in entry.row:
        return
    took = setting.batch / entry.row["images_per_second"]
    shares = {"arithmetic": floor.arithmetic_seconds / took, "memory": floor.memory_seconds / took}
    shares["neither"] = max(0.0, 1 - sum(shares.values()))
    entry.row |= {
        "operations": floor.operations,
        "bytes": floor.bytes,
        "share_of_ceiling": floor.seconds / took,
        "time_shares": shares,
        "bound_by": max(shares, key=lambda name: shares[name]),
    }
