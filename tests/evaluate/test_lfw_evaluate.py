"""The plug-in for pairs, from folders of images to metrics."""

import re
from statistics import stdev

import pytest
import torch
from PIL import Image
from torch import nn

from config.params import Params
from data.dataset import read_dataset
from data.features import Features, TestFeatures
from evaluate.core.context import EvalContext
from evaluate.core.plugins import evaluate, load_plugin
from evaluate.core.report.blocks import ImageGroups, Note
from evaluate.lfw_evaluate import Options, run_eval
from tests.evaluate.conftest import BLUE, DARK_GREEN, DARK_RED, GREEN, RED
from utils.errors import DataError, ParamsError

NO_WARNING = {"far": (0.5,)}

FACES = {"Ann": [RED, DARK_RED, RED], "Bob": [GREEN, DARK_GREEN, DARK_RED], "Cy": [BLUE, BLUE, BLUE]}
# Distances between means of 0..1: each pair's own, in the order of the lines.
PAIRS = "2\t2\nAnn 1 2\nBob 1 2\nAnn 1 Bob 1\nAnn 2 Cy 1\nCy 1 2\nBob 1 3\nBob 3 Ann 3\nCy 3 Bob 2\n"


def colour_net():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def params_for(folder, **options):
    plugin = Options.model_validate({"type": "lfw_evaluate", "metric": "euclidean", **NO_WARNING, **options})
    keys = {"batches_dir": str(folder), "img_h": 32, "img_w": 16, "evaluation_params": plugin}
    return Params.model_validate(keys | {"data_augmentation": {"normalisation": "half"}})


def run(folder, **options):
    return evaluate(EvalContext(params_for(folder, **options), colour_net()))


def report_of(folder, **options):
    return run_eval(EvalContext(params_for(folder, **options), colour_net()))["report"]()


@pytest.fixture
def faces(tmp_path):
    """LFW's tree with a list of pairs in it: NAME/NAME_0001.png."""

    def make(pairs=PAIRS, images=FACES):
        for name, colours in images.items():
            (tmp_path / name).mkdir()
            for number, colour in enumerate(colours, start=1):
                Image.new("RGB", (16, 32), colour).save(tmp_path / name / f"{name}_{number:04d}.png")
        (tmp_path / "pairs.txt").write_text(pairs)
        return {"pairs_file": str(tmp_path / "pairs.txt"), "pairs_dir": str(tmp_path), "image_suffix": ".png"}

    return make


@pytest.fixture
def crowd(market_folder):
    """Twelve persons of a colour each, seen once by each of three cameras; junk and distractors."""
    colours = {pid: (20 * pid, 250 - 20 * pid, 130 * (pid % 2)) for pid in range(1, 13)}
    query = {f"{pid:04d}_c1_0.png": colour for pid, colour in colours.items()}
    gallery = {f"{pid:04d}_c{camid}_0.png": colour for pid, colour in colours.items() for camid in (2, 3)}
    return market_folder(query, gallery | {"0000_c2_0.png": RED, "-1_c2_0.png": RED})


def test_metrics_of_pairs_few_enough_to_follow(faces):
    options = faces()
    evaluation = run("nowhere", **options)
    apart = 2 / 255  # normalised images run from -1 to 1
    # By distance: g 0, g 70 = i 70, g 80, i 302, g 308 = i 308, i 354. The best threshold lies between 80 and 302.
    threshold = (80 + (170**2 + 250**2) ** 0.5) / 2 * apart
    # Fold 1 is best parted between 80 and 308, which makes two mistakes in fold 2; that is best parted between 0 and
    # 70, which rejects both genuine pairs of fold 1.
    expected = {
        "accuracy": pytest.approx((2 / 4 + 2 / 4) / 2),
        "accuracy_std": pytest.approx(0.0),
        "auc": pytest.approx((4 + 3.5 + 3 + 1.5) / 16),
        "eer": pytest.approx(1 / 4),
        "tar_at_far_0.25": pytest.approx(3 / 4),
        "tar_at_far_0": pytest.approx(1 / 4),
        "threshold": pytest.approx(threshold, abs=1e-5),
        "threshold_at_far_0.25": pytest.approx(80 * apart, abs=1e-5),
        "threshold_at_far_0": pytest.approx(0.0, abs=1e-5),
    }
    assert run("nowhere", **options | {"far": (0.25, 0.0)}).metrics == expected
    assert evaluation.score == evaluation.metrics["accuracy"]
    assert evaluation.score_name == "accuracy"
    assert evaluation.counts == {"num_pairs": 8, "num_genuine": 4, "num_folds": 2}


