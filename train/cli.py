"""The command line: `barenets COMMAND`. Results go to stdout, progress and errors to stderr.

Exit status: 0 done, 1 ran and failed, 2 the user's mistake, 130 interrupted.
"""

import argparse
import contextlib
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

from barenets import UserError, __version__, printable

_DONE, _FAILED, _MISTAKE, _INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. There is no traceback for a user's mistake."""
    arguments = _parser().parse_args(argv)
    warnings.showwarning = lambda message, *rest: _complain(str(message))
    try:
        with _silent_start_up() as say:
            import tensorflow as tf

            if "devices" in arguments:
                arguments.devices = _devices(arguments, say)
            tf.config.list_logical_devices()  # where TensorFlow says most about the machine
        failures = (tf.errors.ResourceExhaustedError, MemoryError, ArithmeticError)
        try:
            return int(arguments.run(arguments))
        except failures as error:
            _complain(str(getattr(error, "message", error)))
            return _FAILED
    except UserError as error:
        _complain(str(error))
        return _MISTAKE
    except KeyboardInterrupt:
        _complain("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:  # `barenets predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _DONE


def _complain(text: str) -> None:
    print(f"barenets: {printable(text.splitlines()[0]) if text else 'out of memory'}", file=sys.stderr)


@contextlib.contextmanager
def _silent_start_up() -> Iterator[Callable[[str], object]]:
    """TensorFlow's notes on CUDA and CPU flags go nowhere; they come from C++, past sys.stderr.

    Gives what writes a line to stderr all the same.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield lambda text: os.write(kept, f"{text}\n".encode())
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"barenets: {message}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(_MISTAKE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="barenets",
        description="Classic ImageNet networks from TensorFlow primitives: load the weights people have, fine-tune "
        "on your own pictures, and see what every layer's gradient does.",
        epilog="A first run, with nothing at hand: barenets demo\n"
        "With your own pictures, one folder for each class:\n"
        "  barenets finetune --weights bvlc_alexnet.npy --train pictures/train --val pictures/val \\\n"
        "      --layers fc7 fc8 --reinit fc8 --logdir runs/mine\n"
        "  tensorboard --logdir runs/mine\n"
        "  barenets predict --checkpoint runs/mine --images new/*.jpg",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"barenets {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, run: Any, text: str, epilog: str = "", within: Any = commands) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = within.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    listing = command("list", _list, "name the networks, and the published weights and data sets that are known")
    listing.add_argument("--json", action="store_true", help="print one JSON object")

    fetching = command(
        "fetch",
        _fetch,
        "download published weights or data sets, or go on where a download was cut, and say where they are",
        "  barenets fetch torchvision_resnet50\n"
        "  barenets fetch mnist        # or fashion_mnist, cifar10, cifar100; then --train mnist:train\n\n"
        "They are kept in $BARENETS_CACHE, or ~/.cache/barenets. `barenets list` has all names. Those of weights can\n"
        "stand for a file after --weights, those of data sets for a folder after --train, --val and --data.",
    )
    fetching.add_argument("names", nargs="+", metavar="NAME", help="names of weights or data sets")
    fetching.add_argument("--http", action="store_true", help="also from servers that have no https")

    conversion = command(
        "convert",
        _convert,
        "write a weight file in another form, under this package's names and in its layout",
        "  barenets convert resnet50-0676ba61.pth resnet50.safetensors\n"
        "  barenets convert bvlc_alexnet.caffemodel bvlc_alexnet.npy\n\n"
        "The ending of OUT says which: .npz, .safetensors, or .npy of {layer: [W, b]}. Numbers stay as they are.",
    )
    conversion.add_argument("source", metavar="IN", help="a weight file, or a name in the catalog")
    conversion.add_argument("target", metavar="OUT", help="the file to write")

    _finetune_options(
        command(
            "finetune",
            _finetune,
            "train a network, or some of its layers, on your own pictures",
            "Three choices are apart: what is loaded (--weights, all of it), what starts afresh (--reinit) and what\n"
            "trains (--layers). A pattern is a layer (fc8), a variable (fc8/biases) or a glob (conv*, */biases).\n\n"
            "  barenets finetune --weights bvlc_alexnet.npy --train train.txt --val val.txt \\\n"
            "      --layers fc7 fc8 --reinit fc8 --logdir runs/mine\n"
            "  barenets finetune --resume --logdir runs/mine     # go on after Ctrl-C, or after a crash",
        )
    )

    from barenets.train.recipes import RECIPES

    recipe = command(
        "run",
        _run,
        "run one of the articles' experiments from beginning to end",
        f"The recipes: {', '.join(RECIPES)}.\n\n"
        "  barenets run vgg16_bottleneck --help     # what it does, and its options\n"
        "  barenets run vgg16_bottleneck --train pictures/train --val pictures/val --logdir runs/vgg16\n"
        "  barenets run vgg16_bottleneck --resume --logdir runs/vgg16\n\n"
        "Each is a script to read from top to bottom, in train/recipes.",
    )
    recipe.add_argument("name", metavar="NAME", choices=RECIPES, help="which")
    recipe.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="its options")

    evaluate = command(
        "evaluate",
        _evaluate,
        "measure how often a network is right on labelled pictures",
        "  barenets evaluate --checkpoint runs/mine                   # on the run's own validation pictures\n"
        "  barenets evaluate --weights bvlc_alexnet.npy --data val.txt",
    )
    _source_options(evaluate)
    evaluate.add_argument("--data", metavar="LIST_OR_FOLDER", help="labelled pictures; a run's own --val if not given")
    _picture_options(evaluate)

    predict = command(
        "predict",
        _predict,
        "name what is in pictures",
        "  barenets predict --checkpoint runs/mine --images new/ cat.jpg\n"
        "  find . -name '*.jpg' | barenets predict --weights bvlc_alexnet.npy --images -",
    )
    _source_options(predict)
    predict.add_argument(
        "--images",
        nargs="+",
        required=True,
        metavar="FILE_OR_FOLDER",
        help="pictures; - reads paths from stdin",
    )
    predict.add_argument("--top", type=_positive, default=5, metavar="N", help="how many classes to name (default 5)")
    _picture_options(predict)

    exporting = command(
        "export",
        _export,
        "write a network for other programs to run: a SavedModel, ONNX, or weights that need no other option",
        "  barenets export --checkpoint runs/mine --out served/1               # a SavedModel, for TensorFlow alone\n"
        "  barenets export --checkpoint runs/mine --out mine.safetensors       # for --weights, here and elsewhere\n"
        "  barenets export --weights resnet50.h5 --out resnet50.onnx           # needs barenets[onnx]\n\n"
        "Preparing pictures and naming classes are part of what is written; docs/export.md has inputs and outputs.",
    )
    _source_options(exporting)
    exporting.add_argument("--out", required=True, metavar="PATH", help="the folder or file to write")
    exporting.add_argument(
        "--format",
        choices=("savedmodel", "onnx", "npz", "safetensors"),
        help="default what --out ends in, or else savedmodel",
    )

    inspect = command(
        "inspect",
        _inspect,
        "show a network's layers, a weight file's content, or what of it would load where",
        "  barenets inspect resnet50 --batch-size 32\n"
        "  barenets inspect --net alexnet --variant one_tower\n"
        "  barenets inspect --weights bvlc_alexnet.npy\n"
        "  barenets inspect --net alexnet --weights bvlc_alexnet.npy --reinit fc8 --num-classes 2",
    )
    inspect.add_argument("network", nargs="?", metavar="NET", help="the same as --net NET")
    _source_options(inspect)
    inspect.add_argument("--size", type=_positive, metavar="N", help="side of the pictures (default the network's)")
    inspect.add_argument(
        "--batch-size",
        type=_positive,
        default=1,
        metavar="N",
        help="memory is that of all outputs in float32 for so many pictures (default 1)",
    )
    inspect.add_argument("--reinit", nargs="+", default=[], metavar="PATTERN", help="layers that are not to be loaded")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")

    gradients = command(
        "gradients",
        _gradients,
        "show what a step of training would do to each layer, without doing it",
        "  barenets gradients --checkpoint runs/mine --data pictures/val --out gradients\n"
        "  barenets gradients --weights resnet50.h5 --images pictures/ --out gradients\n"
        "  barenets gradients --net vgg16 --images pictures/ --out gradients     # from random numbers\n\n"
        "Gradients, activations and what comes back to them, which pictures pull hardest, and what is wrong, as a\n"
        "table, report.json, report.html, PNGs and TensorBoard's files in --out. Without labels a picture counts as\n"
        "what the network takes it for. Nothing is trained.",
    )
    _source_options(gradients)
    looked_at = gradients.add_mutually_exclusive_group(required=True)
    looked_at.add_argument("--data", metavar="LIST_OR_FOLDER", help="labelled pictures")
    looked_at.add_argument(
        "--images", nargs="+", metavar="FILE_OR_FOLDER", help="pictures; ImageNet's own have their label in the name"
    )
    gradients.add_argument(
        "--layers", nargs="+", default=[], metavar="PATTERN", help="what trains (default everything)"
    )
    gradients.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="default 8")
    gradients.add_argument(
        "--batches", type=_seed, default=2, metavar="N", help="of pictures from all over the set; 0 for all (default 2)"
    )
    gradients.add_argument(
        "--learning-rate", type=float, default=0.001, metavar="X", help="of the steps, by plain SGD (default 0.001)"
    )
    gradients.add_argument("--seed", type=_seed, default=0, metavar="N", help="of dropout (default 0)")
    gradients.add_argument("--out", default="gradients", metavar="DIR", help="where files go (default gradients)")
    gradients.add_argument("--json", action="store_true", help="print one JSON object, as report.json has it")

    explanation = command(
        "explain",
        _explain,
        "draw why a network takes pictures for what it does, and what its channels see",
        "  barenets explain --checkpoint runs/mine --images cat.jpg dog.jpg --out explained\n"
        "  barenets explain --checkpoint runs/mine --images cat.jpg --method saliency occlusion --class dog\n"
        "  barenets explain --checkpoint runs/mine --images pictures/ --filters conv1 --features pool2 \\\n"
        "      --top-pictures relu5\n\n"
        "Methods: saliency, smooth_grad, integrated_gradients, guided (backpropagation), grad_cam, occlusion. PNGs\n"
        "and TensorBoard's files go to --out.",
    )
    _source_options(explanation)
    explanation.add_argument("--images", nargs="+", required=True, metavar="FILE_OR_FOLDER", help="pictures")
    explanation.add_argument("--method", nargs="+", metavar="NAME", help="default saliency grad_cam")
    explanation.add_argument("--class", dest="of", metavar="NAME_OR_NUMBER", help="default each picture's likeliest")
    explanation.add_argument("--layer", metavar="NAME", help="the map of grad_cam (default the last)")
    explanation.add_argument("--filters", metavar="LAYER", help="draw this layer's kernels")
    explanation.add_argument("--features", metavar="LAYER", help="draw this layer's map of the first picture")
    explanation.add_argument(
        "--top-pictures",
        metavar="LAYER",
        help="draw the pictures that move each of this layer's --channels most, and outline what of them does",
    )
    explanation.add_argument(
        "--channels", nargs="+", type=_seed, default=[*range(8)], metavar="N", help="default 0 to 7"
    )
    explanation.add_argument("--count", type=_positive, default=16, metavar="N", help="pictures explained (default 16)")
    explanation.add_argument("--out", default="explained", metavar="DIR", help="where files go (default explained)")
    comparing = command(
        "compare",
        _compare,
        "run the same pictures through two networks and name the first layer whose activations differ",
        "  barenets compare theirs.npz resnet50.h5         # another engine's activations: see docs/porting.md\n"
        "  barenets compare resnet50.h5 resnet50.pth --images pictures/\n"
        "  barenets compare alexnet:alexnet alexnet:caffenet --weights bvlc_alexnet.npy --images pictures/\n\n"
        "A and B are each a dump (an .npz of activations by name), a weight file, a name in the catalog, a run's\n"
        "log folder, or NET:VARIANT, with the numbers of --weights, if any. Where one is a dump with an `input`, the\n"
        "other is given that, and needs no --images. Layers come in B's order. Exit status 1 if any differs.",
    )
    comparing.add_argument("first", metavar="A", help="what to compare with, another engine's dump perhaps")
    comparing.add_argument("second", metavar="B", help="the network that is asked about")
    comparing.add_argument("--images", nargs="+", metavar="FILE_OR_FOLDER", help="pictures")
    comparing.add_argument("--count", type=_positive, default=2, metavar="N", help="of pictures (default 2)")
    comparing.add_argument(
        "--map",
        nargs="+",
        default=[],
        type=_renamed,
        metavar="A=B",
        help="layers that have another name in A than in B",
    )
    comparing.add_argument(
        "--tolerance", type=float, default=1e-4, metavar="X", help="of a layer's largest magnitude (default 0.0001)"
    )
    comparing.add_argument("--save", metavar="FILE.npz", help="write B's activations, for another engine to compare")
    comparing.add_argument("--weights", metavar="FILE_OR_NAME", help="whose numbers NET:VARIANT gets; else random ones")
    comparing.add_argument("--net", metavar="NAME", help="default the one that the weights are for")
    comparing.add_argument("--variant", metavar="V", help="default the one that the weights are known to be for")
    comparing.add_argument("--num-classes", type=_positive, metavar="N", help="default as many as the weights have")
    comparing.add_argument("--json", action="store_true", help="print one JSON object")

    parts = command("data", None, "look after a data set").add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    )
    check = command(
        "check",
        _check,
        "find what is wrong with a data set: unreadable pictures, wrong labels, duplicates, leaks",
        "  barenets data check train.txt val.txt\n\nExit status 1 if something was found.",
        within=parts,
    )
    check.add_argument("sources", nargs="+", metavar="LIST_OR_FOLDER", help="one for each split, training first")
    check.add_argument("--json", action="store_true", help="print one JSON object")

    splitting = command(
        "split",
        _split,
        "divide a data set, each class in the same proportion, into lists that can be looked at",
        "  barenets data split pictures --fractions 0.9 0.1 --out lists            # lists/train.txt, lists/val.txt\n"
        "  barenets data split mnist:train --fractions 0.7 0.15 0.15 --out lists   # and lists/test.txt\n\n"
        "The pictures stay where they are. The lists have class numbers; labels.txt beside them names the classes.",
        within=parts,
    )
    splitting.add_argument("source", metavar="SOURCE", help="a data set: list, folder, ...")
    splitting.add_argument(
        "--fractions", nargs="+", type=float, default=[0.9, 0.1], metavar="X", help="two or three (default 0.9 0.1)"
    )
    splitting.add_argument("--out", required=True, metavar="DIR", help="where the lists go")
    splitting.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="what is drawn follows from it (default 0)"
    )

    packing = command(
        "pack",
        _pack,
        "write a data set as TFRecord shards, under slim's names of the features",
        "  barenets data pack pictures/train packed --shards 8 --seed 0\n"
        "  barenets data pack pictures/val packed\n"
        "  barenets finetune --train packed:train --val packed:val ...\n\n"
        "Files are copied byte for byte. labels.txt in OUT_DIR names the classes, of all sets in it.",
        within=parts,
    )
    packing.add_argument("source", metavar="SOURCE", help="a data set: list, folder, ...")
    packing.add_argument("out", metavar="OUT_DIR", help="where the shards go")
    packing.add_argument(
        "--name", metavar="NAME", help="of the set: OUT_DIR/NAME-00000-of-... (default as SOURCE is called)"
    )
    packing.add_argument("--shards", type=_positive, default=1, metavar="N", help="number of files (default 1)")
    packing.add_argument("--seed", type=_seed, metavar="N", help="shuffle, by this seed (default: the order of SOURCE)")

    previewing = command(
        "preview",
        _preview,
        "draw pictures before and after augmentation",
        "  barenets data preview pictures/train --augment vgg16_preview --out preview.png\n"
        "  barenets data preview pictures/train --augment 'RandomCrop(), Flip(), Rotate(15)' --count 1 --times 16\n\n"
        "With --save-dir each picture is written to a file of its own, too. Pictures, and the numbers drawn for each,\n"
        "are those of a run with the same --seed and --sampler shuffled. The frame is SIZE of 8/7 SIZE pixels, 224 of\n"
        "256, whatever that run's weights want.",
        within=parts,
    )
    previewing.add_argument("source", metavar="SOURCE", help="a data set: list, folder, ...")
    previewing.add_argument("--augment", default="standard", metavar="POLICY", help="name or steps (default standard)")
    previewing.add_argument("--out", default="preview.png", metavar="PATH", help="default preview.png")
    previewing.add_argument("--save-dir", metavar="DIR", help="where single files go; none if not given")
    previewing.add_argument("--count", type=_positive, default=16, metavar="N", help="of pictures (default 16)")
    previewing.add_argument("--times", type=_positive, default=1, metavar="N", help="epochs of each (default 1)")
    previewing.add_argument("--size", type=_side, default=224, metavar="N", help="side in pixels (default 224)")
    previewing.add_argument("--epoch", type=_seed, default=0, metavar="N", help="the first epoch (default 0)")
    previewing.add_argument("--seed", type=_seed, default=0, metavar="N", help="as of the run (default 0)")

    demo = command(
        "demo",
        _demo,
        "see the main job at work in a few minutes, with nothing but this package",
        "Trains on patterns that it draws itself, or on your pictures, from scratch or from weights.\n\n"
        "  barenets demo                                              # nothing is downloaded\n"
        "  barenets demo --real                                       # fetches ImageNet weights\n"
        "  barenets demo --weights bvlc_alexnet.npy --train pictures/train --val pictures/val",
    )
    demo.add_argument("--weights", metavar="FILE_OR_NAME", help="weights to start from; scratch if not given")
    demo.add_argument("--real", action="store_true", help="fetch real weights, whichever can be had, to start from")
    demo.add_argument("--train", metavar="LIST_OR_FOLDER", help="your own pictures instead of drawn ones")
    demo.add_argument("--val", metavar="LIST_OR_FOLDER", help="pictures to validate on, where --train is given")
    demo.add_argument(
        "--logdir",
        default="runs/demo",
        metavar="DIR",
        help="where all goes (default runs/demo); where a run is already, DIR-2, DIR-3, ... is taken",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _side(text: str) -> int:
    from barenets.train.settings import LARGEST

    if not 1 <= (number := int(text)) <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be from 1 to {LARGEST}, got {number}")
    return number


def _device_count(text: str) -> int:
    return 0 if text == "all" else _positive(text)


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {number}")
    return number


def _source_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which network")
    group.add_argument("--checkpoint", metavar="DIR", help="a run's log folder, or one of its checkpoint files")
    group.add_argument("--weights", metavar="FILE_OR_NAME", help="a weight file, or a name in the catalog")
    group.add_argument("--net", metavar="NAME", help="default the one that the weights are for")
    group.add_argument("--variant", metavar="V", help="default the one that the weights are known to be for")
    group.add_argument("--num-classes", type=_positive, metavar="N", help="default as many as the weights have")


def _picture_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="default 32")
    parser.add_argument(
        "--ten-crop",
        action="store_true",
        help="average over ten crops of each picture, as AlexNet's paper does: corners, middle, mirror images; "
        "--batch-size then counts crops",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="what layers compute in (default float32)",
    )
    parser.add_argument("--xla", action="store_true", help="compile the network")
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="at a picture that cannot be read (default stop)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _finetune_options(parser: argparse.ArgumentParser) -> None:
    # Options that are not given are left to Settings, which has the defaults, and to --resume, which has its own.
    def option(group: Any, name: str, text: str, **more: Any) -> None:
        group.add_argument(name, default=argparse.SUPPRESS, help=text, **more)

    run = parser.add_argument_group("the run")
    option(run, "--logdir", "where checkpoints and TensorBoard's files go (default runs/finetune)", metavar="DIR")
    run.add_argument("--resume", action="store_true", help="go on with the run in --logdir; needs no other option")
    option(run, "--seed", "everything random follows from it (default 0)", type=int, metavar="N")
    option(run, "--checkpoint-every", "checkpoint each N steps too, not only each epoch", type=int, metavar="N")
    option(run, "--keep", "how many checkpoints to keep besides the best (default 2)", type=int, metavar="N")
    option(run, "--summary-every", "steps between histograms; 0 for none (default 1)", type=int, metavar="N")
    option(
        run,
        "--report-every",
        "steps between looks inside every layer (activations, their gradients, dead channels), for report.html and "
        "TensorBoard; 0 for none (default 0)",
        type=int,
        metavar="N",
    )
    option(run, "--exact-histograms", "count large tensors whole, not a sample", action="store_true")
    option(run, "--eager", "run each step line by line, for a debugger to step through; slow", action="store_true")
    option(
        run,
        "--precision",
        "what layers compute in: float32, bfloat16 or float16; variables stay float32 (default float32)",
        metavar="TYPE",
    )
    option(run, "--xla", "compile the network, forwards and backwards", action="store_true")
    run.add_argument("--json", action="store_true", help="print one JSON object at the end")

    devices = parser.add_argument_group("the devices; none of these is kept, a run can go on with others")
    devices.add_argument(
        "--devices",
        help="how many GPUs, or, without any, parts of the processor, share each batch; all: every GPU (default 1)",
        type=_device_count,
        metavar="N",
    )
    devices.add_argument(
        "--workers",
        help="addresses of the machines that share each batch, the same on each; the first one writes all files, and "
        "--logdir and the pictures are there for all (default: what TF_CONFIG names)",
        metavar="HOST:PORT,...",
    )
    devices.add_argument("--worker", help="which of --workers this is, from 0", type=int, metavar="N")

    data = parser.add_argument_group("the pictures")
    option(data, "--train", "label list or folder of class folders", metavar="LIST_OR_FOLDER")
    option(data, "--val", "pictures to validate on after each epoch", metavar="LIST_OR_FOLDER")
    option(data, "--class-names", "names of classes 0, 1, ... of a list of numbers", nargs="+", metavar="NAME")
    option(data, "--on-error", "at a picture that cannot be read (default stop)", choices=("stop", "skip"))
    option(
        data,
        "--augment",
        "what is done to pictures at random: a policy's name (standard, none, ...) or steps, 'RandomCrop(), Flip(), "
        "Mixup(0.2)' (default standard: random crop and flip)",
        metavar="POLICY",
    )
    option(data, "--no-augment", "the same as --augment none", action="store_const", const="none", dest="augment")
    option(
        data,
        "--sampler",
        "shuffled, weighted (each class as often), or paired:K: K classes a step and two pictures of each, so that "
        "--batch-size is a multiple of 2K (default shuffled)",
        metavar="S",
    )

    net = parser.add_argument_group("the network")
    option(
        net,
        "--weights",
        "weight file or name in the catalog; from scratch if not given",
        metavar="FILE_OR_NAME",
    )
    option(net, "--net", "default the one that the weights are for, or alexnet", metavar="NAME")
    option(net, "--variant", "default the one that the weights are known to be for", metavar="V")
    option(
        net,
        "--head",
        "a new classifier on the last map, instead of the network's own: linear, dense or glu; layers are then called "
        "base/... and head/..., and --weights are for the base",
        metavar="NAME",
    )
    option(
        net,
        "--head-options",
        "such as width=128 of dense, features=64 of glu",
        nargs="+",
        type=_option,
        metavar="NAME=X",
    )
    option(net, "--size", "side of the pictures, if not the network's usual", type=int, metavar="N")
    option(net, "--layers", "what trains (default everything)", nargs="+", metavar="PATTERN")
    option(net, "--reinit", "what starts afresh instead of being loaded", nargs="+", metavar="PATTERN")
    option(net, "--dropout", "fraction dropped (default: as in the network's paper)", type=float, metavar="RATE")

    learn = parser.add_argument_group("learning")
    option(learn, "--epochs", "default 10", type=int, metavar="N")
    option(learn, "--batch-size", "default 64", type=int, metavar="N")
    option(learn, "--optimizer", "sgd, adam or rmsprop (default sgd)", metavar="NAME")
    option(learn, "--learning-rate", "default 0.001", type=float, metavar="X")
    option(learn, "--momentum", "of sgd (default 0.9)", type=float, metavar="X")
    option(learn, "--nesterov", "Nesterov's momentum", action="store_true")
    option(learn, "--weight-decay", "of kernels, not biases (default 0.0005)", type=float, metavar="X")
    option(learn, "--schedule", "constant, step or cosine (default constant)", metavar="NAME")
    option(learn, "--decay-every", "epochs after which step divides the rate by ten", type=int, metavar="N")
    option(learn, "--warm-up", "steps over which the rate rises at the start", type=int, metavar="N")
    option(
        learn,
        "--rates",
        "multipliers of the learning rate, the first that fits counts: fc8=10 '*/biases=2'",
        nargs="+",
        type=_rate,
        metavar="PATTERN=X",
    )
    option(
        learn,
        "--rate-decay",
        "how much slower each layer trains than the one above it, as a factor (default 1)",
        type=float,
        metavar="X",
    )
    option(learn, "--clip-norm", "largest norm of all gradients together", type=float, metavar="X")
    option(learn, "--label-smoothing", "default 0", type=float, metavar="X")
    option(
        learn,
        "--class-weights",
        "how much pictures of a class count: balanced, or dog=2 cat=1 (default 1 each)",
        nargs="+",
        metavar="CLASS=X",
    )
    option(learn, "--accumulate", "cut each batch into N pieces, one in memory at a time", type=int, metavar="N")
    option(learn, "--average", "validate and keep averages that follow with this decay, 0.999", type=float, metavar="X")
    option(
        learn, "--patience", "end after N epochs without a better validation (default: never)", type=int, metavar="N"
    )
    option(learn, "--keep-best", "the next stage goes on from what validated best", action="store_true")
    option(
        learn,
        "--bottleneck",
        "run the frozen base once, keep its maps on disk and train the --head on them; with --augment none",
        action="store_true",
    )
    option(learn, "--features", "where they are kept, for several runs (default in --logdir)", metavar="DIR")
    option(
        learn,
        "--blend",
        "classify by both classifiers of a glu head, in the proportion that validates best",
        action="store_true",
    )
    option(
        learn,
        "--stage",
        "once for each stage, in order: the options that it has of its own, --stage '--layers fc8 --epochs 2'",
        action="append",
        dest="stages",
        metavar="'OPTIONS'",
    )


def _rate(text: str) -> tuple[str, float]:
    pattern, _, factor = text.rpartition("=")
    try:
        return pattern, float(factor)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected PATTERN=NUMBER, got {text!r}") from None


def _renamed(text: str) -> tuple[str, str]:
    theirs, _, ours = text.partition("=")
    if not (theirs and ours):
        raise argparse.ArgumentTypeError(f"expected NAME_IN_A=NAME_IN_B, got {text!r}")
    return theirs, ours


def _option(text: str) -> tuple[str, bool | int | float]:
    name, _, value = text.rpartition("=")
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return name, kind(value)
    try:
        return name, _flag(value)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER, NAME=True or NAME=False, got {text!r}") from None


def _list(arguments: argparse.Namespace) -> int:
    from barenets import nets
    from barenets.ops import aligned
    from barenets.train.data import published
    from barenets.weights import catalog

    networks = {name: nets.variants(name) for name in nets.NETWORKS}
    if arguments.json:
        entries = [entry.to_json() for entry in catalog.ENTRIES]
        sets = {name: [asdict(file) for file in published.files(name)] for name in published.NAMES}
        print(json.dumps({"networks": networks, "weights": entries, "data": sets}))
        return _DONE
    print(
        aligned([("network", "variants, the default first"), *((n, ", ".join(v)) for n, v in networks.items())], left=2)
    )
    print()
    rows: list[tuple[str, ...]] = [("weights", "network", "variant", "MB", "top-1", "top-5", "licence")]
    for entry in catalog.ENTRIES:
        size = f"{entry.size / 1e6:.0f}" if entry.size else "?"
        accuracy = (f"{share:.1f}" if share else "?" for share in (entry.top1, entry.top5))
        rows.append((entry.name, entry.net, entry.variant, size, *accuracy, entry.licence))
    print(aligned(rows, left=3))
    print()
    sizes = ((name, f"{sum(file.size for file in published.files(name)) / 1e6:.0f}") for name in published.NAMES)
    print(aligned([("data set", "MB"), *sizes]))
    return _DONE


def _fetch(arguments: argparse.Namespace) -> int:
    from barenets.train.data import published
    from barenets.weights import fetch

    for name in arguments.names:
        of_data = name in published.NAMES
        allowed = {"say": _complain, "http": arguments.http}
        paths = published.obtain(name, **allowed) if of_data else [fetch.fetch(name, **allowed)]
        print(*paths, sep="\n", flush=True)
    return _DONE


def _convert(arguments: argparse.Namespace) -> int:
    from barenets import weights

    arrays = weights.read(arguments.source)
    weights.save(arguments.target, arrays)
    what = f"{arrays.kind}: " if arrays.kind else ""
    print(f"{arguments.target}: {what}{len(arrays)} arrays, {sum(a.size for a in arrays.values()):,} values")
    return _DONE


def _finetune(arguments: argparse.Namespace) -> int:
    from barenets.train import finetune, model
    from barenets.train.lock import locked
    from barenets.train.progress import Progress

    devices = arguments.devices
    given, progress = _settings(arguments), Progress(quiet=arguments.json or not devices.chief)
    logdir = given.get("logdir", finetune.Settings.logdir)
    if arguments.resume:
        if others := [f"--{key.replace('_', '-')}" for key in given if key != "logdir"]:
            raise UserError(f"--resume goes on with the run as it was started; leave out {', '.join(others)}")
    else:
        if "train" not in given:
            raise UserError("name the pictures to train on: --train LIST_OR_FOLDER")
        given["net"], given["variant"] = model.choose_network(*map(given.get, ("weights", "net", "variant")))
    with devices.together(), locked(logdir) if devices.chief else contextlib.nullcontext():
        if arguments.resume:
            run = finetune.resume(logdir, progress, devices)
        else:
            run = finetune.start(finetune.Settings(**given), progress, devices)
        return _train(run, progress, arguments.json)


def _devices(arguments: argparse.Namespace, say: Callable[[str], object]) -> Any:
    """Those that --devices, --workers or TF_CONFIG name; before TensorFlow is at work. `say` shows a line."""
    from barenets.train import distribute

    if arguments.workers:
        if arguments.worker is None or arguments.devices is not None:
            raise UserError("--workers wants --worker N, which of them this is, and takes all devices of each machine")
        return distribute.of_workers(arguments.workers.split(","), arguments.worker, say)
    if arguments.worker is not None:
        raise UserError("--worker says which of --workers HOST:PORT,... this is; name them all, the same on each")
    if arguments.devices is not None:
        return distribute.local(arguments.devices or None)
    return distribute.of_environment(say)


_NOT_SETTINGS = ("run", "resume", "json", "devices", "workers", "worker")


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of the options of `finetune` that were given, as `train.settings.Settings` has them."""
    given = {key: value for key, value in vars(arguments).items() if key not in _NOT_SETTINGS}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    for name in ("rates", "head_options"):
        if name in given:
            given[name] = dict(given[name])
    if weights := given.get("class_weights"):
        try:
            given["class_weights"] = "balanced" if weights == ("balanced",) else dict(map(_rate, weights))
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--class-weights: {error}, or balanced") from None
    if "stages" in given:
        given["stages"] = tuple(map(_stage, given["stages"]))
    return given


def _stage(text: str) -> dict[str, Any]:
    """What the options in `text` say. Raises UserError for one that a stage cannot have of its own."""
    parser = _Parser(prog="barenets finetune")
    _finetune_options(parser)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--stage {text!r}: {error}") from None
    arguments = parser.parse_args(words)
    run_wide = map(vars(arguments).get, _NOT_SETTINGS)
    if any(value is not None and value is not False for value in run_wide):
        raise UserError(f"--stage {text!r}: --resume, --json and the devices are for the whole run")
    return _settings(arguments)


def _run(arguments: argparse.Namespace) -> int:
    import dataclasses

    from barenets.train.progress import Progress
    from barenets.train.recipes import recipe

    module = recipe.load(arguments.name)
    parser = _Parser(
        prog=f"barenets run {arguments.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--resume", action="store_true", default=False, help="go on with the recipe in --logdir")
    parser.add_argument("--json", action="store_true", default=False, help="print one JSON object at the end")
    for field in sorted(dataclasses.fields(module.Settings), key=lambda field: bool(field.kw_only)):  # its own first
        text, default = field.metadata["help"], field.default
        options: dict[str, Any] = {"type": next((k for word, k in _KINDS.items() if word in str(field.type)), str)}
        if isinstance(default, tuple):
            options["nargs"] = "+"
        if default not in (None, dataclasses.MISSING):
            text += f" (default {' '.join(default) if isinstance(default, tuple) else default})"
        parser.add_argument(f"--{field.name.replace('_', '-')}", help=text, metavar="X", **options)
    given = vars(parser.parse_args(arguments.options))
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    resume, as_json = given.pop("resume"), given.pop("json")
    report = recipe.run(arguments.name, given, resume, Progress(quiet=as_json))
    print(json.dumps(report.to_json()) if as_json else report)
    return _INTERRUPTED if report.interrupted else _DONE


def _flag(text: str) -> bool:
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"must be True or False, got {text!r}")
    return text == "True"


