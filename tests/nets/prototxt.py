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


# Networks that branch: each layer names what it reads


def vgg16() -> str:
    """VGG_ILSVRC_16_layers_deploy.prototxt."""
    return _vgg(16, (2, 2, 3, 3, 3))


def vgg19() -> str:
    """VGG_ILSVRC_19_layers_deploy.prototxt."""
    return _vgg(19, (2, 2, 4, 4, 4))


def _vgg(depth: int, counts: tuple[int, ...]) -> str:
    lines, bottom = [_input(f"VGG_ILSVRC_{depth}_layers", 224)], "data"
    for block, (count, width) in enumerate(zip(counts, (64, 128, 256, 512, 512), strict=True), 1):
        for i in range(1, count + 1):
            lines += [
                _conv(f"conv{block}_{i}", bottom, width, 3, pad=1),
                _in_place(f"relu{block}_{i}", f"conv{block}_{i}"),
            ]
            bottom = f"conv{block}_{i}"
        lines.append(_pool(f"pool{block}", bottom, "MAX", 2, 2))
        bottom = f"pool{block}"
    for fc, width in (("fc6", 4096), ("fc7", 4096), ("fc8", 1000)):
        lines.append(_dense(fc, bottom, width))
        if fc != "fc8":
            lines.append(_in_place(f"relu{fc[2]}", fc))
        bottom = fc
    return "\n".join(lines)


GOOGLENET = """3a 64 96 128 16 32 32
3b 128 128 192 32 96 64
4a 192 96 208 16 48 64
4b 160 112 224 24 64 64
4c 128 128 256 24 64 64
4d 112 144 288 32 64 64
4e 256 160 320 32 128 128
5a 256 160 320 32 128 128
5b 384 192 384 48 128 128"""


