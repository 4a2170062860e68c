"""Augmentation policies: lists of steps, in Python or as text, and what they do to a batch.

    [RandomCrop(), Flip(), Affine(rotation=40, zoom=0.2), Mixup(0.2)]

At most one Frame, which comes first (without one it is CentreCrop), and at most one step that mixes labels.
"""

import ast
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow as tf

from barenets import UserError
from barenets.train.data.steps import (
    Affine,
    Blend,
    Brightness,
    CentreCrop,
    Change,
    ChannelShift,
    Combine,
    Contrast,
    CutMix,
    Flip,
    Frame,
    Geometric,
    Hue,
    Mixup,
    Noise,
    Pad,
    Parameters,
    PasteZoom,
    QuarterMask,
    RandomCrop,
    RandomResizedCrop,
    Rescale,
    Rotate,
    Saturation,
    Shear,
    Shift,
    Step,
    Zoom,
    offsets,
    warped,
)

Policy = tuple[Step, ...]

STEPS: dict[str, type[Step]] = {
    step.__name__: step
    for step in (
        *(CentreCrop, RandomCrop, RandomResizedCrop, Pad),
        *(Flip, Rotate, Shift, Shear, Zoom, Affine),
        *(Brightness, Contrast, Saturation, Hue, ChannelShift, Rescale, Noise),
        *(PasteZoom, Combine, QuarterMask, Mixup, CutMix),
    )
}

POLICIES: dict[str, Policy] = {
    "none": (CentreCrop(),),
    "standard": (RandomCrop(), Flip()),
    "vgg16": (CentreCrop(), Affine(shear=0.2, zoom=0.2, horizontal_flip=True)),
    "vgg16_preview": (
        CentreCrop(),
        Affine(rotation=40, width_shift=0.2, height_shift=0.2, shear=0.2, zoom=0.2, horizontal_flip=True),
    ),
    # The article gives no chances for its combined and masked pictures; half of the pictures stay whole.
    "dogs": (CentreCrop(), Combine(0.5), Rotate(10), PasteZoom(0.8, 1.2), QuarterMask(0.5), Flip()),
}
"""The articles' and the usual ones, by name."""


def parse(text: str) -> Policy:
    """The policy that `text` writes out: `RandomCrop(), Flip()`, with or without brackets; or the name of one.

    Names of POLICIES may stand among the steps. It is read, not evaluated: options are plain numbers, strings, True and
    False, and tuples. Raises UserError, in one line, for anything else, and for steps in an order that makes no policy.
    """
    try:
        entries = ast.parse(f"[{text}\n]", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _no_policy(text) from None
    if isinstance(entries, ast.List) and len(entries.elts) == 1 and isinstance(entries.elts[0], ast.List | ast.Tuple):
        entries = entries.elts[0]  # it had brackets of its own
    if not isinstance(entries, ast.List | ast.Tuple):
        raise _no_policy(text)
    return checked(step for node in entries.elts for step in _steps(node, text))


def text(policy: Iterable[Step]) -> str:
    """What `parse` reads as `policy`."""
    return ", ".join(map(str, policy))


def checked(policy: Iterable[Step]) -> Policy:
    """`policy` as a tuple. Raises UserError for a Frame that is not first and for two steps that mix labels."""
    policy = tuple(policy)
    for step in policy[1:]:
        if isinstance(step, Frame):
            raise UserError(f"{step}: makes the square that the other steps change; put it first, and only one such")
    mixing = [str(step) for step in policy if isinstance(step, Blend) and step.mixes]
    if len(mixing) > 1:
        raise UserError(f"{' and '.join(mixing)}: both mix labels; leave one of them out")
    return policy


@tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes time
def changed(
    policy: Sequence[Step], pictures: tf.Tensor, u: tf.Tensor, others: Sequence[tf.Tensor] = ()
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Runs the Changes and Blends of `policy` on a batch that its Frame has made.

    Args:
        pictures: float32 [N, H, W, 3] in 0..255.
        u: uniform numbers in [0, 1), float32 [N, total draws], in the columns `offsets(policy)`.
        others: for each Blend of the policy, in order, the second pictures, shaped as `pictures`.

    Returns the pictures, and float32 [N], how much of the label is still the picture's own: None if the
    policy mixes no labels. Neighbouring geometric steps that fill alike are one interpolation.
    Raises ValueError for another number of `others` than of Blends.
    """
    blends = sum(isinstance(step, Blend) for step in policy)
    if blends != len(others):
        raise ValueError(f"the policy blends {blends} times; got {len(others)} batches of other pictures")
    partners, share = iter(others), None
    for run in _runs(policy, u):
        step, drawn = run[0]
        if isinstance(step, Geometric):
            pictures = warped(run, pictures)  # type: ignore[arg-type]
        elif isinstance(step, Change):
            pictures = step.apply(pictures, drawn)
        elif isinstance(step, Blend):
            pictures, mixed = step.apply(pictures, next(partners), drawn)
            share = share if mixed is None else mixed
    return pictures, share


def _runs(policy: Sequence[Step], u: tf.Tensor) -> Iterator[list[tuple[Step, Parameters]]]:
    """Each step with its parameters; neighbours that can be one affine map come together."""
    run: list[tuple[Step, Parameters]] = []
    for step, columns in zip(policy, offsets(policy), strict=True):
        if run and not _joins(step, [before for before, _ in run]):
            yield run
            run = []
        run.append((step, step.parameters(u[:, columns])))
    if run:
        yield run


def _joins(step: Step, run: list[Step]) -> bool:
    steps = [*run, step]
    if not all(isinstance(one, Geometric) for one in steps):
        return False
    fillings = [one.filling for one in steps if isinstance(one, Geometric) and one.filling]
    return all(filling == fillings[0] for filling in fillings)


def _steps(node: ast.expr, text: str) -> Iterator[Step]:
    """What one entry of a policy stands for."""
    if isinstance(node, ast.Name) and node.id in POLICIES:
        yield from POLICIES[node.id]
        return
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])  # Flip is Flip()
    if not isinstance(call.func, ast.Name):
        raise _no_policy(text)
    kind = STEPS.get(call.func.id)
    if kind is None:
        raise UserError(f"{call.func.id}: there is no such step; {_known()}")
    yield kind(**_options(kind, call))


def _options(kind: type[Step], call: ast.Call) -> Mapping[str, object]:
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    takes = f"{kind.__name__} takes {', '.join(fields) or 'no options'}"
    if len(call.args) > len(fields):
        raise UserError(f"{kind.__name__}: {len(call.args)} values are too many; {takes}")
    given = [*zip(fields, call.args, strict=False), *((keyword.arg, keyword.value) for keyword in call.keywords)]
    options = {}
    for name, node in given:
        if name not in fields:
            raise UserError(f"{kind.__name__}: there is no option {name}; {takes}")
        if name in options:
            raise UserError(f"{kind.__name__}: {name} is given twice")
        try:
            options[name] = ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            what = fields[name].metadata["what"]
            raise UserError(f"{kind.__name__}: {name} is {what}, not {ast.unparse(node)}") from None
    for name, field in fields.items():
        if name not in options and field.default is dataclasses.MISSING:
            raise UserError(f"{kind.__name__}: {name} is missing, {field.metadata['what']}")
    return options


def _known() -> str:
    return f"the steps are {', '.join(STEPS)}; the policies {', '.join(POLICIES)}"


def _no_policy(text: str) -> UserError:
    return UserError(f"{text!r}: is no list of steps like 'RandomCrop(), Flip()'; {_known()}")