_KINDS: dict[str, Any] = {"bool": _flag, "int": int, "float": float}
"""What an option's text becomes, by the type of the setting."""


def _train(run: Any, progress: Any, as_json: bool) -> int:
    """Trains with progress on stderr; the result on stdout."""
    from barenets.train import finetune

    progress.say(run.describe())
    if run.devices.replicas > 1:
        progress.say(run.devices.describe())
    result = finetune.train(run, progress)
    if run.devices.chief:
        print(json.dumps(result.to_json()) if as_json else result)
    return _INTERRUPTED if result.interrupted else _DONE


def _model(arguments: argparse.Namespace, scratch: bool = False) -> Any:
    from barenets.train import model

    if scratch and arguments.net and not (arguments.checkpoint or arguments.weights):
        return model.from_scratch(arguments.net, arguments.variant, arguments.num_classes)
    if (arguments.checkpoint is None) == (arguments.weights is None):
        raise UserError("say which network: either --checkpoint DIR, of a run of yours, or --weights FILE")
    if arguments.checkpoint:
        return model.from_checkpoint(arguments.checkpoint)
    return model.from_weights(arguments.weights, arguments.net, arguments.variant, arguments.num_classes)


def _to_judge(arguments: argparse.Namespace, model: Any, records: Any) -> tuple[Any, Any]:
    """The network and the batches that _picture_options ask for."""
    from barenets.train import data
    from barenets.train.evaluate import TenCropped
    from barenets.train.precision import InPrecision

    ten = arguments.ten_crop
    size = -(-arguments.batch_size // 10) if ten else arguments.batch_size  # the network sees about as many pieces
    batches = data.Batches(records, model.preprocessing, size, ten_crop=ten, on_error=arguments.on_error)
    net = InPrecision(model.net, arguments.precision)
    return TenCropped(net) if ten else net, batches


def _evaluate(arguments: argparse.Namespace) -> int:
    from barenets.train import data
    from barenets.train.evaluate import evaluate
    from barenets.train.progress import Progress

    model = _model(arguments)
    source = arguments.data or model.settings.get("val")
    if source is None:
        raise UserError("name the labelled pictures to evaluate on: --data LIST_OR_FOLDER")
    records = data.read(source, model.class_names)
    net, batches = _to_judge(arguments, model, records)
    with Progress(quiet=arguments.json).pictures("evaluate", len(records)) as advance:
        result = evaluate(net, batches, advance, xla=arguments.xla)
    print(json.dumps(result.to_json()) if arguments.json else result)
    return _DONE


def _predict(arguments: argparse.Namespace) -> int:

    from barenets.train import data
    from barenets.train.evaluate import predict

    listed = [line.strip() for line in sys.stdin if line.strip()] if arguments.images == ["-"] else arguments.images
    paths = tuple(data.read_paths(listed))
    model = _model(arguments)
    records = _unlabelled(paths, model.class_names)
    net, batches = _to_judge(arguments, model, records)
    predictions = []
    for prediction in predict(net, batches, model.class_names, arguments.top, xla=arguments.xla):
        likely = list(zip(prediction.classes, prediction.probabilities, strict=True))
        if arguments.json:
            classes = [{"class": name, "probability": share} for name, share in likely]
            predictions.append({"path": prediction.path, "classes": classes})
        else:
            print(printable(prediction.path))
            for name, share in likely:
                print(f"  {share:7.2%}  {name}")
            sys.stdout.flush()
    if arguments.json:
        print(json.dumps({"predictions": predictions, "skipped": batches.skipped}))
    for path, reason in batches.skipped.items():
        _complain(f"{path}: not read ({reason})")
    return _DONE


def _export(arguments: argparse.Namespace) -> int:
    from barenets.train import export

    model = _model(arguments)
    export.export(model, arguments.out, arguments.format)
    form = arguments.format or export.format_of(arguments.out)
    print(f"{arguments.out}: {form} of {model.settings['net']} {model.settings['variant']}, ", end="")
    print(f"{len(model.class_names)} classes, pictures cropped to {model.preprocessing.crop} pixels")
    return _DONE


def _inspect(arguments: argparse.Namespace) -> int:
    from barenets import nets, weights
    from barenets.ops import aligned, layer_table
    from barenets.train import checkpoints, model

    if arguments.network and arguments.net not in (None, arguments.network):
        raise UserError(f"{arguments.network} and --net {arguments.net} are two networks; name one")
    arguments.net = arguments.network or arguments.net
    arrays: weights.Weights | dict[str, Any]
    if arguments.checkpoint:
        checkpoint = checkpoints.best(arguments.checkpoint)
        arrays, title = checkpoint.judged, f"{checkpoint.path}: step {checkpoint.state['step']}"
    elif arguments.weights:
        arrays, title = weights.read(arguments.weights), arguments.weights
    if arguments.net or not (arguments.checkpoint or arguments.weights):
        name, variant = model.choose_network(arguments.weights, arguments.net, arguments.variant)
        net = nets.build(name, num_classes=arguments.num_classes or 1000, variant=variant, size=arguments.size)
        if not (arguments.checkpoint or arguments.weights):
            table, batch = layer_table(net), arguments.batch_size
            rows = [vars(layer) | {"memory": batch * layer.memory} for layer in table]
            total = {"parameters": table.parameters, "multiply_adds": table.multiply_adds}
            total["memory"] = batch * table.memory
            content = {"net": name, "variant": variant, "batch_size": batch, "layers": rows, "total": total}
            print(json.dumps(content) if arguments.json else table.text(batch))
            return _DONE
        report = weights.plan(net, arrays, arguments.reinit, title)
        rows = [{"name": n, "shape": shape, "what": what} for n, shape, what in report.rows]
        print(json.dumps({"net": name, "variant": variant, "plan": rows}) if arguments.json else report)
        return _DONE
    held = [{"name": name, "shape": a.shape, "dtype": str(a.dtype)} for name, a in arrays.items()]
    if arguments.json:
        print(json.dumps({"source": title, "arrays": held, "values": sum(a.size for a in arrays.values())}))
        return _DONE
    print(f"{title}: {arrays.kind}" if isinstance(arrays, weights.Weights) and arrays.kind else title)
    lines = [("array", "shape", "dtype", "lowest", "highest")]
    for name, a in arrays.items():
        ends = (f"{a.min():.3g}", f"{a.max():.3g}") if a.size else ("", "")
        lines.append((name, "×".join(map(str, a.shape)), str(a.dtype), *ends))
    print(aligned(lines))
    print(f"{sum(array.size for array in arrays.values()):,} values")
    return _DONE


def _gradients(arguments: argparse.Namespace) -> int:
    import numpy as np

    from barenets.look.findings import findings
    from barenets.look.report import Report
    from barenets.train import data
    from barenets.train.progress import Progress
    from barenets.train.select import freeze_norms, trained_variables
    from barenets.train.summaries import SummaryWriter
    from barenets.train.survey import survey

    model = _model(arguments, scratch=True)
    net = getattr(model.net, "net", model.net)  # a blend's is what trained
    records, labels = _labelled(arguments, model.class_names)
    wanted = arguments.batches * arguments.batch_size
    if 0 < wanted < len(records):
        records = records.subset(np.linspace(0, len(records) - 1, wanted).astype(int))
    batches = data.Batches(records, model.preprocessing, arguments.batch_size)
    trained = trained_variables(net, arguments.layers)
    freeze_norms(net, trained)
    what = arguments.checkpoint or arguments.weights or f"{arguments.net}, from random numbers"
    steps = -(-len(records) // arguments.batch_size)
    report = Report(f"{what}: {steps} batches of {min(arguments.batch_size, len(records))} pictures", trained)
    writer, progress = SummaryWriter(arguments.out), Progress(quiet=arguments.json)
    if not labels:
        progress.say("no labels: each picture counts as what the network takes it for")
    options = {"learning_rate": arguments.learning_rate, "seed": arguments.seed, "labels": labels}
    try:
        with progress.pictures("gradients", len(records)) as advance:
            survey(net, trained, batches, report, writer, advance=advance, **options)
    finally:
        writer.close()
    paths = report.write(arguments.out)
    if arguments.json:
        print(json.dumps(report.to_json()))
        return _DONE
    print(report.table())
    print("\npictures that pull hardest")
    for picture in report.pictures[:5]:
        print(f"  {picture['norm']:.3e}  loss {picture['loss']:.3f}  {picture['label']}  {printable(picture['path'])}")
    found = [str(finding) for finding in findings(report)]
    print("", *(found or ["nothing found that is wrong"]), "", *paths, sep="\n")
    print(f"look inside:  tensorboard --logdir {arguments.out}")
    return _DONE


def _explain(arguments: argparse.Namespace) -> int:

    from barenets.look import explain
    from barenets.train import data
    from barenets.train.explanations import Explanations
    from barenets.train.progress import Progress

    maps = arguments.filters, arguments.features, arguments.top_pictures
    methods = arguments.method or ([] if any(maps) else ["saliency", "grad_cam"])
    for name in methods:
        if name not in explain.METHODS:
            raise UserError(f"there is no method {name!r}; there are {', '.join(explain.METHODS)}")
    model = _model(arguments)
    paths = tuple(data.read_paths(arguments.images))
    records = _unlabelled(paths, model.class_names)
    files = []
    with contextlib.closing(Explanations(model, records, arguments.out, Progress())) as drawn:
        if arguments.filters:
            files.append(drawn.filters(arguments.filters))
        if arguments.features:
            files.append(drawn.features(arguments.features))
        if arguments.top_pictures:
            files.append(drawn.top_pictures(arguments.top_pictures, arguments.channels))
        if methods:
            files.append(drawn.methods(methods, arguments.count, arguments.of, arguments.layer))
    print(*files, f"look inside:  tensorboard --logdir {arguments.out}", sep="\n")
    return _DONE


def _unlabelled(paths: Sequence[str], class_names: Sequence[str]) -> Any:
    """The pictures of --images, for a network of these classes; their labels mean nothing."""
    import numpy as np

    from barenets.train import data

    return data.Records(tuple(paths), np.zeros(len(paths), np.int32), tuple(class_names), "--images")


def _labelled(arguments: argparse.Namespace, class_names: Sequence[str]) -> tuple[Any, bool]:
    """The pictures of --data or --images, and whether they have labels."""

    from barenets.train import data

    if arguments.data:
        return data.read(arguments.data, class_names), True
    if len(arguments.images) == 1:
        with contextlib.suppress(UserError):
            return data.read(arguments.images[0], class_names), True
    paths = tuple(data.read_paths(arguments.images))
    return _unlabelled(paths, class_names), False


def _compare(arguments: argparse.Namespace) -> int:
    from barenets.look import compare
    from barenets.train.progress import Progress
    from barenets.weights.npy import write_npz

    progress, sources = Progress(quiet=arguments.json), (arguments.first, arguments.second)
    dumps: list[Any] = [compare.read_dump(source) for source in sources]
    models = [None if dump else _compared(source, arguments) for dump, source in zip(dumps, sources, strict=True)]
    for model, this, other in (models[0], 0, 1), (models[1], 1, 0):
        if model is None:
            continue
        images = None
        if models[other] is None:  # this network is given what that one was, so that preprocessing cannot differ
            dumps[other], turned = compare.as_nhwc(dumps[other], model.net.input_shape, sources[other])
            images = dumps[other].get(compare.INPUT)
            if turned:
                progress.say(f"{sources[other]}: is N, C, H, W, as its input shows, and was turned to N, H, W, C")
        dumps[this] = compare.dump(model.net, _pictures(arguments, model) if images is None else images)
    if arguments.save:
        write_npz(arguments.save, dumps[1])
    net = models[1].net if models[1] else None
    found = compare.compare(dumps[0], dumps[1], arguments.tolerance, names=dict(arguments.map), net=net)
    print(json.dumps(found.to_json()) if arguments.json else found)
    return _DONE if found.agrees else _FAILED


def _compared(source: str, arguments: argparse.Namespace) -> Any:
    """The network that is meant by A or B of `compare`."""
    import tensorflow as tf

    from barenets import nets, weights
    from barenets.train import checkpoints, model
    from barenets.weights.tf_checkpoint import checkpoint_prefix

    if checkpoints.find(source):
        return model.from_checkpoint(source)
    if tf.io.gfile.exists(source) or weights.known(source) or checkpoint_prefix(source):
        return model.from_weights(source, arguments.net, arguments.variant, arguments.num_classes)
    net, _, variant = source.partition(":")
    if net not in nets.NETWORKS:  # a variant, then, of the network that the other options tell
        usual, _ = model.choose_network(arguments.weights, arguments.net, None)
        if source not in nets.variants(usual):
            raise UserError(f"{source}: is no file, no name in the catalog, no network and no variant of {usual}")
        net, variant = usual, source
    variant = variant or arguments.variant
    if arguments.weights:
        return model.from_weights(arguments.weights, net, variant, arguments.num_classes)
    return model.from_scratch(net, variant, arguments.num_classes)


def _pictures(arguments: argparse.Namespace, model: Any) -> Any:
    """The first --count of --images, as the network takes them."""

    from barenets.train import data

    if not arguments.images:
        raise UserError("name the pictures to compare on: --images FILE_OR_FOLDER")
    paths = tuple(data.read_paths(arguments.images))[: arguments.count]
    records = _unlabelled(paths, model.class_names)
    return next(iter(data.Batches(records, model.preprocessing, len(paths)).epoch(0))).images


def _check(arguments: argparse.Namespace) -> int:
    from barenets.train.data import doctor

    report = doctor.check(arguments.sources)
    print(json.dumps(report.to_json()) if arguments.json else report)
    return _DONE if report.ok else _FAILED


def _split(arguments: argparse.Namespace) -> int:
    from barenets.train import data
    from barenets.train.data import lists
    from barenets.train.data.place import exists

    names = ("train", "val", "test")[: len(arguments.fractions)]
    if not 2 <= len(arguments.fractions) <= 3:
        raise UserError("--fractions: give two, for train.txt and val.txt, or three, for test.txt, too")
    paths = [os.path.join(arguments.out, f"{name}.txt") for name in names]
    for path in filter(exists, paths):  # it may be the source itself
        raise UserError(f"{path}: is there already; choose another --out, or remove it")
    records = data.read(arguments.source)
    for path, part in zip(paths, records.split(arguments.fractions, arguments.seed), strict=True):
        lists.write(part, path)
        print(f"{path}: {len(part):,} pictures of {part.num_classes:,} classes")
    return _DONE


def _pack(arguments: argparse.Namespace) -> int:
    from barenets.train import data
    from barenets.train.data.table import names_beside

    # A second set in the folder has the classes of the first.
    records = data.read(arguments.source, names_beside(os.path.join(arguments.out, "")))
    called, _, words = os.path.basename(arguments.source.rstrip("/")).partition(":")
    name = arguments.name or words.replace(":", "-") or called.partition(".")[0] or "pictures"
    for path in data.pack(records, arguments.out, name, arguments.shards, arguments.seed):
        print(path)
    return _DONE


def _preview(arguments: argparse.Namespace) -> int:
    from barenets.train import data
    from barenets.train.data import augment, preview

    policy = augment.parse(arguments.augment)
    records = data.read(arguments.source)
    options = {name: getattr(arguments, name) for name in ("size", "seed", "epoch", "times")}
    seen = preview.preview(records, policy, arguments.count, **options)
    titles = [records.class_names[label] for label in records.labels[seen.records]]
    if arguments.save_dir:
        names = [os.path.basename(records.paths[i]) for i in seen.records]
        if records.pixels is None:  # whose names, x.npz:train#5, have no extension
            names = [os.path.splitext(name)[0] for name in names]
        for path in preview.save_pictures(seen.after, names, arguments.save_dir):
            print(path)
    preview.contact_sheet(seen.before, seen.after, arguments.out, titles, augment.text(policy))
    print(arguments.out)
    return _DONE


def _demo(arguments: argparse.Namespace) -> int:
    from barenets.train import demo
    from barenets.train.progress import Progress

    run = demo.start(arguments.weights, arguments.train, arguments.val, arguments.logdir, arguments.real)
    return _train(run, Progress(), False)