def bvlc_googlenet() -> str:
    """models/bvlc_googlenet/deploy.prototxt."""
    lrn = 'type: "LRN" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }'
    lines = [
        _input("GoogleNet", 224),
        _conv("conv1/7x7_s2", "data", 64, 7, stride=2, pad=3),
        _in_place("conv1/relu_7x7", "conv1/7x7_s2"),
        _pool("pool1/3x3_s2", "conv1/7x7_s2", "MAX", 3, 2),
        _layer("pool1/norm1", lrn, ["pool1/3x3_s2"]),
        _conv("conv2/3x3_reduce", "pool1/norm1", 64, 1),
        _in_place("conv2/relu_3x3_reduce", "conv2/3x3_reduce"),
        _conv("conv2/3x3", "conv2/3x3_reduce", 192, 3, pad=1),
        _in_place("conv2/relu_3x3", "conv2/3x3"),
        _layer("conv2/norm2", lrn, ["conv2/3x3"]),
        _pool("pool2/3x3_s2", "conv2/norm2", "MAX", 3, 2),
    ]
    bottom = "pool2/3x3_s2"
    for row in GOOGLENET.splitlines():
        number, *widths = row.split()
        name, (n1, r3, n3, r5, n5, proj) = f"inception_{number}", map(int, widths)
        for part, source, width, size in (
            ("1x1", bottom, n1, 1),
            ("3x3_reduce", bottom, r3, 1),
            ("3x3", f"{name}/3x3_reduce", n3, 3),
            ("5x5_reduce", bottom, r5, 1),
            ("5x5", f"{name}/5x5_reduce", n5, 5),
            ("pool_proj", f"{name}/pool", proj, 1),
        ):
            if part == "pool_proj":
                lines.append(_pool(f"{name}/pool", bottom, "MAX", 3, 1, pad=1))
            lines.append(_conv(f"{name}/{part}", source, width, size, pad=size // 2))
            lines.append(_in_place(f"{name}/relu_{part}", f"{name}/{part}"))
        parts = [f"{name}/{part}" for part in ("1x1", "3x3", "5x5", "pool_proj")]
        lines.append(_layer(f"{name}/output", 'type: "Concat"', parts))
        bottom = f"{name}/output"
        if number in ("3b", "4e"):
            stage = int(number[0])
            lines.append(_pool(f"pool{stage}/3x3_s2", bottom, "MAX", 3, 2))
            bottom = f"pool{stage}/3x3_s2"
    lines += [
        _pool("pool5/7x7_s1", bottom, "AVE", 7, 1),
        _dense("loss3/classifier", "pool5/7x7_s1", 1000),
    ]
    return "\n".join(lines)


def resnet50() -> str:
    """ResNet-50-deploy.prototxt of KaimingHe/deep-residual-networks."""
    lines = [_input("ResNet-50", 224)]

    def conv_and_norm(
        name: str, bottom: str, width: int, size: int, stride: int, *, relu: bool, bias: bool = False
    ) -> str:
        conv = name if name == "conv1" else f"res{name}"
        norm = "_conv1" if name == "conv1" else name
        lines.append(_conv(conv, bottom, width, size, stride=stride, pad=size // 2, bias=bias))
        lines.append(_in_place(f"bn{norm}", conv, 'type: "BatchNorm" batch_norm_param { use_global_stats: true }'))
        lines.append(_in_place(f"scale{norm}", conv, 'type: "Scale" scale_param { bias_term: true }'))
        if relu:
            lines.append(_in_place(f"{conv}_relu", conv))
        return conv

    bottom = conv_and_norm("conv1", "data", 64, 7, 2, relu=True, bias=True)
    lines.append(_pool("pool1", bottom, "MAX", 3, 2))
    bottom = "pool1"
    for stage, (count, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 2):
        for i in range(count):
            name, stride = f"{stage}{'abcdef'[i]}", 2 if stage > 2 and i == 0 else 1
            shortcut = bottom if i else conv_and_norm(f"{name}_branch1", bottom, 4 * width, 1, stride, relu=False)
            x = conv_and_norm(f"{name}_branch2a", bottom, width, 1, stride, relu=True)
            x = conv_and_norm(f"{name}_branch2b", x, width, 3, 1, relu=True)
            x = conv_and_norm(f"{name}_branch2c", x, 4 * width, 1, 1, relu=False)
            lines.append(_layer(f"res{name}", 'type: "Eltwise"', [shortcut, x]))
            lines.append(_in_place(f"res{name}_relu", f"res{name}"))
            bottom = f"res{name}"
    lines += [_pool("pool5", bottom, "AVE", 7, 1), _dense("fc1000", "pool5", 1000)]
    return "\n".join(lines)


def _input(name: str, side: int) -> str:
    dims = f"dim: 1 dim: 3 dim: {side} dim: {side}"
    return f'name: "{name}"\nlayer {{ name: "data" type: "Input" top: "data" input_param {{ shape: {{ {dims} }} }} }}'


def _layer(name: str, content: str, bottoms: list[str], top: str = "") -> str:
    reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "{name}" {content} {reads} top: "{top or name}" }}'


def _in_place(name: str, blob: str, content: str = 'type: "ReLU"') -> str:
    return _layer(name, content, [blob], blob)


def _conv(name: str, bottom: str, width: int, size: int, *, stride: int = 1, pad: int = 0, bias: bool = True) -> str:
    term = "" if bias else " bias_term: false"
    numbers = f"num_output: {width} kernel_size: {size} stride: {stride} pad: {pad}{term}"
    return _layer(name, f'type: "Convolution" convolution_param {{ {numbers} }}', [bottom])


def _pool(name: str, bottom: str, kind: str, size: int, stride: int, *, pad: int = 0) -> str:
    numbers = f"pool: {kind} kernel_size: {size} stride: {stride} pad: {pad}"
    return _layer(name, f'type: "Pooling" pooling_param {{ {numbers} }}', [bottom])


def _dense(name: str, bottom: str, width: int) -> str:
    return _layer(name, f'type: "InnerProduct" inner_product_param {{ num_output: {width} }}', [bottom])
