"""What `barenets export` writes gives the probabilities of `barenets predict`: with TensorFlow alone, ONNX Runtime, or
as weights."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, nets, weights
from barenets.ops import Preprocessing, named_variables
from barenets.train import data, export, model
from barenets.train.blend import Blended
from barenets.train.cli import main
from barenets.train.data.pipeline import MOST_PIXELS, decode, decode_alone
from barenets.train.evaluate import predict
from tests.pictures import write_pictures
from tests.train import tiny

SAME = 1e-6
"""The same float32 operations, perhaps in other kernels; a probability is at most 1."""
PREPROCESSING = Preprocessing(crop=16, resize=20, channels="BGR", mean=(50.0, 60.0, 70.0), std=(9.0, 8.0, 7.0))


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nets.NETWORKS, "tiny", tiny.NETWORK)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """JPEGs of 40×40, and a PNG that is neither square nor of even sides."""
    folder = write_pictures(tmp_path_factory.mktemp("export"), 2)
    rng = np.random.default_rng(3)
    png = tf.io.encode_png(rng.integers(0, 256, (51, 23, 3), np.uint8))
    (folder / "above" / "odd.png").write_bytes(png.numpy())
    return sorted(map(str, folder.rglob("*.*g")))


def made(head: str | None) -> model.Model:
    """A network with its own classifier, with a head of one sigmoid unit, or with two classifiers that are blended."""
    classes = ("cat", "dög") if head else ("cat", "dög", "emu")
    options = {"features": 3} if head == "glu" else {}
    net = nets.build("tiny", num_classes=len(classes), head=head, head_options=options, seed=4)
    if head == "glu":
        net = Blended(net, next(iter(net.auxiliary)), 0.3)
    settings = {"train": "/home/me/secret", "net": "tiny", "variant": "tiny", "head": head, "head_options": options}
    return model.Model(net, classes, PREPROCESSING, settings)


@pytest.fixture(params=[None, *(pytest.param(head, marks=pytest.mark.slow) for head in ("dense", "glu"))])
def m(request: pytest.FixtureRequest, tiny_network: None) -> model.Model:
    return made(request.param)


def predicted(m: model.Model, paths: list[str]) -> list[dict[str, float]]:
    """Name -> probability, picture by picture, as `barenets predict` has them."""
    records = data.Records(tuple(paths), np.zeros(len(paths), np.int32), m.class_names, "--images")
    found = predict(m.net, data.Batches(records, m.preprocessing, 2), m.class_names, len(m.class_names))
    return [dict(zip(p.classes, p.probabilities, strict=True)) for p in found]


def test_saved_model(m: model.Model, pictures: list[str], tmp_path: Path) -> None:
    export.export(m, f"{tmp_path}/served/1/")
    assert [path.name for path in (tmp_path / "served").iterdir()] == ["1"]
    signatures = tf.saved_model.load(str(tmp_path / "served/1")).signatures
    encoded = [Path(path).read_bytes() for path in pictures]
    answers = [signatures["serving_default"](encoded=tf.constant(encoded))]
    for content in encoded:  # they have different sizes
        image = tf.cast(tf.io.decode_image(content)[None], tf.float32)
        answers.append(signatures["pictures"](pictures=image))
    first, rest = answers[0], {key: np.concatenate([a[key] for a in answers[1:]]) for key in answers[0]}
    expected = predicted(m, pictures)
    for answer in (first, rest):
        for row, theirs in enumerate(expected):
            names = [name.decode() for name in np.asarray(answer["names"])[row]]
            assert [m.class_names[i] for i in np.asarray(answer["classes"])[row]] == names
            assert names == list(theirs)  # the likeliest first
            np.testing.assert_allclose(np.asarray(answer["probabilities"])[row], list(theirs.values()), atol=SAME)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_weights_need_no_other_option(m: model.Model, ending: str, pictures: list[str], tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{i}.{ending}") for i in range(3)]
    export.export(m, paths[0])
    assert main(["convert", paths[0], paths[1]]) == 0
    again = model.from_weights(paths[1], None, None, None)
    export.export(again, paths[2])
    first, *others = (Path(path).read_bytes() for path in paths)
    assert others == [first, first]
    assert b"secret" not in first
    assert (again.class_names, again.preprocessing) == (m.class_names, m.preprocessing)
    assert predicted(again, pictures) == predicted(m, pictures)
    assert model.choose_network(paths[0], None, None) == ("tiny", "tiny")
    with pytest.raises(
        UserError, match=rf"{paths[0]}: has {len(m.class_names)} classes, not 7; leave out --num-classes"
    ):
        model.from_weights(paths[0], None, None, 7)


@pytest.mark.slow
def test_training_from_it_keeps_its_preprocessing(tmp_path: Path) -> None:
    m = made(None)
    path = str(tmp_path / "mine.npz")
    export.export(m, path)
    pictures = write_pictures(tmp_path / "pictures", 2)
    options = ["--epochs", "1", "--batch-size", "4", "--summary-every", "0", "--logdir", str(tmp_path / "run")]
    assert main(["finetune", "--weights", path, "--reinit", "fc3", "--train", str(pictures), *options]) == 0
    assert model.from_checkpoint(str(tmp_path / "run")).preprocessing == PREPROCESSING


DAMAGES = [{"class_names": 3}, {"preprocessing": {"crop": 16}}, {"preprocessing": None}, {"blend": 0.5}, {"size": "x"}]


def test_damaged_use(tmp_path: Path) -> None:
    """Is refused in one line that names the file, whatever it says."""
    m, path = made(None), str(tmp_path / "x.npz")
    arrays = {name: v.numpy() for name, v in named_variables(m.net).items()}
    for change in (*DAMAGES, {"class_names": None}, {"head": "none"}):
        weights.save(path, weights.Weights(arrays, use=model.use(m) | change))
        with pytest.raises(UserError, match=rf"^{path}: ") as refusal:
            model.from_weights(path, None, None, None)
        assert "\n" not in str(refusal.value)
    for text in (b"[", b"[]", b"{}", b'{"net": "tiny", "variant": 3}', b"[" * 100_000):
        weights.save(path, {**arrays, "use.json": np.frombuffer(text, np.uint8)})
        with pytest.raises(
            UserError, match=rf"{path}: refused, its use.json (is no JSON|names no network and variant)"
        ):
            weights.read(path)


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    m = made(None)
    source = str(tmp_path / "mine.npz")
    export.export(m, source)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    for target, message in [
        ("there", "there: is there already; choose another --out, or remove it"),
        ("mine.npz", "mine.npz: is there already"),
        ("file/served", "file/served: cannot be written ("),
        ("file/x.npz", "file/x.npz: cannot be written ("),
        ("x.onnx", "ONNX is written by tf2onnx: pip install 'barenets[onnx]'"),
    ]:
        assert main(["export", "--weights", source, "--out", str(tmp_path / target)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine.npz", "there"]
    with pytest.raises(ValueError, match="there is no format 'h5'; there are savedmodel, onnx"):
        export.export(m, str(tmp_path / "x"), "h5")


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(module: tf.Module, folder: str, signatures: dict) -> None:
        (Path(folder) / "saved_model.pb").write_bytes(b"half")
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(UserError, match=r"mine: cannot be written \(No space left on device\)"):
        export.export(made(None), str(tmp_path / "mine"))
    assert not list(tmp_path.iterdir())


def test_decode_alone(pictures: list[str]) -> None:
    """Gives what the pipeline's own decoder gives, in a graph without Python, and refuses what that refuses."""
    alone = tf.function(decode_alone, autograph=False, input_signature=[tf.TensorSpec([], tf.string)])
    operations = alone.get_concrete_function().graph.as_graph_def()
    assert not [node for f in operations.library.function for node in f.node_def if "Py" in node.op]
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    for content in (
        *(Path(path).read_bytes() for path in pictures),
        tf.io.encode_png(gray.repeat(4, 2)).numpy(),
        tf.io.encode_png(gray).numpy(),
        tf.io.encode_jpeg(gray).numpy(),
    ):
        np.testing.assert_array_equal(alone(content), decode(content))
    png = tf.io.encode_png(np.zeros((1, 1, 3), np.uint8)).numpy()

    def claims(width: int, height: int) -> bytes:
        return png[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + png[24:]

    for content, message in [
        (b"", "is neither a JPEG nor a PNG"),
        (b"\x89PNG\r\n\x1a\n", "."),
        (b"\xff\xd8\xff", "."),
        (tf.io.encode_jpeg(np.zeros((9, 9, 3), np.uint8)).numpy()[:-300], "."),
        (b"GIF89a" + bytes(50), "is neither"),
        (claims(20_000, 20_000), f"claims more than the {MOST_PIXELS:,} pixels"),
        (claims(2**31 - 1, 2**31 - 1), "claims more than"),
        (claims(2**32 - 1, 2**32 - 1), "."),
        (claims(10_000, 1), "has sides of which one is more than"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            alone(content)


ALONE = """
import json, sys
import tensorflow as tf
answers = {}
for folder in sys.argv[1:3]:
    served = tf.saved_model.load(folder).signatures["serving_default"]
    answer = served(encoded=tf.constant([open(path, "rb").read() for path in sys.argv[3:]]))
    names = [[name.decode() for name in row] for row in answer["names"].numpy()]
    answers[folder] = [dict(zip(*row)) for row in zip(names, answer["probabilities"].numpy().tolist())]
assert not [name for name in sys.modules if name.startswith("barenets")]
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_tensorflow_alone(tmp_path: Path, pictures: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """In a process that cannot import barenets: GoogLeNet, whose LRN XLA compiles here, and a trained blend."""
    folder = str(Path(pictures[0]).parents[1])
    trained = ["--net", "tiny", "--head", "glu", "--blend", "--train", folder, "--val", folder]
    trained += ["--epochs", "1", "--batch-size", "4", "--summary-every", "0"]
    run, googlenet = str(tmp_path / "run"), str(tmp_path / "googlenet.npz")
    assert main(["finetune", *trained, "--logdir", run]) == 0
    weights.save(googlenet, nets.build("googlenet", seed=1))
    sources = {"a": ["--weights", googlenet], "b": ["--checkpoint", run]}
    expected = {}
    for name, source in sources.items():
        assert main(["export", *source, "--out", str(tmp_path / name)]) == 0
        capsys.readouterr()
        assert main(["predict", *source, "--json", "--top", "1000", "--images", *pictures]) == 0
        found = json.loads(capsys.readouterr().out)["predictions"]
        expected[name] = [{c["class"]: c["probability"] for c in picture["classes"]} for picture in found]
    for graph in tmp_path.glob("?/saved_model.pb"):
        assert b"_XlaMustCompile" not in graph.read_bytes()
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path / "a"), str(tmp_path / "b"), *pictures]
    done = subprocess.run(command, cwd=tmp_path / "empty", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "custom gradients" not in done.stderr
    answers = json.loads(done.stdout)
    for name, rows in expected.items():
        for ours, theirs in zip(answers[str(tmp_path / name)], rows, strict=True):
            assert ours.keys() == theirs.keys()
            assert max(abs(ours[key] - theirs[key]) for key in theirs) < SAME


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "xception", "googlenet"])
def test_onnx(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime has kernels of its own, whose rounding adds up over the layers: 1e-5.

    A blend; a small network with batch norm; GoogLeNet, which has LRN.
    """
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.setitem(nets.NETWORKS, "xception", (tiny.TinyXception, ("keras",)))
    if name == "tiny":
        m = made("glu")
    elif name == "googlenet":
        m = model.from_scratch(name, None, None)
    else:
        m = replace(made(None), net=nets.build(name, num_classes=3, head="linear"))
        m.net.base.block14_bn.moving_mean.assign_add(np.linspace(0, 1, 8))
    path = str(tmp_path / "x.onnx")
    export.export(m, path)
    session = runtime.InferenceSession(path)
    about = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(about["class_names"])) == m.class_names
    assert Preprocessing(**json.loads(about["preprocessing"])) == m.preprocessing
    crops = np.random.default_rng(0).integers(0, 256, (2, *m.net.input_shape)).astype(np.float32)
    (found,) = session.run(["probabilities"], {"pictures": crops})
    expected = tf.nn.softmax(m.net(m.preprocessing.normalized(crops)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
