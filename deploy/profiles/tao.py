"""TAO's ReIdentificationNet as a secondary nvinfer of DeepStream: its names and its preprocessing."""

from deploy.profiles.deepstream import DeepStream


class TAO(DeepStream):
    """Source: the Gst-nvinfer page of the DeepStream documentation, and ReIdentificationNet's model card."""

    consumer = "TAO"
    input_name, output_names = "input", ("fc_pred",)
    template, separator = "sgie.txt", ";"
