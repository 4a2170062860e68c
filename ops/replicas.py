"""What a layer needs to know of the other devices, each of which has its part of the same batch.

Within `tf.distribute.Strategy.run` each device, a replica, runs the layer on its own rows of the batch. Elsewhere
there is one replica, and all of these do nothing.
"""

from typing import Any

import tensorflow as tf


def count() -> int:
    """How many replicas run this at the same time."""
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def total(values: Any) -> Any:
    """The sum over the replicas of a tensor, or of each tensor in a structure of them; the tape goes through it.

    Not within `tf.cond` or `tf.while_loop`, where TensorFlow's replicas cannot meet.
    """
    if count() == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def place(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where this replica's `rows` rows begin in the whole batch, and how many that has; all are int32 scalars."""
    if count() == 1:
        return tf.zeros_like(rows), rows
    own = tf.distribute.get_replica_context().replica_id_in_sync_group
    everyone = total(tf.one_hot(own, count(), rows, 0, dtype=tf.int32))
    return tf.reduce_sum(everyone[:own]), tf.reduce_sum(everyone)


def assign(variable: tf.Variable, value: tf.Tensor) -> None:
    """Gives this replica's copy of `variable` the `value`, which is the same in all of them.

    `variable.assign` would ask how to make one value of theirs, and could not where `total` cannot.
    """
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)


def boundary(rows: Any, replica: Any, replicas: int) -> tf.Tensor:
    """The row, int32, at which the part of `replica`, from 0, begins in a batch of `rows`.

    The first parts have one row more where not all are equal, so where there are fewer rows the last ones are empty.
    """
    return replica * (rows // replicas) + tf.minimum(replica, rows % replicas)
