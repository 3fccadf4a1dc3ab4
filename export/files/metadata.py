"""TFLite metadata: labels, normalisation, licence, mask and the run, inside the file itself.

The description is a second flatbuffer (identifier M001) that the model's "TFLITE_METADATA" buffer
holds; labels.txt and run.json are appended as a zip archive. MediaPipe's tasks read both.

Source: metadata_schema.fbs of tensorflow/tflite-support.
"""

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.files import flatbuffer, runtimes

IDENTIFIER = b"M001"
ENTRY = "TFLITE_METADATA"
LABELS, RUN = "labels.txt", "run.json"

# The fields of each table, in the order of the schema: name and type. "[T]" is a vector of tables.
_FIELDS = {
    "AssociatedFile": "name:string description:string type:byte locale:string version:string",
    "FeatureProperties": "",
    "ImageSize": "width:uint height:uint",
    "ImageProperties": "color_space:byte default_size:ImageSize",
    "Content": "content_properties_type:ubyte content_properties:any",
    "NormalizationOptions": "mean:floats std:floats",
    "ProcessUnit": "options_type:ubyte options:any",
    "Stats": "max:floats min:floats",
    "TensorMetadata": (
        "name:string description:string dimension_names:strings content:Content "
        "process_units:[ProcessUnit] stats:Stats associated_files:[AssociatedFile]"
    ),
    "SubGraphMetadata": (
        "name:string description:string input_tensor_metadata:[TensorMetadata] "
        "output_tensor_metadata:[TensorMetadata] associated_files:[AssociatedFile]"
    ),
    "ModelMetadata": (
        "name:string description:string version:string subgraph_metadata:[SubGraphMetadata] "
        "author:string license:string associated_files:[AssociatedFile] min_parser_version:string"
    ),
}
_TABLES = {
    name: tuple(tuple(field.split(":")) for field in fields.split())
    for name, fields in _FIELDS.items()
}
_SCALARS = {"byte": "Int8", "ubyte": "Uint8", "uint": "Uint32"}
_IMAGE, _NORMALIZATION, _AXIS_LABELS, _DESCRIPTIONS, _RGB = 2, 1, 2, 1, 1
_FEATURE = {"content_properties_type": 1, "content_properties": ("FeatureProperties", {})}


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file says of itself.

    Args:
        name: of the model.
        description: in a sentence or two.
        labels: one per output of a classifier or head; empty for an encoder.
        run: anything that JSON holds: the run's config and digest, the mask, what was measured.
        image: of what pixels the input `image` is, in a sentence.
        licence: of the weights.
        version: of the library that wrote it.
    """

    name: str
    description: str
    labels: Sequence[str]
    run: Mapping
    image: str = ""
    licence: str = "Apache License 2.0"
    version: str = ""


def attach(content: bytes, metadata: Metadata) -> bytes:
    """Puts metadata into a .tflite file with one signature.

    Raises:
        RequestError: if it is no .tflite file, or a label has a line break.
    """
    if any("\n" in label for label in metadata.labels):
        raise RequestError("labels: a label with a line break can't be stored")
    model = flatbuffer.parse(content)
    ports = runtimes.ports(content)
    inputs = [_input(port, metadata.image) for port in ports[0]]
    name = ports[1].name
    output: dict[str, object] = {"name": name, "description": _OUTPUTS[name], "content": _FEATURE}
    if metadata.labels:
        labels = {"name": LABELS, "description": "Labels of the outputs.", "type": _AXIS_LABELS}
        output["associated_files"] = [labels]
    about = {"name": RUN, "description": "Config, digest and mask.", "type": _DESCRIPTIONS}
    table = {
        "name": metadata.name,
        "description": metadata.description,
        "version": metadata.version,
        "license": metadata.licence,
        "associated_files": [about],
        "subgraph_metadata": [
            {"input_tensor_metadata": inputs, "output_tensor_metadata": [output]}
        ],
        "min_parser_version": "1.0.0",
    }
    builder = flatbuffers.Builder(1024)
    builder.Finish(_build(builder, "ModelMetadata", table), IDENTIFIER)
    entry = schema.MetadataT()
    entry.name = ENTRY
    entry.buffer = flatbuffer.add_buffer(model, np.frombuffer(builder.Output(), np.uint8))
    model.metadata = [*_others(model), entry]
    files = {RUN: json.dumps(metadata.run, sort_keys=True)}
    if metadata.labels:
        files[LABELS] = "".join(f"{label}\n" for label in metadata.labels)
    return _append_zip(flatbuffer.pack(model), files)


# What zipfile raises of a damaged archive, and what its contents may.
_DAMAGED = (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, KeyError, ValueError)


def read(content: bytes, name: str = "model") -> tuple[tuple[str, ...], dict]:
    """The labels, empty where there are none, and the run that a file of this library carries.

    Raises:
        RequestError: if it carries none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            run = json.loads(archive.read(RUN))
            labels = archive.read(LABELS).decode() if LABELS in archive.namelist() else ""
    except _DAMAGED as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"{name}: carries no metadata of this library ({reason})") from None
    # Not splitlines(): a label may hold the other separators that it knows.
    return tuple(labels.removesuffix("\n").split("\n")) if labels else (), run


