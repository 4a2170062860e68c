"""Losses from logits, one value for each example."""

import tensorflow as tf


def softmax_cross_entropy(labels: tf.Tensor, logits: tf.Tensor, label_smoothing: float = 0.0) -> tf.Tensor:
    """−Σ q · log softmax(logits), with q = (1 − ε) · one_hot + ε / classes.

    `labels` are integers [N], or floating [N, classes], the share of each class, instead of one_hot; `logits`
    are floating [N, classes]; the result is [N]. ε is `label_smoothing` (Szegedy et al. 2016, section 7).
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label smoothing lies in [0, 1], got {label_smoothing}")
    classes = logits.shape[-1]
    share = label_smoothing / classes
    labels = tf.convert_to_tensor(labels)
    if labels.dtype.is_floating:
        targets = tf.cast(labels, logits.dtype) * (1 - label_smoothing) + share
    elif label_smoothing == 0:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    else:
        targets = tf.one_hot(labels, classes, 1 - label_smoothing + share, share, dtype=logits.dtype)
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def sigmoid_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """−q · log σ(z) − (1 − q) · log(1 − σ(z)) for each logit z, without overflow.

    `labels` are 0, 1 or anything between, of the shape of `logits`; so is the result.
    """
    return tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, logits.dtype), logits)


def center_loss(labels: tf.Tensor, distances: tf.Tensor) -> tf.Tensor:
    """How far, squared, each example is from the center of its class (Wen et al. 2016, without the 1/2).

    `distances`, floating [N, classes], are squared distances from each class's center; `labels` are integers [N], or
    floating [N, classes], the share of each class, which then weighs the distances. The result is [N].
    """
    labels = tf.convert_to_tensor(labels)
    if labels.dtype.is_floating:
        return tf.reduce_sum(tf.cast(labels, distances.dtype) * distances, 1)
    return tf.gather(distances, labels, batch_dims=1)
