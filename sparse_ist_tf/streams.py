"""Named streams of random numbers, so that no two draws of a run are alike by accident."""

import enum

import numpy as np


class Stream(enum.IntEnum):
    """What a stream of random numbers is for.

    A value never serves twice. 0 is that of the split alone, which has no counters: NumPy seeds
    (s,), (s, 0) and (s, 0, 0) alike.
    """

    SPLIT = 0
    SHARDS_IID = 1
    SHARDS_DIRICHLET = 2
    PARTITION = 101
    INITIAL_WEIGHTS = 202
    BATCHES = 303
    BASIS = 304  # of the rotation that spreads outliers before quantization
    CALIBRATION = 305
    ROUNDING = 306  # of what subnets give back
    VIEWS = 307  # which of its fixed masks an image begins with
    SAMPLED_IMAGES = 404  # whose bytes are counted
    RESNET_WEIGHTS = 405
    ENCODER_WEIGHTS = 406
    SUBSETS = 505  # of subnets that are left when workers are missing
    REPLICA_ROUNDING = 511  # of a replica's difference
    MEAN_ROUNDING = 512  # of all replicas' mean difference
    PRETRAINING_ORDER = 601
    PRETRAINING_SIZE = 602
    PRETRAINING_RATIO = 603
    PRETRAINING_EVALUATION = 604
    PRETRAINING_SENSOR = 605
    PRETRAINING_GRID = 606

    def rng(self, seed: int, *counters: int) -> np.random.Generator:
        """A new generator, a function of the stream, the seed (at least 0) and the counters alone.

        Counters tell draws of one stream apart, such as a subnet and an epoch.
        """
        return np.random.default_rng((seed, int(self), *counters))
