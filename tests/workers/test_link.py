"""What workers owe each other at their end, with real processes."""

import importlib.util
import sys
from pathlib import Path

from sparse_ist_tf.workers.launch import run_local_workers
from sparse_ist_tf.workers.link import Link

SCRIPT = Path(__file__).parent / "link_script.py"
_spec = importlib.util.spec_from_file_location("link_script", SCRIPT)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


def test_who_parts_ends_only_when_all_have_what_was_sent_to_them(tmp_path):
    assert run_local_workers([sys.executable, str(SCRIPT), str(tmp_path)], 3) == 0
    waited = [float((tmp_path / str(worker)).read_text()) for worker in range(3)]
    assert waited[0] < script.WAIT_S / 2 < min(waited[1:])


def test_a_worker_alone_parts_from_nobody():
    link = Link.alone()
    link.part()
    assert link.ledger.total == 0
