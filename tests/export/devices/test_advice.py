"""What would fit a microcontroller's memory."""

import types

import pytest

from sparse_ist_tf.export.devices import advice
from sparse_ist_tf.export.results import Micro
from sparse_ist_tf.ist.head import HeadSpec

ARENAS = {0.5: 90_000, 0.75: 70_000, 0.875: 60_000}


def _networks(flash, sram):
    encoder = types.SimpleNamespace(num_patches=64)
    run = types.SimpleNamespace(spec=HeadSpec(96, (1000, 1000), 10), num_subnets=2, encoder=encoder)
    target = types.SimpleNamespace(flash=flash, sram=sram)
    return types.SimpleNamespace(run=run, target=target)


@pytest.mark.parametrize(
    ("flash", "sram", "expected"),
    [
        (0, 75_000, ["mask ratio 0.75 (16 visible patches, arena 70,000 bytes)"]),
        (800_000, 0, ["3 subnets (flash about 739,", "arena at most 90,000 bytes)"]),
        (
            800_000,
            65_000,
            ["3 subnets at mask ratio 0.875 (8 visible patches, flash about 739,", "60,000 bytes)"],
        ),
        (100_000, 65_000, []),
        (800_000, 50_000, []),
    ],
)
def test_both_memories_are_counted(flash, sram, expected):
    """Nothing is advised that fits one of them alone."""
    spec = types.SimpleNamespace(width=0)  # no preset is smaller
    network = types.SimpleNamespace(vit=types.SimpleNamespace(spec=spec))
    found = Micro(flash=900_000, arena=90_000)
    lines = advice.what_would_fit(_networks(flash, sram), network, found, ARENAS)
    assert len(lines) == bool(expected), lines
    assert all(text in lines[0] for text in expected), lines
