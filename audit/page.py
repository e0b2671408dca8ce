"""The page of an audit: what was found, shown with its images."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from audit.findings import Findings, Pool, kept_of
from config.params import Params
from data.label_fixes import Fix
from data.sources import lowered
from evaluate.core.context import title_of
from evaluate.core.report.blocks import (
    Block,
    Cell,
    Facts,
    Figure,
    Figures,
    ImageGroup,
    ImageGroups,
    Note,
    RankList,
    RankLists,
    Report,
    Section,
    Shown,
    Table,
    Verdict,
)
from evaluate.core.report.images import person, picture

EXAMPLES, OF_LINE = 4, 6
"""Images that stand for an identity in a group, and in a line of wrong labels."""
OF_GROUP = 6
"""Images shown of a group of copies."""
LISTED = 0.1
"""Score from which findings are shown; the page says which of them are in the file of corrections."""


def audit_report(params: Params, network: str, pool: Pool, found: Findings, fixes: Sequence[Fix]) -> Report:
    """The page.

    Args:
        params: of the audit.
        network: that embedded the images, in words.
        pool: the images.
        found: what was found about them.
        fixes: the corrections that are suggested.
    """
    page = _Page(params, pool, found)
    title = title_of(params.data_name)
    subtitle = (
        f"{pool.num_train:,} training images of {len(page.rows_of):,} identities and {len(page.cameras)} cameras, "
        f"compared with each other and with {len(pool.samples) - pool.num_train:,} test images."
    )
    sections = (
        page.overview(network, fixes),
        page.wrong_labels(),
        page.two_persons(),
        page.same_person(),
        page.copies(),
        page.camera_colours(),
        page.poor_crops(),
    )
    return Report(f"Audit of {title}", subtitle, sections, "Audit of a training set")


class _Page:
    """The sections of the page; each picture is read when it is shown."""

    def __init__(self, params: Params, pool: Pool, found: Findings) -> None:
        self.options, self.pool, self.found = params.audit_params, pool, found
        self.data_set = params.data_name
        self.rows_of: dict[int, list[int]] = {}
        for row, sample in enumerate(pool.samples[: pool.num_train]):
            self.rows_of.setdefault(sample.pid, []).append(row)
        self.rows_of_test: dict[int, list[int]] = {}
        for row in range(pool.num_train, len(pool.samples)):
            self.rows_of_test.setdefault(pool.samples[row].pid, []).append(row)
        self.cameras = found.cameras
        self.doubtful = set(found.swapped(LISTED))

    def overview(self, network: str, fixes: Sequence[Fix]) -> Section:
        least, found = self.options.min_score, self.found
        leaks = sum(kept_of(copies, self.pool, found.swaps) is None for copies in found.copies)
        wrong = len(found.swapped(least))
        figures = (
            Figure("Wrong labels", f"{wrong:,}", f"{wrong / self.pool.num_train:.2%} of the training images"),
            Figure("Two persons", f"{sum(s.probability >= least for s in found.splits):,}", "in one identity"),
            Figure("One person", f"{sum(m.probability >= least for m in found.merges):,}", "in two identities"),
            Figure("Copies", f"{len(found.copies) - leaks:,}", "groups within the training set"),
            Figure("Leaks", f"{leaks:,}", "groups with test images"),
            Figure("Poor crops", f"{len(found.crops):,}", "blank, small or like no other"),
        )
        actions = Counter(fix.action for fix in fixes)
        lines = ", ".join(f"{number} {action}" for action, number in sorted(actions.items()))
        facts = (
            ("Data set", self.data_set),
            ("Network", network),
            ("Corrections in fixes.csv", f"{len(fixes):,}" + (f": {lines}" if lines else "")),
            ("Least score of a correction", f"{least:g}"),
        )
        text = (
            "A score is the probability that a finding is a mistake. It is estimated by planting such mistakes in this "
            "data set and comparing. Look through the findings, delete the lines of fixes.csv that you do not agree "
            "with, and train with label_fixes set to that file. No image is changed."
        )
        doubt = found.doubt(self.options, self.pool.num_train)
        notes = (Note(f"{doubt}."),) if doubt else ()
        return Section("Overview", text, (Figures(figures), *notes, Facts(facts)))

    def wrong_labels(self) -> Section:
        rows = self.found.swapped(LISTED)
        lists = tuple(self._wrong_label(row) for row in rows[: self.options.max_shown])
        text = (
            "Each line begins with a training image. Red: images of the identity that it is labelled with; green: "
            "images of the identity that it looks like. "
            f"Lines from {self.options.min_score:.0%} on are in fixes.csv."
        )
        if not lists:
            return _nothing("Wrong labels", "No training image looks like another identity than its own.")
        caption = self._shown(len(lists), len(rows))
        return Section("Wrong labels", text, (RankLists("Images that look like another identity", lists, caption),))

    def _wrong_label(self, row: int) -> RankList:
        sample, other = self.pool.samples[row], int(self.found.swaps.nearest[row])
        score = float(self.found.swaps.probabilities[row])
        note = (f"{score:.0%}", f"labelled {sample.pid}", f"looks like {other}", f"camera {sample.camid}")
        own = self._examples(self.rows_of[sample.pid], "wrong", str(sample.pid), OF_LINE, row)
        return RankList(
            self._show(row, "query"), note, (*own, *self._examples(self.rows_of[other], "right", str(other), OF_LINE))
        )

    def two_persons(self) -> Section:
        splits = [split for split in self.found.splits if split.probability >= LISTED]
        groups = []
        for split in splits[: self.options.max_shown]:
            larger, smaller = split.parts.larger.tolist(), split.parts.smaller.tolist()
            then = "a new identity" if split.other is None else f"identity {split.other}, which it looks like"
            note = f"{len(larger)} images, and {len(smaller)} that would become {then}"
            images = (*self._examples(larger, "plain", "first"), *self._examples(smaller, "query", "second"))
            groups.append(ImageGroup(f"Identity {split.label}: {split.probability:.0%}", note, images))
        text = "The images of such an identity fall into two clusters, less alike than those of one person are here."
        none = "The images of every identity are as alike as those of one person."
        return self._section("Two persons in one identity", text, none, groups, len(splits))

    def same_person(self) -> Section:
        merges = [merge for merge in self.found.merges if merge.probability >= LISTED]
        groups = []
        for merge in merges[: self.options.max_shown]:
            images = (*self._identity(merge.first, "plain"), *self._identity(merge.second, "query"))
            is_leak = merge.second not in self.rows_of
            note = "the second is an identity of the test set: a leak, if it is the same person" if is_leak else ""
            first, second = map(self.pool.identity, merge[:2])
            title = f"Identities {first} and {second}: {merge.probability:.0%}"
            groups.append(ImageGroup(title, note, images))
        text = (
            "These identities are as alike as different views of one person are here. Persons in the same clothes look "
            "like one, above all to a network that was trained on other data: compare the images before you merge."
        )
        none = "No two identities are as alike as different views of one person."
        return self._section("One person in two identities", text, none, groups, len(merges))

    def copies(self) -> Section:
        groups = []
        for copies in self.found.copies[: self.options.max_shown]:
            kept = kept_of(copies, self.pool, self.found.swaps)
            images = []
            # The image that stays comes first: the kept one, or the test image.
            stays = copies.rows[-1] if kept is None else kept
            for row in [stays, *(row for row in copies.rows if row != stays)][:OF_GROUP]:
                is_dropped = row < self.pool.num_train and row != kept
                shown = self._show(row, "wrong" if is_dropped else "right", self.pool.split(row))
                images.append(replace(shown, below=person(lowered(self.pool.samples[row]).pid)))
            identities = self.pool.identities(copies.rows)
            title = "Leak into the test set" if kept is None else f"{len(copies.rows)} copies"
            notes = [
                "the same pixels" if copies.difference == 0 else f"pixels differ by {copies.difference:.1f} of 255"
            ]
            notes += [f"different identities: {', '.join(identities)}"] if len(identities) > 1 else []
            groups.append(ImageGroup(title, "; ".join(notes), tuple(images)))
        text = (
            "The same image more than once. Red: training images that the corrections drop. Copies within the test set "
            "are not listed."
        )
        none = "No training image has a copy."
        return self._section("Copies and leaks", text, none, groups, len(self.found.copies))

    def camera_colours(self) -> Section:
        def row(camid: int, number: int, colour: tuple[float, float, float], remark: str) -> tuple[Cell, ...]:
            brightness = sum(colour) / 3
            channels = (Cell(f"{value:.0f}", value / 255) for value in colour)
            return Cell(str(camid)), Cell(f"{number:,}"), *channels, Cell(f"{brightness:.0f}"), Cell(remark or "–")

        header = ("camera", "images", "red", "green", "blue", "brightness", "remark")
        table = Table("Mean colours, 0 to 255", header, tuple(row(*camera) for camera in self.cameras))
        odd = [str(camera.camid) for camera in self.cameras if camera.remark]
        blocks: list[Block] = [table]
        if odd:
            blocks.append(
                Note(
                    f"Camera {', '.join(odd)}: other colours than the others. Set its white balance, or train with "
                    "colour augmentation (data_augmentation.hue, saturation, brightness, grayscale)."
                )
            )
        return Section("Cameras", "", tuple(blocks))

    def poor_crops(self) -> Section:
        titles = {"blank": "Blank", "small": "Small", "far": "Like no other image"}
        groups = []
        for kind, title in titles.items():
            crops = [crop for crop in self.found.crops if crop.kind == kind]
            for crop in crops[: self.options.max_shown]:
                shown = self._show(crop.row, "plain")
                groups.append(
                    ImageGroup(f"{title}: {crop.score:.0%}", f"{self.pool.name(crop.row)}: {crop.text}", (shown,))
                )
        text = "Crops with nobody, as far as that can be said without a detector of persons."
        none = "No training image is blank, small or unlike all others."
        return self._section("Poor crops", text, none, groups, len(self.found.crops))

    def _section(self, title: str, text: str, none: str, groups: Sequence[ImageGroup], number: int) -> Section:
        if not groups:
            return _nothing(title, none)
        left_out = self._shown(len(groups), number)
        return Section(title, f"{text} {left_out}".strip(), (ImageGroups(tuple(groups)),))

    def _shown(self, shown: int, number: int) -> str:
        return f"The {shown} surest of {number:,} are shown; audit.json has all." if shown < number else ""

    def _identity(self, pid: int, verdict: Verdict) -> tuple[Shown, ...]:
        """Images that stand for an identity, of the training set or else of the test set."""
        return self._examples(self.rows_of.get(pid, self.rows_of_test.get(pid, [])), verdict, self.pool.identity(pid))

    def _examples(
        self, rows: Sequence[int], verdict: Verdict, above: str, number: int = EXAMPLES, without: int = -1
    ) -> tuple[Shown, ...]:
        """Images that stand for some, of as many cameras as possible, those with doubtful labels last."""
        taken: Counter[int] = Counter()
        order = []
        for row in rows:
            camid = self.pool.samples[row].camid
            order.append((row in self.doubtful, taken[camid], row))
            taken[camid] += 1
        chosen = [row for _, _, row in sorted(order) if row != without][:number]
        return tuple(self._show(row, verdict, above) for row in chosen)

    def _show(self, row: int, verdict: Verdict, above: str = "") -> Shown:
        sample = lowered(self.pool.samples[row])
        shown = picture(sample.path)
        hint = f"{self.pool.name(row)}, {person(sample.pid)}, camera {sample.camid}{shown.hint}"
        return replace(shown, hint=hint, verdict=verdict, above=above)


def _nothing(title: str, text: str) -> Section:
    return Section(title, "", (Note(text),))