def test_the_spread_over_folds_is_that_of_a_sample(faces):
    # The last fold alone has a genuine pair (308) farther apart than its impostor (302).
    pairs = "3 1\nAnn 1 2\nAnn 1 Bob 1\nCy 1 2\nAnn 2 Cy 1\nBob 1 3\nCy 3 Bob 2\n"
    metrics = run("nowhere", **faces(pairs)).metrics
    assert metrics["accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert metrics["accuracy_std"] == pytest.approx(stdev([1, 1, 0.5]))


def test_one_fold_is_judged_by_its_own_threshold(faces):
    pairs = "\n".join(["4", *(line for start in (1, 5, 3, 7) for line in PAIRS.splitlines()[start : start + 2])])
    evaluation = run("nowhere", **faces(pairs))
    assert evaluation.metrics["accuracy"] == pytest.approx(6 / 8)
    assert "accuracy_std" not in evaluation.metrics
    assert evaluation.counts["num_folds"] == 1


def test_images_are_looked_for_in_the_data_set_unless_told_otherwise(faces, tmp_path):
    options = faces()
    del options["pairs_dir"]
    assert run(tmp_path, **options).counts["num_pairs"] == 8
    with pytest.raises(DataError, match=r"9 problems; images are looked for in elsewhere, .*\n  no such image: else"):
        run("elsewhere", **options)


def test_thresholds_that_accept_nothing_are_left_out(faces):
    # Two images of Bob differ, and one of them is the same colour as Ann.
    pairs = "1\nBob 1 3\nBob 3 Ann 2\n"
    evaluation = run("nowhere", **faces(pairs))
    assert evaluation.metrics["auc"] == 0.0
    assert evaluation.metrics["accuracy"] == 0.5
    assert evaluation.metrics["tar_at_far_0.5"] == 0.0
    assert "threshold_at_far_0.5" not in evaluation.metrics


def test_rates_below_one_impostor_are_said_to_be_none(faces, caplog):
    evaluation = run("nowhere", **faces(), far=(0.25, 0.1, 1e-4, 0.0))
    assert "pairs: 4 impostors are too few for a false accept rate of 0.1 or 0.0001" in caplog.text
    tars = [evaluation.metrics[f"tar_at_far_{far}"] for far in ("0.1", "0.0001", "0")]
    assert tars == [0.25, 0.25, 0.25]


def test_mirror_images_are_added_where_asked_for(faces, tmp_path):
    class LeftHalf(nn.Module):
        """The mean colour of the left half."""

        def forward(self, images):
            return images[..., : images.shape[3] // 2].mean(dim=(2, 3))

    options = faces("1\nAnn 1 2\nAnn 1 Bob 1\n")
    for number, sides in ((1, (RED, BLUE)), (2, (BLUE, RED))):
        picture = Image.new("RGB", (16, 32), sides[0])
        picture.paste(sides[1], (8, 0, 16, 32))
        picture.save(tmp_path / "Ann" / f"Ann_{number:04d}.png")
    # By left halves Ann's two images are as far apart as red and green; with the mirror images they are the same.
    aucs = [
        run_eval(EvalContext(params_for("nowhere", **options, far=(0.0,), flip=flip), LeftHalf().eval()))["auc"]
        for flip in (False, True)
    ]
    assert aucs == [0.5, 1.0]


def test_each_image_is_embedded_once(faces):
    class Counting(nn.Module):
        seen = 0

        def forward(self, images):
            self.seen += len(images)
            return images.mean(dim=(2, 3))

    net = Counting().eval()
    run_eval(EvalContext(params_for("nowhere", **faces()), net))
    assert net.seen == 9


def test_pairs_are_drawn_from_query_and_gallery(crowd, caplog):
    evaluation = run(crowd, num_pairs=24, num_folds=3)
    assert caplog.text == ""
    assert evaluation.counts == {"num_pairs": 24, "num_genuine": 12, "num_folds": 3}
    assert (evaluation.score, evaluation.metrics["auc"], evaluation.metrics["eer"]) == (1.0, 1.0, 0.0)
    assert evaluation.metrics["threshold"] > 0
    same, other = run(crowd, num_pairs=24, num_folds=3), run(crowd, num_pairs=24, num_folds=3, seed=1)
    assert same.metrics == evaluation.metrics
    assert other.metrics["threshold"] != evaluation.metrics["threshold"]


def test_fewer_pairs_than_asked_for_are_said(crowd, caplog):
    evaluation = run(crowd, num_folds=2)
    assert evaluation.counts == {"num_pairs": 72, "num_genuine": 36, "num_folds": 2}
    assert f"{crowd}: only 72 pairs can be drawn, not 6000" in caplog.text


def test_data_that_cannot_be_evaluated_is_found_before_training(crowd, market_folder, faces, tmp_path):
    check_data = load_plugin("lfw_evaluate").check_data
    dataset = read_dataset(params_for(crowd))
    check_data(dataset, params_for(crowd, num_folds=6))
    with pytest.raises(DataError, match=rf"^{re.escape(str(crowd))}: for pairs in 10 folds .* got 12, 12 of them"):
        check_data(dataset, params_for(crowd))
    with pytest.raises(ParamsError, match=r"num_pairs: 10 pairs cannot give"):
        check_data(dataset, params_for(crowd, num_folds=6, num_pairs=10))
    with pytest.raises(DataError, match=rf"^{re.escape(str(crowd))}: no query or gallery images to draw pairs from"):
        check_data(dataset._replace(query=[], gallery=[]), params_for(crowd))
    options = faces()
    check_data(dataset, params_for(crowd, **options))
    (tmp_path / "Ann" / "Ann_0003.png").unlink()
    with pytest.raises(DataError, match=r"no such image: .*Ann_0003\.png"):
        check_data(dataset, params_for(crowd, **options))


def test_unreadable_images_take_their_pairs_along_where_asked_for(faces, tmp_path, caplog):
    options = faces()
    (tmp_path / "Cy" / "Cy_0001.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"Cy_0001\.png"):
        run("nowhere", **options)
    skipping = EvalContext(params_for("nowhere", **options).model_copy(update={"bad_images": "skip"}), colour_net())
    evaluation = evaluate(skipping)
    assert evaluation.counts == {"num_pairs": 6, "num_genuine": 3, "num_folds": 2}
    assert "pairs: 2 of 8 left out, as their images are unreadable" in caplog.text
    (tmp_path / "Bob" / "Bob_0003.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="fold 2 has no pair of each kind whose images are readable"):
        evaluate(skipping)


def test_features_from_a_file_hold_no_pairs(crowd):
    part = Features(torch.ones(2, 3), torch.tensor([1, 2]), torch.tensor([1, 2]), [])
    with pytest.raises(ParamsError, match=r"lfw_evaluate .* needs a network"):
        evaluate(EvalContext(params_for(crowd), features=TestFeatures(part, part)))


def test_the_report_shows_the_mistakes(faces):
    report = report_of("nowhere", **faces())
    blocks = [block for section in report.sections for block in section.blocks]
    figures = {figure.name: figure.value for figure in report.figures}
    assert figures == {"Accuracy": "50.00%", "EER": "25.00%", "AUC": "0.7500"}
    notes = [block.text for block in blocks if isinstance(block, Note)]
    assert notes == ["Genuine pairs that are rejected: 1 of 4.", "Impostors that are accepted: 1 of 4."]
    rejected, accepted = (block for block in blocks if isinstance(block, ImageGroups))
    for groups, distance, names in (
        (rejected, 308, ("Bob_0001", "Bob_0003")),
        (accepted, 70, ("Bob_0003", "Ann_0003")),
    ):
        (group,) = groups.groups
        assert group.title == f"distance {distance * 2 / 255:.3f}"
        assert [name in image.hint for name, image in zip(names, group.images, strict=True)] == [True, True]
        assert all(image.source.startswith("data:image/jpeg") for image in group.images)


def test_the_report_is_named_after_what_was_measured(faces, tmp_path, crowd):
    options = faces()
    named = report_of("nowhere", **options)
    assert (named.title, named.subtitle) == (f"{tmp_path.name}, pairs.txt", "Verification of 8 pairs of 9 images.")
    assert report_of(tmp_path, **options | {"pairs_dir": ""}).title == f"{tmp_path.name}, pairs.txt"
    drawn = {"num_pairs": 24, "num_folds": 3}
    assert report_of(crowd, **drawn).title == crowd.name
    # A folder without pairs_file has no say.
    assert report_of(crowd / ".", **drawn, pairs_dir="elsewhere").title == crowd.name


@pytest.mark.parametrize("far", [(0.1, 0.10000001), (0.01, 0.1, 0.1), (1e-7, 0.1, 1e-7)])
def test_rates_whose_metrics_would_share_a_name_are_refused(far):
    with pytest.raises(ValueError, match=r"far\n.*more than one rate is (0\.1|1e-07) in six digits; leave all but one"):
        Options(far=far)
    assert Options(far=(0.1, 0.100001)).far == (0.1, 0.100001)
