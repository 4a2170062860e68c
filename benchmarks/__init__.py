"""Every speed and memory figure that barenets claims, side by side with what a user would pick instead.

`python -m benchmarks.NAME [--quick]` runs one, `python -m benchmarks` runs all and writes RESULTS.md.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
