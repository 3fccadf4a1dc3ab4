"""The published table of the Edge TPU, and its compiler where that is installed."""

import types

import numpy as np
import pytest

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.export.devices import edge_tpu
from sparse_ist_tf.export.devices.checks import problem, unmapped
from sparse_ist_tf.export.devices.targets import TARGETS
from sparse_ist_tf.export.files.operators import Op
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.forms import Network

CORAL = TARGETS["coral"]


def _op(name, *inputs, output=(1, 8), **options):
    tensors = [
        (value.shape, "int32", value) if isinstance(value, np.ndarray) else (value, "int8", None)
        for value in inputs
    ]
    return Op(name, tuple(tensors), ((output, "int8"),), types.SimpleNamespace(**options))


def _weights(*shape):
    return np.ones(shape, np.int32)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (_op("FULLY_CONNECTED", (1, 4), _weights(8, 4)), ""),
        (_op("FULLY_CONNECTED", (3, 4), _weights(8, 4), output=(3, 8)), "more than one row"),
        (_op("FULLY_CONNECTED", (1, 4), (8, 4)), "weights that aren't constant"),
        (_op("SOFTMAX", (1, 16_000)), ""),
        (_op("SOFTMAX", (1, 16_001)), "16001 elements"),
        (_op("SOFTMAX", (4, 10)), "only vectors"),
        (_op("MEAN", (1, 1, 5, 8), _weights(1) * 2), ""),
        (_op("MEAN", (1, 1, 5, 8), _weights(1) * 3), ""),
        (_op("MEAN", (1, 1, 5, 6), _weights(1) * -1), "isn't a multiple of 4"),
        (_op("MEAN", (1, 1, 5, 8), _weights(1) * 0), "works on the batch axis"),
        (_op("PAD", (1, 1, 5, 8), np.array([[0, 0], [0, 0], [1, 0], [0, 0]])), ""),
        (_op("PAD", (1, 1, 5, 8), np.array([[1, 0], [0, 0], [0, 0], [0, 0]])), "batch axis"),
        (_op("STRIDED_SLICE", (1, 8), _weights(2), _weights(2), _weights(2), ellipsisMask=0,
             newAxisMask=0), ""),
        (_op("STRIDED_SLICE", (1, 8), _weights(2), _weights(2), 2 * _weights(2), ellipsisMask=0,
             newAxisMask=0), "strides other than 1"),
        (_op("SPLIT", np.array(1), (1, 8)), ""),
        (_op("SPLIT", np.array(0), (2, 1, 4, 8)), "splits the batch axis"),
        (_op("CONCATENATION", (1, 8), np.zeros((1, 2), int), fusedActivationFunction=0), ""),
        (_op("CONCATENATION", (1, 8), np.ones((1, 2), int), fusedActivationFunction=0), "zero"),
        (_op("AVERAGE_POOL_2D", (1, 2, 2, 4), fusedActivationFunction=1), "fused activation"),
        (_op("CONV_2D", (1, 2, 2, 4), _weights(8, 1, 1, 4), dilationWFactor=1,
             dilationHFactor=2), "dilated"),
        (_op("GELU", (1, 8)), "is not in coral's table"),
        (_op("BATCH_MATMUL", (1, 8), (8, 8)), "is not in coral's table"),
        (_op("GATHER", (1, 8), _weights(2)), "is not in coral's table"),
        (_op("MUL", (2, 1, 1, 8), (2, 1, 1, 8), output=(2, 1, 1, 8)), "more than 3 dimensions"),
        (_op("MUL", (1, -1), (1, -1), output=(1, -1)), "unknown shape"),
    ],
)  # fmt: skip
def test_the_tables_conditions(op, reason):
    found = problem(op, CORAL)
    assert reason in found
    assert bool(reason) == bool(found)


def test_a_float_tensor_is_no_edge_tpus():
    op = Op("ADD", (((1, 8), "float32", None),) * 2, (((1, 8), "float32"),), None)
    assert problem(op, CORAL) == "has a tensor of type float32"


@pytest.fixture(scope="module")
def files(classifier_file):
    """The whole-integer classifier by form."""
    return {form: classifier_file("int8", form, whole_integer=True) for form in ("matmul", "conv")}


def test_the_conv_form_maps_whole(files):
    assert unmapped(files["conv"], CORAL) == []
    mapping = edge_tpu.mapping(files["conv"], lambda op: problem(op, CORAL))
    assert mapping.operators == mapping.total
    assert mapping.work == 1.0


def test_what_stands_behind_an_unmapped_operator_stays_on_the_host(files):
    """The matmul form picks patches by GATHER first: nothing after it is mapped."""
    assert any(line.startswith("GATHER x1 ") for line in unmapped(files["matmul"], CORAL))
    mapping = edge_tpu.mapping(files["matmul"], lambda op: problem(op, CORAL))
    assert mapping.operators == 1  # the reshaping before it
    assert mapping.work < 0.1


def test_heads_map_whole(head_layers, head_samples):
    content = convert(Network("head", head_layers), "int8", CORAL.interface, head_samples)
    assert unmapped(content, CORAL) == []


LOG = """Edge TPU Compiler version 16.0.384591198
Input: model.tflite
Output: model_edgetpu.tflite

Operator                       Count      Status

FULLY_CONNECTED                2          Mapped to Edge TPU
FULLY_CONNECTED                1          More than one subgraph is not supported
SOFTMAX                        1          Operation is otherwise supported, but not mapped due to some unspecified limitation
"""  # noqa: E501


def test_the_compilers_log_is_read():
    assert edge_tpu.parse_log(LOG) == {
        "FULLY_CONNECTED": {"Mapped to Edge TPU": 2, "More than one subgraph is not supported": 1},
        "SOFTMAX": {
            "Operation is otherwise supported, but not mapped due to some unspecified limitation": 1
        },
    }


def _install(folder, monkeypatch, script):
    compiler = folder / "edgetpu_compiler"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_compiler_decides_where_it_is_installed(
    head_layers, head_samples, tmp_path, monkeypatch
):
    content = convert(Network("head", head_layers), "int8", CORAL.interface, head_samples)
    _install(tmp_path, monkeypatch, f"cat <<'END'\n{LOG}END")
    mapping = edge_tpu.mapping(content, lambda op: problem(op, CORAL))
    assert mapping.decided_by == "edgetpu_compiler"
    assert (mapping.operators, mapping.total) == (2, 3)
    assert mapping.work == pytest.approx(2 / 3)
    assert "by edgetpu_compiler" in mapping.sentence()


def test_a_compiler_that_fails_is_one_clear_error(head_layers, head_samples, tmp_path, monkeypatch):
    content = convert(Network("head", head_layers), "int8", CORAL.interface, head_samples)
    _install(tmp_path, monkeypatch, "echo 'Invalid model' >&2; exit 1")
    with pytest.raises(RunError, match="edgetpu_compiler failed: Invalid model"):
        edge_tpu.mapping(content, lambda op: problem(op, CORAL))
