from pathlib import Path

import torch

from audit.copies import Copies
from audit.crops import PoorCrop
from audit.findings import Findings, Pool, as_json, suggest_fixes
from audit.identities import Merge, Parts, Split
from audit.labels import Swaps
from config.params import AuditParams
from data.label_fixes import Fix, apply_fixes, write_fixes
from data.samples import Dataset, Sample

ROOT = Path("set")


def pool() -> Pool:
    """Twelve training images of pids 1, 2 and 3, four each, then a query and a gallery image of pid 9."""
    train = [Sample(ROOT / f"train/{row}.jpg", 1 + row // 4, row % 2) for row in range(12)]
    return Pool(ROOT, [*train, Sample(ROOT / "query/a.jpg", 9, 0), Sample(ROOT / "gallery/b.jpg", 9, 1)], 12, 1, 9)


def findings(swapped: dict[int, tuple[int, float]] | None = None, **others: object) -> Findings:
    probabilities, nearest = torch.zeros(14), torch.full((14,), -1)
    for row, (pid, probability) in (swapped or {}).items():
        nearest[row], probabilities[row] = pid, probability
    nothing = {"splits": [], "merges": [], "copies": [], "cameras": [], "crops": []}
    return Findings(Swaps(probabilities, nearest), **{**nothing, **others})


def fixes(found: Findings, least: float = 0.5) -> list[tuple[str, str, int, int | None]]:
    return [fix[:4] for fix in suggest_fixes(pool(), found, least, 4.0)]


def test_wrong_labels_are_moved_from_a_score_on() -> None:
    found = findings({0: (2, 0.9), 5: (3, 0.4)})
    assert fixes(found) == [("train/0.jpg", "move", 1, 2)]
    assert fixes(found, 0.3) == [("train/0.jpg", "move", 1, 2), ("train/5.jpg", "move", 2, 3)]


def test_a_network_that_finds_most_labels_wrong_is_doubted() -> None:
    assert findings(dict.fromkeys(range(2), (3, 0.9))).doubt(AuditParams(), 12) == ""
    found = findings(dict.fromkeys(range(3), (3, 0.9)))
    doubt = found.doubt(AuditParams(), 12)
    assert doubt.startswith("3 of 12 labels look wrong; more likely the network cannot tell")
    assert doubt.endswith("set audit_params.folds to 2")
    assert "folds for longer" in found.doubt(AuditParams(folds=2), 12)
    assert found.doubt(AuditParams(min_score=0.95), 12) == ""
    # Labels that are probably right are no reason, even where they are listed.
    assert findings(dict.fromkeys(range(12), (3, 0.3))).doubt(AuditParams(min_score=0), 12) == ""


def test_of_copies_the_one_with_the_likeliest_label_stays_and_leaks_are_dropped() -> None:
    copies = [Copies([0, 1], 0.0), Copies([4, 9], 0.0), Copies([2, 12, 13], 2.0)]
    found = findings({4: (3, 0.9)}, copies=copies)
    assert fixes(found) == [
        ("train/1.jpg", "drop", 1, None),
        ("train/2.jpg", "drop", 1, None),
        ("train/4.jpg", "drop", 2, None),
    ]
    reasons = {fix.path: (fix.reason, fix.score) for fix in suggest_fixes(pool(), found, 0.5, 4.0)}
    assert reasons["train/1.jpg"] == ("copy of train/0.jpg", 1.0)
    assert reasons["train/2.jpg"] == ("near copy of gallery/b.jpg", 0.75)


def test_the_smaller_part_becomes_a_new_identity_or_goes_to_the_one_it_looks_like() -> None:
    one = Split(1, Parts(torch.tensor([0, 1]), torch.tensor([2, 3]), 0.2), 0.8)
    other = Split(2, Parts(torch.tensor([4, 5]), torch.tensor([6, 7]), 0.2), 0.7, 3)
    assert fixes(findings(splits=[one, other])) == [
        ("train/2.jpg", "split", 1, 10),
        ("train/3.jpg", "split", 1, 10),
        ("train/6.jpg", "move", 2, 3),
        ("train/7.jpg", "move", 2, 3),
    ]


def test_identities_are_merged_once_and_never_with_the_test_set() -> None:
    merges = [Merge(1, 9, 0.95), Merge(2, 3, 0.9), Merge(1, 2, 0.8)]
    assert fixes(findings(merges=merges)) == [("", "merge", 3, 2)]


def test_the_corrections_of_everything_at_once_fit_the_data_set(tmp_path: Path) -> None:
    found = findings(
        {0: (3, 0.9), 5: (1, 0.8)},
        copies=[Copies([0, 1, 5], 0.0)],
        crops=[PoorCrop(1, "blank", "contrast 0", 1.0), PoorCrop(7, "small", "3 x 4 pixels", 1.0)],
        splits=[Split(1, Parts(torch.tensor([0, 1]), torch.tensor([2, 3]), 0.2), 0.8)],
        merges=[Merge(1, 3, 0.9)],
    )
    images, suggested = pool(), suggest_fixes(pool(), found, 0.5, 4.0)
    write_fixes(tmp_path / "fixes.csv", suggested)
    dataset = Dataset(images.samples[:12], images.samples[12:13], images.samples[13:], [])
    fixed = apply_fixes(dataset, tmp_path / "fixes.csv", ROOT)
    expected = {2: 10, 3: 10, 4: 2, 6: 2, 8: 1, 9: 1, 10: 1, 11: 1}
    assert {int(sample.path.stem): sample.pid for sample in fixed.train} == expected


def test_findings_are_plain_values() -> None:
    found = findings({0: (2, 0.9)}, merges=[Merge(1, 9, 0.6)], copies=[Copies([2, 12], 0.0)])
    content = as_json(pool(), found, [Fix("train/0.jpg", "move", 1, 2)])
    assert content["num_fixes"] == 1
    assert content["wrong_labels"] == [
        {"path": "train/0.jpg", "split": "train", "pid": 1, "camid": 0, "new_pid": 2, "score": 0.9}
    ]
    assert content["same_person"] == [{"pids": [1, 9], "second_is_in_test_set": True, "score": 0.6}]
    assert [image["split"] for image in content["copies"][0]["images"]] == ["train", "query"]
