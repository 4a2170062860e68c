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


def printable(text: str) -> str:
    """`text`, which may be a file's, with control characters spelt out: a terminal would obey them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
