"""torch's .pth files: what torch writes is read to the bit, and what nobody should write is refused."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from barenets import UserError, weights
from barenets.nets.alexnet import AlexNet
from barenets.weights import catalog
from barenets.weights.rename import Kind, canonical, reorder_chw
from barenets.weights.torch import is_torch, read_torch


def pickled(value: Any) -> bytes:
    """The opcodes that push `value`, without the pickle's start and stop."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(
    size: Any,
    stride: Any,
    offset: Any = 0,
    storage: bytes = b"ctorch\nFloatStorage\n",
    key: str = "0",
    count: int = 0,
) -> bytes:
    """The opcodes of a tensor, as torch.save writes them; spelled out, to write what torch would not."""
    reference = b"(" + pickled("storage") + storage + pickled(key) + pickled("cpu") + pickled(count) + b"tQ"
    rest = pickled(offset) + pickled(size) + pickled(stride) + pickled(False) + pickled({})
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + rest + b"tR"


LAUGHS = b")" + b"2\x86" * 60
"""The opcodes of a tuple of two tuples of two tuples ...: to print it takes 2^60 steps."""


def state_dict(**values: bytes) -> bytes:
    items = b"".join(pickled(name.replace("_", ".")) + value for name, value in values.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


def archive(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED, **members: bytes) -> str:
    """A torch zip of that data.pkl and the storage 0..11 as float32."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("net/data.pkl", data)
        file.writestr("net/data/0", np.arange(12, dtype=np.float32).tobytes())
        for name, content in members.items():
            file.writestr(f"net/{name}", content)
    return str(path)


def before_1_6(data: bytes, **storages: np.ndarray) -> bytes:
    """A file of torch's before 1.6: the state dict's pickle is `data`, spelled out."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    pickles = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps(system, 2), data]
    numbers = [len(array).to_bytes(8, "little") + array.tobytes() for array in storages.values()]
    return b"".join((*pickles, pickle.dumps(list(storages), 2), *numbers))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.pth"


class TestWrittenByTorch:
    @pytest.fixture
    def torch(self) -> Any:
        return pytest.importorskip("torch")

    def saved(self, torch: Any, path: Path, content: Any, **options: Any) -> str:
        torch.save(content, path, **options)
        return str(path)

    def test_names_and_layouts_of_a_network_shaped_as_torchvisions(self, torch: Any, path: Path) -> None:
        net = alexnet(torch, (2, 3, 4, 5, 6), 7, 8)
        arrays = read_torch(self.saved(torch, path, net.state_dict()))
        layers = [f"conv{i}" for i in range(1, 6)] + ["fc6", "fc7", "fc8"]
        assert list(arrays) == [f"{layer}/{part}" for layer in layers for part in ("weights", "biases")]
        for ours, theirs in zip(arrays.values(), net.state_dict().values(), strict=True):
            if theirs.ndim == 4:  # OIHW
                ours = ours.transpose(3, 2, 0, 1)
            np.testing.assert_array_equal(ours.T if theirs.ndim == 2 else ours, theirs.numpy())

    def test_batch_norm(self, torch: Any, path: Path) -> None:
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1, bias=False), torch.nn.BatchNorm2d(4))
        with torch.no_grad():
            for i, values in enumerate(net[1].state_dict().values()):
                values.fill_(i)
        arrays = read_torch(self.saved(torch, path, net.state_dict()))
        parts = ["1/gamma", "1/beta", "1/moving_mean", "1/moving_variance"]
        assert list(arrays) == ["0/weights", *parts]
        assert [arrays[part][0] for part in parts] == [0, 1, 2, 3]

    def test_logits_of_a_real_size_network(self, torch: Any, path: Path) -> None:
        """One tower loaded from torch's file, against torch: fails by 1 if fc6 is not reordered."""
        torch.manual_seed(0)
        theirs = alexnet(torch, (64, 192, 384, 256, 256), 4096, 1000).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                if parameter.ndim > 1:
                    parameter *= 6**0.5  # torch's own start, which gives logits of 0.01, becomes He et al.'s
        net = AlexNet(variant="one_tower")
        arrays = read_torch(self.saved(torch, path, theirs.state_dict()))
        assert arrays.kind == Kind("alexnet", "one_tower", "torch") == catalog.find("torchvision_alexnet").kind
        assert not weights.load(net, arrays).skipped

        x = np.random.default_rng(0).standard_normal((2, 224, 224, 3), np.float32)
        with torch.no_grad():
            expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(net(x).numpy(), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        "name", ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    )
    def test_types_stay(self, torch: Any, path: Path, name: str) -> None:
        values = torch.tensor([[0, 1, 2], [3, 100, 5]]).to(getattr(torch, name))
        array = read_torch(self.saved(torch, path, {"a": values}))["a"]
        assert array.dtype == name
        np.testing.assert_array_equal(array, values.numpy())

    def test_bfloat16_becomes_float32(self, torch: Any, path: Path) -> None:
        values = torch.tensor([1.0, -3.140625, 1e38, float("inf")]).to(torch.bfloat16)
        array = read_torch(self.saved(torch, path, {"a": values}))["a"]
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, values.float().numpy())

    def test_views_of_one_storage(self, torch: Any, path: Path) -> None:
        base = torch.arange(24.0).reshape(4, 6)
        views = {
            "base": base,
            "transposed": base.T,
            "inside": base[1:3, 2:5],
            "every_other": base[::2, 1::3],
            "stretched": base[:1, :1].expand(3, 2),
            "empty": base[4:],
            "scalar": base[2, 3],
            "channels_last": base.reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
            "conj": torch.zeros(0),
        }
        arrays = read_torch(self.saved(torch, path, views))
        assert list(arrays) == list(views)
        for name, view in views.items():
            assert arrays[name].shape == tuple(view.shape)
            np.testing.assert_array_equal(arrays[name], view.numpy())

    def test_parameters_and_a_plain_dict(self, torch: Any, path: Path) -> None:
        parameter = torch.nn.Parameter(torch.ones(2, 3), requires_grad=False)
        arrays = weights.read(self.saved(torch, path, {"a.weight": parameter}))
        np.testing.assert_array_equal(arrays["a/weights"], np.ones((3, 2)))

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_pickle_protocols(self, torch: Any, path: Path, protocol: int) -> None:
        net = torch.nn.Linear(2, 3)
        arrays = read_torch(self.saved(torch, path, net.state_dict(), pickle_protocol=protocol))
        np.testing.assert_array_equal(arrays["weights"], net.weight.detach().numpy().T)

    @pytest.mark.parametrize("protocol", [2, 4])
    def test_format_of_before_torch_1_6(self, torch: Any, path: Path, protocol: int) -> None:
        base = torch.arange(24.0).reshape(4, 6)
        views = {
            "base": base,
            "inside": base[1:3, 2:5],
            "half": torch.arange(3).to(torch.bfloat16),
            "empty": torch.zeros(0, dtype=torch.int64),
            "parameter": torch.nn.Parameter(torch.ones(2, 3)),
        }
        self.saved(torch, path, views, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
        assert is_torch(str(path))
        arrays = weights.read(str(path))
        assert list(arrays) == list(views)
        for name, view in views.items():
            np.testing.assert_array_equal(arrays[name], view.detach().float().numpy())

    def test_every_cut_of_the_old_format_is_refused(self, torch: Any, path: Path) -> None:
        content = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64)}
        self.saved(torch, path, content, _use_new_zipfile_serialization=False)
        whole = path.read_bytes()
        for size in range(32, len(whole)):
            path.write_bytes(whole[:size])
            with pytest.raises(UserError, match=r"net\.pth: refused, "):
                read_torch(str(path))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (lambda torch: {"epoch": 3, "a": torch.ones(2)}, r"holds a int at 'epoch'.*save net\.state_dict"),
            (lambda torch: [torch.ones(2)], r"holds no state dict; save net\.state_dict"),
            (lambda torch: {}, "holds no state dict"),
            (lambda torch: torch.nn.Linear(2, 2), "asks for 'torch.nn.modules.linear.Linear'"),
            (
                lambda torch: {"a": torch.ones(2, dtype=torch.complex64)},
                "asks for 'torch.ComplexFloatStorage'",
            ),
        ],
    )
    def test_anything_but_a_state_dict_is_refused(self, torch: Any, path: Path, content: Any, message: str) -> None:
        with pytest.raises(UserError, match=rf"net\.pth: refused, it {message}"):
            read_torch(self.saved(torch, path, content(torch)))


