"""What tests of hosts need of the machine."""

import pytest

from sparse_ist_tf.benchmarks.cluster.hosts.network import check_machine
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.workers.seclusion import Seclusion


def _reason():
    try:
        check_machine()
    except RequestError as error:
        return str(error)
    with Seclusion() as seclusion:
        return "" if seclusion.holds else "needs network namespaces"


REASON = _reason()
needs_hosts = pytest.mark.skipif(bool(REASON), reason=REASON or "-")
