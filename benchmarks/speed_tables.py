"""The speed benchmark's results in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Row = dict[str, Any]

NOTES = " ".join(
    (
        "Rates are medians of the rounds (least to most); contestants take turns round by round, each in a process",
        'of its own. "Times textbook" is the median of the rounds\' ratios, resident against resident and loaded',
        "against loaded. Resident: one batch that lies on the device; loaded: images augmented anew for each step,",
        "the textbook's from JPEG files, ours from where data_cache keeps them, decoded before the clock starts. On a",
        "GPU, fp32 is TF32 within convolutions, torch's default, and we embed in the format that auto chooses, the",
        "textbook in fp32.",
        "Times resident step: the time of a loaded step over that of a resident one. First step: with compilation",
        "where there is any; on a GPU all that compile do so at once. Memory: the peak of the first steps, on the CPU",
        "beyond what the process held before. Share of the ceiling: the least time for the step's operations one after",
        "another, each at the measured ceiling of arithmetic or of memory, whichever takes longer (inputs read once,",
        "outputs written once), over the time taken; a compiled step can do with fewer bytes than that.",
    )
)


def report_table(report: dict[str, Any]) -> str:
    """All that has been measured so far."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    quick = ["**Tiny sizes: these figures say nothing.**", ""] if report["quick"] else []
    lines = ["# Speed", "", f"{report['date']}; {report['hardware']}; {versions}", "", *quick]
    parts = {"pipeline": pipeline_table, "steps": steps_tables, "extraction": extraction_table, "curve": curve_table}
    if "ceiling" in report:
        lines += [*ceiling_lines(report["ceiling"]), ""]
    for part, table in parts.items():
        if part in report:
            failed = "error" in report[part]
            lines += [*([f"## {part}", "", f"failed: {report[part]['error']}"] if failed else table(report[part])), ""]
    return "\n".join([*lines, NOTES, ""])


def ceiling_lines(ceiling: dict[str, Any]) -> list[str]:
    """What the device can do at most."""
    if "error" in ceiling:
        return [f"Ceilings: failed: {ceiling['error']}"]
    rates = [
        f"{name} {value / 1e9:,.1f} {'GB/s' if name == 'copy' else 'GFLOP/s'}"
        for name, value in ceiling["measured"].items()
    ]
    return [f"Measured ceilings: {', '.join(rates)}."]


def pipeline_table(part: dict[str, Any]) -> list[str]:
    """Everything before the network."""
    size = f"{part['height']}x{part['width']}, batches of {part['batch']}"
    lines = [f"## Before the network: JPEG files of 128x64 to {size}", "", *_table(RATES, part["rows"]), ""]
    if part["keeping_images"] is not None:
        kept = part["keeping_images"]
        lines += [f"Images kept by {kept['store']}, decoded once at {_number(kept['images_per_second'])} images/s.", ""]
    lines += ["| stage by itself, one thread | images/s |", "|---|---:|"]
    for side, stages in part["stages"].items():
        lines += [f"| {side}: {stage} | {_number(rate)} |" for stage, rate in (stages or {}).items()]
    return lines


def steps_tables(settings: Iterable[dict[str, Any]]) -> list[str]:
    """A table for each setting."""
    lines: list[str] = ["## A training step"]
    for setting in settings:
        title = f"### {setting['model']}, {setting['name']}, batch {setting['batch']}"
        rows = [f"failed: {setting['error']}"] if "error" in setting else _table(STEPS, setting["rows"])
        lines += ["", title, "", *rows]
    return lines


def extraction_table(part: dict[str, Any]) -> list[str]:
    """From files to embeddings."""
    title = f"## Embedding {part['images']} images: {part['model']}, {part['name']}"
    return [title, "", *_table(RATES, part["rows"])]


def curve_table(part: dict[str, Any]) -> list[str]:
    """Means of the losses over stretches of the training."""
    title = f"## Loss over {part['steps']} steps: {part['model']}, {part['name']}, batch {part['batch']}"
    rows = {"bf16": part["bf16"], **{f"fp32, seed {seed}": losses for seed, losses in enumerate(part["fp32"])}}
    stretches = " | ".join(f"{number + 1}/{len(part['bf16'])}" for number in range(len(part["bf16"])))
    verdict = "within" if part["within_noise"] else "beyond"
    return [
        title,
        "",
        f"| mean over stretch | {stretches} |",
        "|---|" + "---:|" * len(part["bf16"]),
        *(f"| {name} | {' | '.join(f'{loss:.3f}' for loss in losses)} |" for name, losses in rows.items()),
        "",
        f"bf16 is {part['distance']:.3f} from fp32 with the same seed in the mean; seeds are up to "
        f"{part['spread']:.3f} apart: {verdict} the noise.",
    ]


def _rate(row: Row) -> str:
    if "error" in row:
        return f"failed: {row['error'].replace('|', '/')}"
    return f"{_number(row['images_per_second'])} ({_number(min(row['rounds']))} to {_number(max(row['rounds']))})"


def _ratio(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row[key]:.2f}" if key in row else ""


def _shares(row: Row) -> str:
    if "time_shares" not in row:
        return ""
    return ", ".join(f"{name} {share:.0%}" for name, share in row["time_shares"].items())


RATES: dict[str, Callable[[Row], str]] = {
    "": lambda row: row["name"],
    "images/s": _rate,
    "times textbook": _ratio("times_textbook"),
}
STEPS: dict[str, Callable[[Row], str]] = {
    "": lambda row: row["name"],
    "batch": lambda row: row["feed"],
    "images/s": _rate,
    "times textbook": _ratio("times_textbook"),
    "times resident step": _ratio("times_resident_step"),
    "first step, s": lambda row: f"{row['first_step_seconds']:.1f}" if "first_step_seconds" in row else "",
    "memory, MiB": lambda row: f"{row['peak_bytes'] / 2**20:,.0f}" if "peak_bytes" in row else "",
    "share of the ceiling": lambda row: f"{row['share_of_ceiling']:.0%}" if "share_of_ceiling" in row else "",
    "time goes to": _shares,
}


def _table(columns: dict[str, Callable[[Row], str]], rows: Sequence[Row]) -> list[str]:
    """Markdown, words to the left and figures to the right."""
    words = ("", "batch", "time goes to")
    head = [f"| {' | '.join(columns)} |", "|" + "".join("---|" if name in words else "---:|" for name in columns)]
    return head + [f"| {' | '.join(cell(row) for cell in columns.values())} |" for row in rows]


def _number(value: float) -> str:
    """Three digits at least, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