def alexnet(torch: Any, widths: tuple[int, ...], dense: int, classes: int) -> Any:
    """torchvision.models.alexnet, with its names (torchvision/models/alexnet.py)."""
    nn = torch.nn
    c1, c2, c3, c4, c5 = widths
    features = nn.Sequential(
        *(nn.Conv2d(3, c1, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(c5 * 36, dense), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(dense, dense), nn.ReLU()),
        nn.Linear(dense, classes),
    )
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier))


class TestSpelledOut:
    """Files that torch would not write, and torch is not needed to read."""

    def test_a_view(self, path: Path) -> None:
        array = read_torch(archive(path, state_dict(a=tensor((2, 2), (1, 4), 3))))["a"]
        np.testing.assert_array_equal(array, [[3, 7], [4, 8]])

    def test_big_endian(self, path: Path) -> None:
        data = state_dict(
            a=tensor((2,), (1,), key="big"),
            b=tensor((2,), (1,), key="half", storage=b"ctorch\nBFloat16Storage\n"),
        )
        numbers = {"data/big": np.array([1, 2.5], ">f4"), "data/half": np.array([0x3F80, 0x4020], ">u2")}
        members = {name: values.tobytes() for name, values in numbers.items()}
        arrays = read_torch(archive(path, data, byteorder=b"big", **members))
        for name in ("a", "b"):
            np.testing.assert_array_equal(arrays[name], [1, 2.5])

    @pytest.mark.parametrize(
        ("size", "stride", "offset"),
        [
            ((13,), (1,), 0),
            ((12,), (1,), 1),
            ((3, 4), (4, 2), 0),
            ((1,), (1,), 12),
            ((1,), (1,), -1),
            ((4,), (-1,), 8),
            ((-4,), (1,), 0),
            ((2, 3), (1,), 0),
            ((1,) * 9, (1,) * 9, 0),
            ((1 << 20, 1 << 20), (0, 0), 0),  # fits, and no memory holds a copy
            ((2**32 + 1,), (2**32,), 0),  # their product is 0 modulo 2**64
            ((np.int64(2**32 + 1), 1), (np.int64(2**32), 1), np.int64(0)),
            ((2,), (2**70,), 0),
            ((0,), (1,), 2**70),
            ((1.5,), ("x",), None),
        ],
    )
    def test_out_of_bounds_is_refused(self, path: Path, size: Any, stride: Any, offset: Any) -> None:
        with pytest.raises(UserError, match=r"net\.pth: refused, "):
            read_torch(archive(path, state_dict(a=tensor(size, stride, offset))))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"\x80\x02cos\nsystem\n(" + pickled("true") + b"tR.", "asks for 'os.system'"),
            (b"\x80\x02cbuiltins\neval\n(" + pickled("1") + b"tR.", "asks for 'builtins.eval'"),
            (b"\x80\x02ctorch\nload\n(" + pickled("x") + b"tR.", "asks for 'torch.load'"),
            (b"\x80\x02" + pickled("anything") + b"Q.", ""),
            (b"\x80\x02Panything\n.", ""),
            (state_dict(a=tensor((1,), (1,), storage=pickled("O"))), "asks for what is no storage"),
            (state_dict(a=tensor((1,), (1,), storage=pickled([1]))), "asks for what is no storage"),
            (state_dict(a=tensor((1,), (1,), key="9")), "lacks its member 'net/data/9'"),
            (state_dict(a=tensor((1,), (1,), key="../data.pkl")), "lacks its member"),
            (state_dict(a=tensor((1,), (1,), key="9" * 9999)), "lacks its member .{0,300}"),
            (b"\x80\x02" + LAUGHS + b"Q.", "is no sound pickle"),
            (state_dict(a=tensor((1,), (1,), storage=LAUGHS)), "asks for what is no storage"),
            (state_dict(a=LAUGHS), "holds a tuple at 'a'"),
            (state_dict(a=tensor((2,), (10**999,))), "a tensor of shape .{0,300}"),
            (
                b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
                + tensor((2,), (1,))
                + pickled(0)
                + pickled((1,)) * 2
                + b"tR.",
                "makes a tensor of what is no storage",
            ),
            (
                state_dict(a_weight=tensor((1,), (1,)), **{"a/gamma": tensor((1,), (1,))}),
                "holds 'a/gamma' twice",
            ),
            (b"\x80\x02]" + pickled({"x": 1}) + b"b.", "sets the state of a list"),
            (state_dict(a=tensor((1,), (1,)))[:-9], ""),
        ],
    )
    def test_hostile_pickles_are_refused(self, path: Path, data: bytes, message: str) -> None:
        with pytest.raises(UserError, match=rf"net\.pth: refused, .*{message}"):
            read_torch(archive(path, data))

    def test_references_are_refused_where_none_is_expected(self, path: Path) -> None:
        path.write_bytes(b"\x80\x02" + pickled("anything") + b"Q.")
        with pytest.raises(UserError, match="asks for something that is not in it"):
            weights.read(str(path))

    def test_damage_is_refused(self, path: Path) -> None:
        content = Path(archive(path, state_dict(a=tensor((12,), (1,))))).read_bytes()
        flipped = bytearray(content)
        flipped[content.index(np.float32(7).tobytes())] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(UserError, match="'net/data/0' is damaged"):
            read_torch(str(path))
        path.write_bytes(content[:-50])
        with pytest.raises(UserError, match=r"no sound zip archive.*is the file complete"):
            read_torch(str(path))

    def test_overlapping_members_are_refused(self, path: Path) -> None:
        """A bomb: a thousand names in the directory for the same bytes."""
        archive(path, state_dict(a=tensor((1,), (1,))), **{f"data/{i}": b"" for i in range(1, 9)})
        with zipfile.ZipFile(path, "a") as file:
            for info in file.infolist()[2:]:
                first = file.getinfo("net/data/0")
                info.header_offset, info.file_size = first.header_offset, first.file_size * 10
            file.writestr("comment", b"")  # for the directory to be written again
        with pytest.raises(UserError, match="its members overlap"):
            read_torch(str(path))

    def test_compressed_is_refused(self, path: Path) -> None:
        with pytest.raises(UserError, match="is compressed"):
            read_torch(archive(path, state_dict(a=tensor((12,), (1,))), zipfile.ZIP_DEFLATED))

    def test_npz_is_told_apart(self, tmp_path: Path) -> None:
        path = str(tmp_path / "w.npz")
        np.savez(path, **{"conv1/weights": np.ones(3)})
        assert not is_torch(path)
        assert list(weights.read(path)) == ["conv1/weights"]
        with pytest.raises(UserError, match=r"has no data\.pkl"):
            read_torch(path)


class TestCanonical:
    def test_reorders_rows(self) -> None:
        chw = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
        hwc = reorder_chw(chw.reshape(24, 5), 2, 3, 4).reshape(3, 4, 2, 5)
        np.testing.assert_array_equal(hwc, chw.transpose(1, 2, 0, 3))

    @pytest.mark.parametrize("shape", [(23, 5), (24,), (2, 3, 4)])
    def test_refuses_another_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(UserError, match="do not follow a map of 2×3×4"):
            reorder_chw(np.zeros(shape), 2, 3, 4)

    def test_renames_and_drops(self) -> None:
        names = [*(f"AlexNet_0/Conv_{i}/weights" for i in range(5)), "NetLinLayer_0/Conv_0/weights"]
        arrays = canonical({name: np.zeros((1, 1)) for name in names})
        assert list(arrays) == [f"conv{i}/weights" for i in range(1, 6)]

    def test_keeps_what_needs_no_renaming(self) -> None:
        arrays = {"conv1/weights": np.zeros(3), "scale": np.zeros(1)}
        assert list(canonical(arrays)) == list(arrays)
