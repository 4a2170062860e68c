"""Pictures and their labels: lists and folders, the pipeline, the data-set doctor."""

from barenets.train.data import augment, samplers
from barenets.train.data.pipeline import Batch, Batches
from barenets.train.data.records import Records, read, read_paths

__all__ = ["Batch", "Batches", "Records", "augment", "read", "read_paths", "samplers"]
