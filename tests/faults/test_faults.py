"""Whatever happens to a run, nothing of it is lost. `make faults` tries each fault more often."""

import random
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS, Fault
from tests.faults.lab import Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.attempt.__name__)
def test_fault(fault: Fault, lab: Lab, tmp_path: Path) -> None:
    for i in range(fault.quick):
        folder = tmp_path / str(i)
        folder.mkdir()
        fault.attempt(lab, folder, random.Random(i))
