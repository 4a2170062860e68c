"""Trained parameters: read, write, check, load. A network is seen only as its named variables."""

from barenets.weights.load import LoadReport, load, plan, read, save

__all__ = ["LoadReport", "load", "plan", "read", "save"]
