"""Seeds of all random draws of a run, computed from the run's seed, the purpose and counters such as step and rank.

No generator is carried from one step to the next, so that a resumed run draws the same numbers, and processes that must
draw alike need not communicate.
"""

import numpy as np
import torch

# Purposes; no two share a stream of random numbers.
INITIAL_WEIGHTS, AUGMENTATION, PIXELS, MODEL, BRANCHES = range(5)
# Of the person generator: its training, its samples, and its images in the training of a re-ID network.
ADVERSARIES, REAL_PICTURES, SAMPLES, GENERATED, GENERATED_AUGMENTATION, GENERATED_PIXELS = range(5, 11)
# Of the audit of a training set.
AUDIT = 11


def seed_for(purpose: int, seed: int, *where: int) -> int:
    """A seed of 63 bits for `purpose`, from the run's seed and any number of counters such as step and rank.

    Source: the hashing of NumPy's SeedSequence, in which neighbouring counters give unrelated seeds.
    """
    state = np.random.SeedSequence([purpose, seed, *where]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def default_generator(device: torch.device) -> torch.Generator:
    """The generator of a device that torch uses where none is given.

    To seed it alone is much quicker than `torch.manual_seed`, which seeds those of all devices of all kinds.
    """
    return torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator
