'''Evaluation. Every file in this folder is one plug-in; the arithmetic they share is in evaluate/core/.

A new plug-in is a new file with a function `run_eval(config)`; nothing else changes. `config.online_net` is the network
to measure, in eval mode: normalised images (B, 3, H, W) -> embeddings (B, D). `config.KEY` is the value of a key of the
validated params, and `config.params` the Params themselves, for functions such as `read_dataset`. Save this as
evaluate/neighbour_evaluate.py, put "evaluation_params": {"type": "neighbour_evaluate"} into params.json, and the best
model is the one whose gallery images most often have their nearest neighbour in a picture of the same person:

    """Share of gallery images whose nearest neighbour shows the same person."""

    import torch

    from config.evaluation import EvaluationParams
    from data.dataset import read_dataset
    from evaluate.core.extract import extract


    class Options(EvaluationParams):
        """Further keys of evaluation_params; leave the class out if there are none."""

        max_images: int = 1000
        """Gallery images to look at."""


    def run_eval(config):
        samples = read_dataset(config.params).gallery[: config.evaluation_params.max_images]
        found = extract(config, samples, "gallery")
        distance = torch.cdist(found.features, found.features).fill_diagonal_(torch.inf)
        right = found.pids[distance.argmin(dim=1)] == found.pids
        return {"nearest": right.float().mean(), "num_gallery": len(right), "score": "nearest"}

`run_eval` returns a number, the higher the better, or a dict:

    "score"          names the entry that picks the best model, the higher the better; required
    "num_..."        a count, a whole number
    "features"       data.features.TestFeatures, the embeddings measured: evaluator.py can save them
    "report"         a function without arguments that makes an evaluate.core.report.Report; evaluator.py calls it
                     only where a report is asked for
    "threshold..."   a metric that is a distance, not a fraction; "fid" and "kid" likewise
    any other name   a metric, a finite number; fractions, not percent (the screen shows percent)
                     or a picture, a uint8 array (H, W, 3), which TensorBoard shows

Numbers may be Python's, NumPy's or tensors without dimensions.

`config.online_net` as training and evaluator.py build it also has `logits` (images -> class scores), `labels` (the pid
of each class) and `branch_dims` (the sizes of the parts of an embedding). A network whose `camids` are not empty takes
the cameras of the images as well, (B,) int64, which `extract` gives it. `config.features` is not None where
embeddings are evaluated that a file brought; there is no network then (`config.has_net`).

`config` is frozen. `config.model_copy(update={"batches_dir": folder})` is the same with other values of keys,
`dataclasses.replace(config, params=...)` the same with other Params, and `dataclasses.replace(config, network=...)`
with another network.

A plug-in may also have a function `check_data(dataset, config)`, which raises a DataError where the data set lacks what
run_eval needs; it is called before training begins. Its `config` is the Params: there is no network yet.
'''
