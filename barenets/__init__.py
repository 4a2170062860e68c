"""Classic ImageNet classifiers written out from TensorFlow primitives.

The rooms: `barenets.ops` (primitives), `barenets.nets` (networks), `barenets.weights` (trained parameters),
`barenets.look` (looking inside) and `barenets.train` (data, the loop, TensorBoard, the command line).
"""

__version__ = "0.1.0"


class UserError(ValueError):
    """Something the user can put right: a file, an option, a pattern.

    The message says what is wrong with which file or name, and what to do. The command line prints
    it as one line and exits with 2; in Python it is an ordinary ValueError.
    """
