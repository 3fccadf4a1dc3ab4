"""One worker of test_link.py: sends the chief an array, parts, and ends at that instant."""

import os
import sys
import time
from pathlib import Path

import numpy as np

from sparse_ist_tf.workers.cluster import Cluster, make_strategy, read_tf_config
from sparse_ist_tf.workers.link import Link, Shape

COUNT, WAIT_S = 1 << 20, 3.0


def _main():
    cluster = read_tf_config(os.environ) or Cluster(0, ())
    link = Link(make_strategy(cluster, 60.0), cluster.worker, cluster.num_workers)
    if link.chief:
        for worker in range(1, link.num_workers):
            got = link.pass_on(Shape((COUNT,)), worker, 0, purpose="checkpoint")
            assert (got == worker).all()
        time.sleep(WAIT_S)
    else:
        mine = np.full(COUNT, link.worker, np.float32)
        link.pass_on(mine, link.worker, 0, purpose="checkpoint")
    start = time.monotonic()
    link.part()
    Path(sys.argv[1], str(link.worker)).write_text(str(time.monotonic() - start))
    os._exit(0)


if __name__ == "__main__":
    _main()
