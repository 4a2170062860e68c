"""Trained parameters: read, write, check, load. A network is seen only as its named variables."""

from barenets.weights.load import LoadReport, load, plan, save
from barenets.weights.open import identify, known, read
from barenets.weights.rename import Kind, Weights

__all__ = ["Kind", "LoadReport", "Weights", "identify", "known", "load", "plan", "read", "save"]