def strip(content: bytes) -> bytes:
    """A file without its metadata, as a microcontroller stores it."""
    model = flatbuffer.parse(content)
    model.metadata = _others(model)
    model.description = None
    return flatbuffer.pack(model)


def _others(model: schema.ModelT) -> list[schema.MetadataT]:
    return [entry for entry in model.metadata or [] if flatbuffer.text(entry.name) != ENTRY]


_OUTPUTS = {
    "logits": "One logit per label; the largest is the answer.",
    "probabilities": "The probability of each label, their sum 1; the largest is the answer.",
    "feature": "The image's feature: the encoder's CLS token, the mean of its tokens, or both.",
}
_INPUTS = {
    "image": "An RGB image, pixels as they are; hidden patches are never read.",
    "patches": "The visible patches, pixels as they are: rows, columns, then red, green, blue.",
    "positions": "The row-major place of each visible patch.",
    "feature": "The image's feature.",
}


def _input(port: runtimes.Port, image_is: str) -> dict:
    table = {"name": port.name, "description": _INPUTS[port.name]}
    if port.name != "image":
        return table | {"content": _FEATURE}
    table["description"] = f"{_INPUTS['image']} {image_is}".strip()
    size = {"width": port.shape[2], "height": port.shape[1]}
    image = ("ImageProperties", {"color_space": _RGB, "default_size": size})
    # Raw bytes go in: the encoder's mean and std are part of its first matrix.
    options = ("NormalizationOptions", {"mean": [0.0], "std": [1.0]})
    return table | {
        "content": {"content_properties_type": _IMAGE, "content_properties": image},
        "process_units": [{"options_type": _NORMALIZATION, "options": options}],
        "stats": {"max": [255.0], "min": [0.0]},
    }


def _build(builder, table: str, values: Mapping) -> int:
    """Writes a table of the schema, its parts first; returns its offset."""
    fields = _TABLES[table]
    offsets = {
        name: _build_value(builder, kind, values[name])
        for name, kind in fields
        if name in values and kind not in _SCALARS
    }
    builder.StartObject(len(fields))
    for slot, (name, kind) in enumerate(fields):
        if name in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[name], 0)
        elif name in values:
            getattr(builder, f"Prepend{_SCALARS[kind]}Slot")(slot, values[name], 0)
    return builder.EndObject()


def _build_value(builder, kind: str, value) -> int:
    if kind == "string":
        return builder.CreateString(value)
    if kind == "any":
        return _build(builder, *value)
    if kind == "floats":
        builder.StartVector(4, len(value), 4)
        for number in reversed(value):
            builder.PrependFloat32(number)
        return builder.EndVector()
    if not kind.startswith("["):
        return _build(builder, kind, value)
    offsets = [_build(builder, kind[1:-1], item) for item in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _append_zip(content: bytes, files: Mapping[str, str]) -> bytes:
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            # A fixed time, so that the same run gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return stream.getvalue()
