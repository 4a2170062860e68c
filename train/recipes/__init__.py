"""The articles' experiments, each a script to open and follow from top to bottom; `barenets run NAME` runs it.

A recipe is a module of this folder with `Settings`, a frozen dataclass, and `run(settings, progress) -> Report`. What
is not its point comes from the library: the networks, the loop, checkpoints.
"""

RECIPES = ("from_scratch", "alexnet_finetune", "vgg16_bottleneck", "hotdog_resnet50", "dog_breeds_xception")
