"""Pictures and their labels: data sets of every form, augmentation, the pipeline, the data-set doctor."""

from barenets.train.data.pack import pack
from barenets.train.data.pipeline import Batch, Batches
from barenets.train.data.records import Records, absolute, read, read_paths
from barenets.train.data.samplers import ClassPaired, ClassWeighted, InOrder, Sampler, Shuffled

__all__ = [
    "Batch",
    "Batches",
    "ClassPaired",
    "ClassWeighted",
    "InOrder",
    "Records",
    "Sampler",
    "Shuffled",
    "absolute",
    "pack",
    "read",
    "read_paths",
]
