"""Class folders and label lists: which pictures, which class, and what every mistake is answered with."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError
from barenets.train.data import lists, records, table
from tests.train import forms


def picture(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_jpeg(np.full([8, 8, 3], 128, np.uint8)).numpy())
    return str(path)


def label_list(folder: Path, text: str | bytes) -> str:
    path = folder / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def error_of(call, *args) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Folders


def test_folders_are_classes_in_the_order_of_their_names(tmp_path):
    for name in ("dog/b.jpg", "dog/a.jpg", "cat/x.png", "Ant/one.gif"):
        picture(tmp_path / name)
    data = records.read(str(tmp_path))
    assert data.class_names == ("Ant", "cat", "dog")
    names = ("Ant/one.gif", "cat/x.png", "dog/a.jpg", "dog/b.jpg")
    assert data.paths == tuple(f"{tmp_path}/{name}" for name in names)
    assert data.labels.tolist() == [0, 1, 2, 2]
    assert data.labels.dtype == np.int32
    assert (len(data), data.num_classes, data.source) == (4, 3, str(tmp_path))


def test_folders_are_searched_to_any_depth(tmp_path):
    for name in ("cat/z.jpg", "cat/more/deep/a.jpg", "dog/a.jpg"):
        picture(tmp_path / name)
    data = records.read(str(tmp_path))
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1]


def test_what_is_hidden_or_no_picture_is_left_out(tmp_path):
    for name in ("cat/a.jpg", "cat/b.JPEG", "cat/no_extension", "cat/c.jpg.crdownload"):
        picture(tmp_path / name)
    for name in (".hidden/a.jpg", "cat/.hidden/a.jpg", "cat/._a.jpg", "cat/.DS_Store", "__MACOSX/cat/a.jpg"):
        picture(tmp_path / name)
    for name in ("stray.jpg", "cat/Thumbs.db", "cat/notes.TXT", "cat/a.json", "cat/b.csv", "cat/README.md"):
        picture(tmp_path / name)
    data = records.read(str(tmp_path))
    assert data.class_names == ("cat",)
    assert [Path(p).name for p in data.paths] == ["a.jpg", "b.JPEG", "c.jpg.crdownload", "no_extension"]


def test_an_empty_class_folder_is_still_a_class(tmp_path):
    (tmp_path / "ant").mkdir()
    picture(tmp_path / "cat/a.jpg")
    data = records.read(str(tmp_path))
    assert data.class_names == ("ant", "cat")
    assert data.labels.tolist() == [1]


def test_folders_agree_with_given_classes(tmp_path):
    picture(tmp_path / "dog/a.jpg")
    data = records.read(str(tmp_path), ["wolf", "dog", "cat"])
    assert data.class_names == ("wolf", "dog", "cat")
    assert data.labels.tolist() == [1]


def test_a_folder_that_is_not_a_given_class_is_an_error(tmp_path):
    picture(tmp_path / "bird/a.jpg")
    message = error_of(records.read, str(tmp_path), ["cat", "dog"])
    assert message.startswith(f"{tmp_path}/bird: 'bird' is not one of the classes cat, dog;")


@pytest.mark.parametrize("content", [[], ["a.jpg"], ["cat/notes.txt"]])
def test_a_folder_without_class_folders_is_an_error(tmp_path, content):
    for name in content:
        picture(tmp_path / name)
    message = error_of(records.read, str(tmp_path))
    assert message.startswith(f"{tmp_path}: no pictures in class folders; give each class a sub-folder")


@pytest.mark.parametrize("source", ["/no/such/list.txt", "no_such_folder/"])
def test_a_missing_source_is_an_error(source):
    assert error_of(records.read, source) == f"{source}: no such file or folder; check the path"


def test_an_unknown_file_system_is_an_error():
    assert error_of(records.read, "nofs://b/list.txt").startswith("nofs://b/list.txt: File system scheme")


# Lists


def test_words_are_classes_in_sorted_order(tmp_path):
    data = records.read(label_list(tmp_path, "a.jpg dog\nb.jpg cat\nc.jpg dog\n"))
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [1, 0, 1]
    assert data.labels.dtype == np.int32


def test_paths_may_have_spaces_and_the_list_any_white_space(tmp_path):
    text = "my cat.jpg 0\n\n  two  spaces .jpg\t1  \n   \n# a comment\n  # another 5\nfolder 3/x.jpg   1"
    data = records.read(label_list(tmp_path, text))
    names = ["my cat.jpg", "two  spaces .jpg", "folder 3/x.jpg"]
    assert data.paths == tuple(str(tmp_path / name) for name in names)
    assert data.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "names",
    [("train", "test", "meta"), ("a.tfrecord", "b"), ("train-images-idx3-ubyte", "b"), ("cifar-10-batches", "b")],
)
def test_folders_may_be_called_as_files_of_other_forms_are(tmp_path, names):
    for name in names:
        picture(tmp_path / name / "1.jpg")
    data = records.read(str(tmp_path))
    assert (data.class_names, len(data)) == (tuple(sorted(names)), len(names))


@pytest.mark.parametrize("form", ["shard", "mnist", "cifar"])
def test_class_folders_beside_a_file_of_another_form(tmp_path, form):
    picture(tmp_path / "cat/1.jpg")
    if form == "shard":
        file = forms.shard(tmp_path / "x.tfrecord", [forms.example(image=forms.png(0), label=0)]).name
    elif form == "mnist":
        forms.mnist(tmp_path, forms.pictures(1), np.zeros(12, np.uint8))
        file = "train-images-idx3-ubyte"
    else:
        forms.cifar10(tmp_path, forms.pictures(1, 1, 32, 32, 3), [0])
        file = "batches.meta"
    message = error_of(records.read, str(tmp_path))
    assert message.startswith(f"{tmp_path}: has pictures in the folder cat and in {file};")
    if form != "shard":
        assert len(records.read(f"{tmp_path}:train"))  # which the folders do not have


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("digits", [10, 20, 5000])
def test_numbers_of_many_digits_are_no_classes(tmp_path, beside, digits):
    if beside:
        (tmp_path / "labels.txt").write_text("0:cat\n1:dog\n")
    (tmp_path / "list.txt").write_text(f"a.jpg 0\nb.jpg {'1' * digits}\n")
    message = error_of(records.read, str(tmp_path / "list.txt"))
    shown = "1" * min(digits, 30)
    assert message == f"{tmp_path}/list.txt line 2: label {shown} is too large; number the classes from 0"


@pytest.mark.parametrize("names", [("neg", "pos"), ("a", "b", "c")])
def test_a_negative_number_is_no_index(tmp_path, names):
    for name in ("-1", "1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").touch()
    message = error_of(records.read, str(tmp_path), names)
    assert message.startswith(f"{tmp_path}/-1: label -1 is beyond the {len(names)} classes")


def test_labels_txt_that_cannot_be_read_is_not_replaced(tmp_path):
    beside = tmp_path / "labels.txt"
    beside.write_bytes(b"0:caf\xe9\n")
    one = records.Records(("/a.jpg",), np.zeros(1, np.int32), ("cat",), "")
    for call, *arguments in ((lists.write, one), (table.names_beside,)):
        message = error_of(call, *arguments, f"{tmp_path}/list.txt")
        assert message == f"{beside}: is not UTF-8 text; mend or remove it"
    assert beside.read_bytes() == b"0:caf\xe9\n"


def test_paths_start_at_the_list_unless_absolute(tmp_path):
    data = records.read(label_list(tmp_path, "sub/a.jpg 0\n/abs/b.jpg 0\ngs://bucket/c.jpg 0\n"))
    assert data.paths == (f"{tmp_path}/sub/a.jpg", "/abs/b.jpg", "gs://bucket/c.jpg")


def test_a_list_without_a_folder_in_its_name(tmp_path, monkeypatch):
    label_list(tmp_path, "a.jpg 0\n")
    monkeypatch.chdir(tmp_path)
    assert records.read("list.txt").paths == ("a.jpg",)


def test_byte_order_mark_windows_lines_and_umlauts(tmp_path):
    data = records.read(label_list(tmp_path, "\ufeffkätzchen.jpg Kätzchen\r\n\r\nb.jpg Welpe\r\n".encode()))
    assert data.class_names == ("Kätzchen", "Welpe")
    assert data.paths == (f"{tmp_path}/kätzchen.jpg", f"{tmp_path}/b.jpg")


def test_gaps_between_integers_are_closed_and_the_numbers_kept(tmp_path):
    data = records.read(label_list(tmp_path, "a.jpg 12\nb.jpg 3\nc.jpg 007\n"))
    assert data.labels.tolist() == [2, 0, 1]
    assert data.class_names == ("3", "7", "12")
    val = records.read(label_list(tmp_path, "a.jpg 7\nb.jpg 07\n"), data.class_names)
    assert (val.labels.tolist(), val.class_names) == ([1, 1], ("3", "7", "12"))
    # 0 is no class here, though there is a class at index 0.
    message = error_of(records.read, label_list(tmp_path, "a.jpg 7\nb.jpg 0\n"), data.class_names)
    assert message.startswith(f"{tmp_path}/list.txt line 2: '0' is not one of the classes 3, 7, 12;")


def test_one_word_among_integers_makes_them_all_words(tmp_path):
    data = records.read(label_list(tmp_path, "a.jpg 10\nb.jpg 2\nc.jpg cat\n"))
    assert data.class_names == ("10", "2", "cat")
    assert data.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["cat/1.jpg 1", "dog/1.jpg 0", "cat/2.jpg 1"], ("dog", "cat")),
        (["/x/cat/1.jpg 0", "sub/dog/1.jpg 1"], ("cat", "dog")),
        (["all/1.jpg 0", "all/2.jpg 1"], ("0", "1")),  # one folder, two classes
        (["cat/1.jpg 0", "cats/1.jpg 0", "dog/1.jpg 1"], ("0", "1")),  # one class, two folders
        (["a/images/1.jpg 0", "b/images/1.jpg 1"], ("0", "1")),  # two folders of one name
        (["cat/1.jpg 0", "dog/1.jpg 2"], ("0", "2")),  # a name would hide that dog is number 2
        (["1/1.jpg 0", "0/1.jpg 1"], ("0", "1")),  # numbers as names would contradict the labels
    ],
)
def test_integers_take_names_from_folders_of_their_own(tmp_path, lines, names):
    assert records.read(label_list(tmp_path, "\n".join(lines))).class_names == names


def test_given_classes_name_integers_and_order_words(tmp_path):
    integers = records.read(label_list(tmp_path, "cat/a.jpg 1\n"), ["wolf", "fox", "cat"])
    assert (integers.class_names, integers.labels.tolist()) == (("wolf", "fox", "cat"), [1])
    words = records.read(label_list(tmp_path, "a.jpg wolf\nb.jpg cat\n"), ["wolf", "fox", "cat"])
    assert (words.class_names, words.labels.tolist()) == (("wolf", "fox", "cat"), [0, 2])


def test_integers_that_are_names_of_given_classes_are_names(tmp_path):
    """Folders 0, 1, 10, 2 sort as text, so class 2 sits at index 3."""
    data = records.read(label_list(tmp_path, "a.jpg 2\nb.jpg 10\n"), ["0", "1", "10", "2"])
    assert data.labels.tolist() == [3, 2]


def test_an_empty_list_is_an_error(tmp_path):
    source = label_list(tmp_path, "\n# only this\n  \n")
    message = error_of(records.read, source)
    assert message == f"{source}: the list is empty; write one `path label` for each picture"


@pytest.mark.parametrize("line", ["cat.jpg", "my cat.jpg", "my cat.JPEG"])
def test_a_line_without_a_label_is_an_error(tmp_path, line):
    source = label_list(tmp_path, f"# head\na.jpg 0\n{line}\n")
    assert error_of(records.read, source) == f"{source} line 3: no label after '{line}'; write `path label`"


def test_a_negative_label_is_an_error(tmp_path):
    source = label_list(tmp_path, "a.jpg 0\nb.jpg -1\n")
    expected = f"{source} line 2: label -1 is negative; number the classes from 0"
    assert error_of(records.read, source) == expected
    assert error_of(records.read, source, ["cat", "dog"]) == expected


@pytest.mark.parametrize("label", ["20230415", "9" * 30])
def test_a_number_that_is_no_index_is_an_error(tmp_path, label):
    source = label_list(tmp_path, f"a.jpg {label}\n")
    assert error_of(records.read, source).startswith(f"{source} line 1: label {label} is too large")


def test_an_index_beyond_the_given_classes_is_an_error(tmp_path):
    source = label_list(tmp_path, "a.jpg 0\n\nb.jpg 2\n")
    message = error_of(records.read, source, ["cat", "dog"])
    assert message == f"{source} line 3: label 2 is beyond the 2 classes, 0 = cat, dog; number them from 0"


def test_a_word_that_is_not_a_given_class_is_an_error(tmp_path):
    source = label_list(tmp_path, "a.jpg cat\nb.jpg bird\n")
    message = error_of(records.read, source, ["cat", "dog"])
    assert message.startswith(f"{source} line 2: 'bird' is not one of the classes cat, dog;")


def test_many_classes_are_cut_short_in_an_error(tmp_path):
    message = error_of(records.read, label_list(tmp_path, "a.jpg bird\n"), [f"c{i}" for i in range(1000)])
    assert "c18, c19, ... (1000 in all)" in message


def test_a_picture_given_as_a_list_is_an_error(tmp_path):
    source = picture(tmp_path / "cat.jpg")
    assert error_of(records.read, source).startswith(f"{source}: not UTF-8 text; give a folder or a list")


# The rest


def test_subset_keeps_order_and_classes(tmp_path):
    data = records.read(label_list(tmp_path, "a.jpg dog\nb.jpg cat\nc.jpg dog\n"))
    part = data.subset([2, 1])
    assert part.paths == (f"{tmp_path}/c.jpg", f"{tmp_path}/b.jpg")
    assert part.labels.tolist() == [1, 0]
    assert (part.class_names, part.source) == (data.class_names, data.source)
    assert len(data.subset(np.arange(3)[data.labels == 1])) == 2
    assert len(data.subset([])) == 0
    assert data.subset([]).labels.dtype == np.int32


def test_read_paths_takes_files_and_folders(tmp_path):
    for name in ("b/2.jpg", "b/deep/1.png", "b/1.jpg", "b/.hidden.jpg", "b/notes.txt", "a.jpg"):
        picture(tmp_path / name)
    found = records.read_paths([str(tmp_path / "b"), str(tmp_path / "a.jpg")])
    assert found == [str(tmp_path / name) for name in ("b/1.jpg", "b/2.jpg", "b/deep/1.png", "a.jpg")]


def test_read_paths_errors(tmp_path):
    assert error_of(records.read_paths, ["/no.jpg"]) == "/no.jpg: no such file or folder; check the path"
    assert error_of(records.read_paths, [str(tmp_path)]).startswith(f"{tmp_path}: no pictures in this")
    assert error_of(records.read_paths, []) == "no pictures are given; name files or folders"


def test_cats_and_dogs(shared_data):
    train = records.read(str(shared_data / "cats_dogs/train"))
    val = records.read(str(shared_data / "cats_dogs/val"), train.class_names)
    assert (len(train), len(val)) == (1000, 400)
    assert train.class_names == val.class_names == ("cat", "dog")
    assert np.bincount(train.labels).tolist() == [500, 500]
    assert np.bincount(val.labels).tolist() == [200, 200]


def test_a_source_means_the_same_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "in/cat").mkdir(parents=True)
    (tmp_path / "in/cat/1.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert records.absolute("in") == str(tmp_path / "in")
    assert records.absolute("in:train") == str(tmp_path / "in:train")
    assert records.absolute("in/shard-*") == str(tmp_path / "in/shard-*")
    for elsewhere in ("mnist:train", "gs://bucket/in", "/gone"):
        assert records.absolute(elsewhere) == elsewhere
