"""What no line of the package may do, whatever a file says; docs/security.md promises it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("barenets", "ops", "nets", "weights", "look", "train")

MODULES = re.compile(
    r"(marshal|shelve|dill|cloudpickle|joblib|yaml|ruamel|xml|ftplib|telnetlib|pty|code|codeop|runpy|imp|cffi|h5py|torch)\b"
)
"""Each reads what may run, runs it, or parses with what known attacks there are."""
CALLS = re.compile(
    r"eval|exec|compile|__import__|breakpoint|input"
    r"|os\.(system|popen|startfile|fork|forkpty|exec\w+|posix_spawn\w*|spawn\w+)"
    r"|subprocess\.(getoutput|getstatusoutput|call|check_call|check_output|Popen|run)"
    r"|(pickle|np|numpy)\.(load|loads|Unpickler|_Unpickler|fromregex|loadtxt|genfromtxt)"
    r"|tarfile\.open|shutil\.unpack_archive|tempfile\.mktemp|.*\.(extract|extractall)"
    r"|tf\.(py_function|load_op_library|load_library|saved_model\.load|train\.import_meta_graph|import_graph_def)"
    r"|importlib\.(import_module|util\.\w+|machinery\.\w+)|ctypes\.(CDLL|cdll\b.*|PyDLL)"
)
"""Whole names of what is called."""
ALLOWED = {
    "weights/npy.py imports pickle": "it writes one",
    "weights/pickles.py imports pickle": "its unpickler is the base of the restricted one",
    "weights/fetch.py imports subprocess": "pip is asked for its index",
    "weights/fetch.py calls subprocess.run": "with a list that nothing from outside is in",
    "train/recipes/recipe.py calls importlib.import_module": "by a name that is one of the package's own recipes",
    "train/data/npz.py calls np.load": "with allow_pickle=False",
}


def name(node: ast.expr) -> str:
    return f"{name(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def findings(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in modules:
                if MODULES.match(module) or module in ("pickle", "subprocess", "pickletools", "_pickle"):
                    yield f"imports {module}"
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:  # under another name it would not be found where it is called
                    if CALLS.fullmatch(f"{node.module}.{alias.name}"):
                        yield f"imports {node.module}.{alias.name}"
        elif isinstance(node, ast.Call):
            if CALLS.fullmatch(name(node.func)):
                yield f"calls {name(node.func)}"
            for keyword in node.keywords:
                harmless = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                if keyword.arg in ("shell", "allow_pickle", "unsafe_load") and not harmless:
                    yield f"says {keyword.arg}"


def test_no_line_runs_or_unpacks_what_a_file_says() -> None:
    found = {
        f"{path.relative_to(ROOT)} {finding}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for finding in findings(path.read_text())
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(text)",
        "os.system(text)",
        "os.popen(text)",
        "os.execv(text, [])",
        "subprocess.check_output(text)",
        "subprocess.run(text, shell=True)",
        "run(text, shell=shell)",
        "pickle.loads(text)",
        "pickle.Unpickler(file)",
        "np.load(file, allow_pickle=True)",
        "import yaml",
        "from yaml import load",
        "from os import system",
        "from pickle import loads as read",
        "from subprocess import run",
        "import xml.etree.ElementTree as tree",
        "import torch",
        "tarfile.open(file)",
        "archive.extractall(folder)",
        "zipped.extract(name)",
        "tf.saved_model.load(folder)",
        "importlib.import_module(name)",
    ],
)
def test_such_a_line_would_be_found(line: str) -> None:
    assert list(findings(line))


def test_what_looks_like_one_is_none() -> None:
    assert not list(
        findings("import code_of_ours\nre.compile(text)\nast.literal_eval(text)\narchive.open(name)\nnet.train()")
    )
