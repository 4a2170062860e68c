"""Trained parameters: read, write, check, load. A network is seen only as its named variables."""

from barenets.weights.load import LoadReport, load, plan, save
from barenets.weights.open import known, read

__all__ = ["LoadReport", "known", "load", "plan", "read", "save"]
