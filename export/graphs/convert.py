"""From a network to the bytes of a .tflite file, in the arithmetic and with the inputs wanted."""

import dataclasses

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.graphs.forms import Network, make_function
from sparse_ist_tf.export.graphs.interface import INTEGERS, PIXELS, QUANTIZATIONS, Interface
from sparse_ist_tf.export.integers.memory import Memory, Recording, Samples
from sparse_ist_tf.export.integers.quantize import Scheme, to_integers
from sparse_ist_tf.export.integers.ranges import calibrate
from sparse_ist_tf.export.integers.rounding import measure_inputs


def convert(
    network: Network,
    quantize: str,
    interface: Interface = Interface(),  # noqa: B008  # frozen
    samples: Samples | None = None,
    memory: Memory | None = None,
) -> bytes:
    """Converts one artefact.

    Args:
        network: what to compute.
        quantize: one of QUANTIZATIONS; "dynamic" has int8 weights and float32 activations.
        interface: form and types.
        samples: for int8 and int16x8 only: makes an iterator of real inputs of batch 1 by name:
            "image" and "patches" uint8, "positions" int32, "feature" float32.
        memory: of what was converted before; what it has in common with this is not done again.

    Returns:
        The content of a .tflite file with one signature, "serving_default".

    Raises:
        RequestError: if the quantization isn't known or doesn't go with the interface.
        RunError: if the network has an operator that can't be quantized.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.export.files.runtimes import LiteRT
        >>> from sparse_ist_tf.export.graphs.convert import convert
        >>> from sparse_ist_tf.export.graphs.forms import Network, layers_of
        >>> from sparse_ist_tf.ist.head import HeadSpec, init_parameters
        >>> head = layers_of(init_parameters(HeadSpec(8, (6,), 3), seed=0))
        >>> runtime = LiteRT(convert(Network("head", head), "float32"))
        >>> runtime.run({"feature": np.zeros(8, "float32")}).shape
        (3,)
    """
    if quantize not in QUANTIZATIONS:
        raise RequestError(f"quantize={quantize!r}: must be one of {', '.join(QUANTIZATIONS)}")
    if interface.whole_integer and quantize != "int8":
        raise RequestError(f"quantize={quantize!r}: this target takes int8 alone")
    content = _converted(network, quantize, interface, samples, memory)
    if interface.output(network.kind) == "probabilities":
        return flatbuffer.append_softmax(content)
    return content


def _converted(network, quantize, interface, samples, memory) -> bytes:
    """A file that gives logits, or a feature."""
    if quantize not in INTEGERS:
        function = make_function(network, interface.form, "uint8")
        return flatbuffer.inputs_first(_to_tflite(network, function, quantize))
    if samples is None:
        raise RequestError(f"quantize={quantize!r}: needs calibration samples")
    bits = 8 if quantize == "int8" else 16
    content, centred = for_integers(network, interface, samples)
    recording = Recording(content, centred, memory)
    ranges = calibrate(recording, bits)
    inputs = measure_inputs(recording, leave=len(network.layers) * network.tuned)
    scheme = _scheme(network, interface, bits)
    return to_integers(content, ranges, scheme, inputs, recording.memory)


def for_integers(network: Network, interface: Interface, samples: Samples) -> tuple[bytes, Samples]:
    """A network as the float file that a quantizer takes over.

    Returns:
        The file, whose pixels are float32 around 0, and the samples as it takes them.
    """
    if network.vit is not None:
        network = dataclasses.replace(network, vit=network.vit.for_integers())
    content = _to_tflite(network, make_function(network, interface.form), "float32")
    return content, lambda: map(_centre(network, interface), samples())


def _to_tflite(network: Network, function, quantize: str) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], function
    )
    if quantize in ("float16", "dynamic"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    content = bytes(converter.convert())
    return flatbuffer.name_signature(content, network.input_names, network.output_name)


def _centre(network: Network, interface: Interface):
    def centre(sample):
        out = {name: np.asarray(sample[name]) for name in network.input_names}
        for name in PIXELS:
            if name in out:
                out[name] = out[name].astype(np.float32) - np.float32(network.vit.pixel_offset)
        if "positions" in out and interface.form == "conv":
            rows = np.eye(network.vit.spec.num_patches, dtype=np.float32)
            out["positions"] = rows[out["positions"]]
        return out

    return centre


def _scheme(network: Network, interface: Interface, bits: int) -> Scheme:
    known, inputs = {}, {}
    for name in network.input_names:
        if name in PIXELS:
            known[name] = (-128.0, 127.0)
            inputs[name] = "int8" if interface.whole_integer else "uint8"
        elif interface.whole_integer:
            inputs[name] = "int8"
    if "positions" in network.input_names and interface.form == "conv":
        known["positions"] = (0.0, 1.0)
    outputs = "int8" if interface.whole_integer else "float32"
    return Scheme(bits, interface.per_channel, inputs, outputs, known)
