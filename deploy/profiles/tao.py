"""TAO's ReIdentificationNet as a secondary nvinfer of DeepStream: its names and its preprocessing."""

from pathlib import Path

from deploy.card import ModelCard
from deploy.profiles.deepstream import FACTOR, OFFSETS, DeepStream

SGIE = """\
# A secondary inference engine of DeepStream (nvinfer) that attaches embeddings to detected persons.
[property]
gpu-id=0
gie-unique-id=2
process-mode=2
operate-on-gie-id=1
operate-on-class-ids=0
onnx-file={name}
model-engine-file={name}_b16_gpu0_fp16.engine
batch-size=16
# 0: fp32, 2: fp16
network-mode=2
# Neither detector nor classifier: the tensor itself
network-type=100
output-tensor-meta=1
output-blob-names=fc_pred
infer-dims=3;{card.img_h};{card.img_w}
# RGB
model-color-format=0
net-scale-factor={factor}
offsets={offsets}
maintain-aspect-ratio=0
# Bilinear
scaling-filter=1
"""


class TAO(DeepStream):
    """Source: the Gst-nvinfer page of the DeepStream documentation, and ReIdentificationNet's model card."""

    consumer = "TAO"
    input_name, output_names = "input", ("fc_pred",)

    def sidecar(self, path: Path, card: ModelCard) -> tuple[str, str]:
        """NAME.sgie.txt, the configuration of nvinfer."""
        offsets = ";".join(map(str, OFFSETS))
        return f"{path.stem}.sgie.txt", SGIE.format(name=path.name, card=card, offsets=offsets, factor=FACTOR)
