"""A few rank lists of a retrieval with their images, for the picture that training shows."""

from collections.abc import Sequence

import numpy as np
import torch

from data.decoding import Resize
from data.images import decode
from data.samples import Sample
from evaluate.core.pictures import CROP_HEIGHT, RankedImage, RankList, spread_by_ap
from evaluate.core.retrieval.ranking import nearest
from evaluate.core.retrieval.retrieve import Retrieval


def rank_lists(retrieval: Retrieval, num_queries: int, length: int, width: int) -> list[RankList]:
    """Rank lists of a few queries, from the worst to the best; ignored gallery images are left out.

    Args:
        retrieval: with samples whose image files are there.
        num_queries: how many lists.
        length: gallery images in each.
        width: of the images, in pixels; they are CROP_HEIGHT high.
    """
    query, gallery, distances, truth, result = retrieval
    chosen = torch.from_numpy(spread_by_ap(result.ap.numpy(), num_queries))
    found = nearest(distances, truth, length, result.queries[chosen])

    def read(samples: Sequence[Sample], index: int) -> np.ndarray:
        return decode(samples[index].path, Resize(CROP_HEIGHT, width, "bilinear"))

    lists = []
    for place, row in enumerate(result.queries[chosen].tolist()):
        ranked = [
            RankedImage(read(gallery.samples, index), distance, match)
            for index, distance, match in zip(*(part[place].tolist() for part in found), strict=True)
            if index >= 0
        ]
        lists.append(RankList(read(query.samples, row), float(result.ap[chosen[place]]), ranked))
    return lists
