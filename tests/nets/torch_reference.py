"""VGG, ResNet, GoogLeNet and Inception v3 in torch, with torchvision's module names: a reference for tests.

Written anew from the papers and from what torchvision 0.6 and later are known to compute; no line is copied
from it, and none from `barenets`. The keys and shapes of `state_dict()` are torchvision's. Departures from the
papers that torchvision has and that matter here: ResNet's stride is in the bottleneck's 3x3 convolution (v1.5);
GoogLeNet's "5x5" branch has a 3x3 kernel, its convolutions have batch norm (epsilon 1e-3) and no bias, and its
last maximum pool is 2x2; Inception v3's average pools count the zeros of their padding.

In training mode GoogLeNet and Inception v3 return (logits, *auxiliary logits), the shallow head's first; else logits.
"""

import pytest

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

VGG = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
RESNET = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
GOOGLENET = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


class Vgg(nn.Module):
    def __init__(self, repeats, classes):
        super().__init__()
        layers, width = [], 3
        for repeat, out in zip(repeats, (64, 128, 256, 512, 512), strict=True):
            for _ in range(repeat):
                layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
                width = out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        hidden = [nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(4096, classes))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def conv(width, out, kernel, stride=1):
    return nn.Conv2d(width, out, kernel, stride, kernel // 2, bias=False)


class Residual(nn.Module):
    """Two 3x3 convolutions, or with `bottleneck` 1x1, 3x3, 1x1; the stride is in the first 3x3."""

    def __init__(self, width, inner, stride, bottleneck):
        super().__init__()
        out = inner * 4 if bottleneck else inner
        plan = ((1, inner, 1), (3, inner, stride), (1, out, 1)) if bottleneck else ((3, inner, stride), (3, inner, 1))
        self.depth, last = len(plan), width
        for i, (kernel, to, step) in enumerate(plan, 1):
            setattr(self, f"conv{i}", conv(last, to, kernel, step))
            setattr(self, f"bn{i}", nn.BatchNorm2d(to))
            last = to
        self.downsample = None
        if stride != 1 or width != out:
            self.downsample = nn.Sequential(conv(width, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.depth else y
        return (y + (self.downsample(x) if self.downsample else x)).relu()


class ResNet(nn.Module):
    def __init__(self, blocks, bottleneck, classes):
        super().__init__()
        self.conv1, self.bn1, self.maxpool = conv(3, 64, 7, 2), nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1)
        width = 64
        for i, count in enumerate(blocks):
            inner, stage = 64 << i, []
            for j in range(count):
                stage.append(Residual(width, inner, 2 if i and not j else 1, bottleneck))
                width = inner * 4 if bottleneck else inner
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


class ConvNorm(nn.Module):
    """torchvision's BasicConv2d: a convolution without bias, batch norm with epsilon 1e-3, ReLU."""

    def __init__(self, width, out, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


class Inception(nn.Module):
    """GoogLeNet's module."""

    def __init__(self, width, one, reduce3, three, reduce5, five, pool):
        super().__init__()
        self.branch1 = ConvNorm(width, one, 1)
        self.branch2 = nn.Sequential(ConvNorm(width, reduce3, 1), ConvNorm(reduce3, three, 3, 1, 1))
        self.branch3 = nn.Sequential(ConvNorm(width, reduce5, 1), ConvNorm(reduce5, five, 3, 1, 1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), ConvNorm(width, pool, 1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNetHead(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.conv, self.dropout = ConvNorm(width, 128, 1), nn.Dropout(0.7)
        self.fc1, self.fc2 = nn.Linear(2048, 1024), nn.Linear(1024, classes)

    def forward(self, x):
        return self.fc2(self.dropout(self.fc1(self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1)).relu()))


class GoogLeNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = ConvNorm(3, 64, 7, 2, 3)
        self.conv2, self.conv3 = ConvNorm(64, 64, 1), ConvNorm(64, 192, 3, 1, 1)
        for name, widths in GOOGLENET.items():
            setattr(self, f"inception{name}", Inception(*widths))
        self.aux1, self.aux2 = GoogLeNetHead(512, classes), GoogLeNetHead(528, classes)
        self.dropout, self.fc = nn.Dropout(0.2), nn.Linear(1024, classes)

    def forward(self, x):
        def half(y, kernel=3):
            return F.max_pool2d(y, kernel, 2, ceil_mode=True)

        x = half(self.conv3(self.conv2(half(self.conv1(x)))))
        x = self.inception4a(half(self.inception3b(self.inception3a(x))))
        low = x
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        high = x
        x = self.inception5b(self.inception5a(half(self.inception4e(x), 2)))
        logits = self.fc(self.dropout(x.mean((2, 3))))
        return (logits, self.aux1(low), self.aux2(high)) if self.training else logits


class Branches(nn.Module):
    """A module of Inception v3: `plan` is name -> (input, width, kernel[, stride]), in torchvision's order.

    Each convolution reads the named one before it, or with "x" the module's input, or with "pool" what
    `pool` makes of that; odd kernels keep the map's size unless they have a stride. `outputs` are joined.
    """

    def __init__(self, width, plan, outputs, average=True):
        super().__init__()
        self.inputs, self.outputs, self.average, widths = {}, outputs, average, {"x": width, "pool": width}
        for name, (source, out, kernel, *stride) in plan.items():
            high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
            padding = 0 if stride else (high // 2, wide // 2)
            setattr(self, name, ConvNorm(widths[source], out, kernel, *stride, padding=padding))
            self.inputs[name], widths[name] = source, out
        self.width = sum(widths[name] for name in outputs)

    def forward(self, x):
        pool = F.avg_pool2d(x, 3, 1, 1) if self.average else F.max_pool2d(x, 3, 2)  # the average counts padding
        seen = {"x": x, "pool": pool}
        for name, source in self.inputs.items():
            seen[name] = getattr(self, name)(seen[source])
        return torch.cat([seen[name] for name in self.outputs], 1)


def chain(prefix, *convs, source="x"):
    """name_1, name_2... that read each other."""
    names = [f"{prefix}_{i}" for i in range(1, len(convs) + 1)]
    return {name: (previous, *spec) for name, previous, spec in zip(names, [source, *names], convs, strict=False)}


def mixed_a(width, pool):
    plan = {"branch1x1": ("x", 64, 1), "branch_pool": ("pool", pool, 1)}
    plan |= chain("branch5x5", (48, 1), (64, 5)) | chain("branch3x3dbl", (64, 1), (96, 3), (96, 3))
    return Branches(width, plan, ["branch1x1", "branch5x5_2", "branch3x3dbl_3", "branch_pool"])


def mixed_b(width):
    plan = {"branch3x3": ("x", 384, 3, 2)} | chain("branch3x3dbl", (64, 1), (96, 3), (96, 3, 2))
    return Branches(width, plan, ["branch3x3", "branch3x3dbl_3", "pool"], average=False)


def mixed_c(width, c):
    row, column = (1, 7), (7, 1)
    plan = {"branch1x1": ("x", 192, 1), "branch_pool": ("pool", 192, 1)}
    plan |= chain("branch7x7", (c, 1), (c, row), (192, column))
    plan |= chain("branch7x7dbl", (c, 1), (c, column), (c, row), (c, column), (192, row))
    return Branches(width, plan, ["branch1x1", "branch7x7_3", "branch7x7dbl_5", "branch_pool"])


def mixed_d(width):
    plan = chain("branch3x3", (192, 1), (320, 3, 2))
    plan |= chain("branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2))
    return Branches(width, plan, ["branch3x3_2", "branch7x7x3_4", "pool"], average=False)


def mixed_e(width):
    plan = {"branch1x1": ("x", 320, 1), "branch_pool": ("pool", 192, 1)}
    plan |= chain("branch3x3", (384, 1)) | chain("branch3x3dbl", (448, 1), (384, 3))
    ends = []
    for name, i in (("branch3x3", 2), ("branch3x3dbl", 3)):
        for letter, kernel in (("a", (1, 3)), ("b", (3, 1))):
            ends.append(f"{name}_{i}{letter}")
            plan[ends[-1]] = (f"{name}_{i - 1}", 384, kernel)
    return Branches(width, plan, ["branch1x1", *ends, "branch_pool"])


class Inception3Head(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.conv0, self.conv1, self.fc = ConvNorm(width, 128, 1), ConvNorm(128, 768, 5), nn.Linear(768, classes)

    def forward(self, x):
        return self.fc(self.conv1(self.conv0(F.avg_pool2d(x, 5, 3))).mean((2, 3)))


class Inception3(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = ConvNorm(3, 32, 3, 2), ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3, self.Conv2d_3b_1x1 = ConvNorm(32, 64, 3, 1, 1), ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3, width = ConvNorm(80, 192, 3), 192
        plan = [("5b", mixed_a, 32), ("5c", mixed_a, 64), ("5d", mixed_a, 64), ("6a", mixed_b)]
        plan += [("6b", mixed_c, 128), ("6c", mixed_c, 160), ("6d", mixed_c, 160), ("6e", mixed_c, 192)]
        plan += [("7a", mixed_d), ("7b", mixed_e), ("7c", mixed_e)]
        for name, make, *arguments in plan:
            module = make(width, *arguments)
            setattr(self, f"Mixed_{name}", module)
            width = module.width
        self.AuxLogits = Inception3Head(768, classes)
        self.dropout, self.fc = nn.Dropout(0.5), nn.Linear(width, classes)

    def forward(self, x):
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        auxiliary = self.AuxLogits(x) if self.training else None
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        logits = self.fc(self.dropout(x.mean((2, 3))))
        return (logits, auxiliary) if self.training else logits


def build(name, classes=1000):
    """The network with random weights, seeded; its batch norms are made to matter, its dropout does nothing."""
    torch.manual_seed(1)
    if name in VGG:
        model = Vgg(VGG[name], classes)
    elif name in RESNET:
        model = ResNet(RESNET[name], int(name[6:]) >= 50, classes)
    else:
        model = {"googlenet": GoogLeNet, "inception_v3": Inception3}[name](classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.7, 1.3)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.1)
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    for module in model.modules():
        if isinstance(module, Residual):  # or the sum doubles in each of 50 blocks, and no bias matters any more
            with torch.no_grad():
                getattr(module, f"conv{module.depth}").weight *= 0.3
    return model.eval()
