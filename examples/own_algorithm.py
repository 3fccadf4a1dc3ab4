"""An algorithm of one's own: signSGD, where the replicas vote on the sign of every gradient.

    python -m sparse_ist_tf.train --plugin=examples/own_algorithm.py \
        --config.ist.algorithm=sign_sgd --config.optimizer.name=sgd --config.learning_rate=1e-4

An algorithm is a Trainer (sparse_ist_tf/ist/trainer.py): what a round does, what it sends through
its link, which counts it, and what it keeps. This one is data parallel training in all but what a
replica makes of its batch. `keys` says which keys of `ist` it uses: others are refused. Whoever
reads the run again (evaluate, export) needs the same --plugin.

Source: "signSGD: Compressed Optimisation for Non-Convex Problems" (Bernstein et al., 2018),
algorithm 1 with the mean of the signs in place of its sign.
"""

import tensorflow as tf

from sparse_ist_tf.ist.local import Batches, SubnetState
from sparse_ist_tf.ist.synchronous import DataParallel
from sparse_ist_tf.registry import AlgorithmEntry, register_algorithm


class SignSgd(DataParallel):
    """Synchronous training by the signs of gradients."""

    def replica(
        self, k: int, state: SubnetState, batches: Batches, first_step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The signs of one batch's gradients."""
        gradients, loss, right = super().replica(k, state, batches, first_step)
        return tf.sign(gradients), loss, right


register_algorithm(
    AlgorithmEntry(
        "sign_sgd",
        SignSgd,
        keys=frozenset({"ist.num_subnets", "ist.local_steps", "ist.local_steps_schedule"}),
        meaning="replicas of the whole head, the mean of their gradients' signs at every step",
    )
)
