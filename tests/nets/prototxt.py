"""BVLC's deploy prototxts of bvlc_alexnet and CaffeNet, from a layer table."""

HEAD = """\
name: "{name}"
layer {{ name: "data" type: "Input" top: "data"
  input_param {{ shape: {{ dim: 10 dim: 3 dim: 227 dim: 227 }} }} }}
"""

KINDS = {
    "conv": 'type: "Convolution" convolution_param {{ {} }}',
    "relu": 'type: "ReLU"',
    "norm": 'type: "LRN" lrn_param {{ local_size: 5 alpha: 0.0001 beta: 0.75 }}',
    "pool": 'type: "Pooling" pooling_param {{ pool: MAX kernel_size: 3 stride: 2 }}',
    "fc": 'type: "InnerProduct" inner_product_param {{ num_output: {} }}',
    "drop": 'type: "Dropout" dropout_param {{ dropout_ratio: 0.5 }}',
    "prob": 'type: "Softmax"',
}

CONV = {
    "conv1": "num_output: 96 kernel_size: 11 stride: 4",
    "conv2": "num_output: 256 pad: 2 kernel_size: 5 group: 2",
    "conv3": "num_output: 384 pad: 1 kernel_size: 3",
    "conv4": "num_output: 384 pad: 1 kernel_size: 3 group: 2",
    "conv5": "num_output: 256 pad: 1 kernel_size: 3 group: 2",
}
FC = {"fc6": "4096", "fc7": "4096", "fc8": "1000"}

ALEXNET = """conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5
             fc6 relu6 drop6 fc7 relu7 drop7 fc8 prob"""
CAFFENET = ALEXNET.replace("norm1 pool1", "pool1 norm1").replace("norm2 pool2", "pool2 norm2")


def bvlc_alexnet() -> str:
    """models/bvlc_alexnet/deploy.prototxt."""
    return _deploy("AlexNet", ALEXNET)


def bvlc_reference_caffenet() -> str:
    """models/bvlc_reference_caffenet/deploy.prototxt."""
    return _deploy("CaffeNet", CAFFENET)


def _deploy(name: str, layers: str) -> str:
    text, bottom = HEAD.format(name=name), "data"
    for layer in layers.split():
        kind = layer.rstrip("0123456789")
        top = bottom if kind in ("relu", "drop") else layer  # in place, as BVLC writes them
        body = KINDS[kind].format((CONV | FC).get(layer))
        text += f'layer {{ name: "{layer}" bottom: "{bottom}" top: "{top}" {body} }}\n'
        bottom = top
    return text
