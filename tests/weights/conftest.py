"""What the tests of `weights` share: a process to read dangerous files in, and a network of three layers."""

from collections.abc import Iterator

import pytest

from tests.weights.reader import Reader


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()
