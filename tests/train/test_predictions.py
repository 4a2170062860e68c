"""The file of predictions, read back with the csv module."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from barenets import UserError
from barenets.train import predictions


def test_read_back(tmp_path):
    """Ids and names as they are, whatever is in them; float32 to the bit."""
    path = tmp_path / "new" / "submission.csv"
    p = np.random.default_rng(0).random([3, 2]).astype(np.float32)
    p[0] = [1e-30, 1]
    ids, names = ["0a1", "with, comma", "ä"], ["shih-tzu", 'the "best"']
    predictions.write(str(path), ids, names, p)
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", *names]
    assert [row[0] for row in rows] == ids
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), p)
    assert path.read_bytes().count(b"\n") == 4
    assert b"\r" not in path.read_bytes()


def test_whole_or_not_at_all(tmp_path):
    path = tmp_path / "submission.csv"
    one = np.array([[0.25, 0.75]])
    predictions.write(str(path), ["x"], ["a", "b"], one)
    assert path.read_text() == "id,a,b\nx,0.25,0.75\n"
    with pytest.raises(UserError, match=r"submission.csv: is not written: two pictures have the id 'x'; rename"):
        predictions.write(str(path), ["y", "x", "x"], ["a", "b"], one.repeat(3, 0))
    with pytest.raises(ValueError, match=r"\(1, 2\) probabilities are not those of 2 × 2"):
        predictions.write(str(path), ["x", "y"], ["a", "b"], one)
    assert path.read_text() == "id,a,b\nx,0.25,0.75\n"
    with pytest.raises(UserError, match="cannot be written"):
        predictions.write(str(path / "below.csv"), ["x"], ["a", "b"], one)
    assert [file.name for file in tmp_path.iterdir()] == ["submission.csv"]


def test_no_pictures(tmp_path):
    predictions.write(str(tmp_path / "none.csv"), [], ["a", "b"], np.zeros([0, 2], np.float32))
    assert (tmp_path / "none.csv").read_text() == "id,a,b\n"
