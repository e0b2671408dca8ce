"""Sampling in the notation of the tables: "32*2" is 32 identities with 2 images each, "64*1" 64 random images."""

import re

from config.entries import Entry, Findings, Section, shown, without

SAMPLING = "batch_sampling_params"
NOTATION = "[1-9][0-9]{0,5}\\*[1-9][0-9]{0,5}"


def with_sampling(section: Section, findings: Findings) -> Section:
    """One layer with its sampling spelt out; a text says all there is to say, so it replaces what earlier layers say.

    A text in another form is recorded and left out.
    """
    entry = section.get(SAMPLING)
    if entry is None or not isinstance(entry.value, str):
        return section
    if not re.fullmatch(NOTATION, entry.value):
        text = f'expected an object, or identities*images such as "32*2", got {shown(entry.value)}'
        findings.problem(entry.source, entry.key, text)
        findings.doubtful.add((SAMPLING,))
        return without(section, (SAMPLING,))
    identities, images = (int(number) for number in entry.value.split("*"))
    # One image of each of P identities is no more than P images: the tables mean random sampling by it.
    values = {"class_balanced": images > 1, "P": identities, "K": images}
    inner = {key: Entry(value, entry.source, entry.key) for key, value in values.items()}
    return section | {SAMPLING: Entry(inner, entry.source, entry.key, replaces=True)}


def without_replaced(earlier: Section, later: Section, findings: Findings) -> Section:
    """What earlier layers say, less the batch size where a later layer's text says how many images a batch has.

    A batch size in the same layer that says something else is recorded.
    """
    entry, beside = later.get(SAMPLING), later.get("batch_size")
    if entry is None or not entry.replaces:
        return earlier
    identities, each, balanced = (entry.value[key].value for key in ("P", "K", "class_balanced"))
    # Later overrides may have put anything there; validation says so, as the params' own check does of P x K sampling.
    images = identities * each if type(identities) is type(each) is int and balanced is False else None
    if beside is not None and images is not None and beside.value not in (images, None):
        text = f"is {shown(beside.value)}, but batch_sampling_params says {images} images; leave one of the two out"
        findings.problem(beside.source, beside.key, text)
        findings.doubtful.add(("batch_size",))
    return without(earlier, ("batch_size",)) if "batch_size" in earlier else earlier
