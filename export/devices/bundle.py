"""The C++ sources that a microcontroller's project takes: model, settings, operators, a main.

Everything is written from the file itself; nothing is by hand for a model.

Source: the person_detection example of tensorflow/tflite-micro.
"""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sparse_ist_tf.export.devices.targets import MICRO_OPERATORS
from sparse_ist_tf.export.files import metadata
from sparse_ist_tf.export.files.operators import operators
from sparse_ist_tf.export.files.runtimes import Port, ports

_C_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int32": "int32_t", "float32": "float"}
_HEAD = "// Written by sparse_ist_tf.export from {name}.tflite; do not edit.\n"


def write_bundle(
    folder: Path,
    content: bytes,
    name: str,
    example: Mapping[str, np.ndarray],
    expected: np.ndarray,
    arena: int,
    accepted: int = 0,
) -> None:
    """Writes the bundle of a file.

    Args:
        folder: that is made for it.
        content: of the .tflite file, with its metadata.
        name: of the file, without its ending.
        example: a test image, by input name, which main.cc runs.
        expected: what TFLite Micro makes of it, in the file's own numbers.
        arena: bytes that TFLite Micro needs.
        accepted: by how many steps an output may differ from what is expected: as much as export
            accepted between TFLite Micro and LiteRT's reference kernels.

    Raises:
        RequestError: if the file is damaged or carries no metadata.
    """
    labels, run = metadata.read(content, name)
    bare = metadata.strip(content)
    inputs, output = ports(bare, name)
    files = {
        "model_data.h": MODEL_HEADER,
        "model_data.cc": model_source(bare),
        "model_settings.h": _settings(name, inputs, output, labels, run, arena),
        "op_resolver.h": resolver(sorted({op.name for op in operators(bare)})),
        "test_input.h": _test_input(inputs, example, expected, accepted),
        "main.cc": _MAIN,
        "Makefile": MAKEFILE,
        "README.md": _readme(name, len(bare), arena, run["mask"]),
    }
    folder.mkdir(parents=True)
    for file, text in files.items():
        comment = "" if file.endswith((".md", "Makefile")) else head(name)
        (folder / file).write_text(comment + text, encoding="utf-8")


def head(name: str) -> str:
    """The first line of a source."""
    return _HEAD.format(name=name)


def model_source(content: bytes) -> str:
    """model_data.cc of a file."""
    return (
        '#include "model_data.h"\n\n'
        f"alignas(16) const unsigned char g_model_data[{len(content)}] = {{\n"
        f"{_numbers(np.frombuffer(content, np.uint8), '0x{:02x}', 16)}\n}};\n"
        f"const size_t g_model_data_size = {len(content)};\n"
    )


def _settings(
    name: str, inputs: Sequence[Port], output: Port, labels, run: Mapping, arena: int
) -> str:
    lines = []
    for i, port in enumerate(inputs):
        lines += ["", f"// Input {i}: {port.name}.", *_port(f"Input{i}", port)]
    lines += ["", f"// Output: {output.name}.", *_port("Output", output)]
    if labels:
        lines += [
            "",
            f"inline constexpr int kLabelCount = {len(labels)};",
            "inline constexpr const char* kLabels[] = {",
            *(f"    {_string(label)}," for label in labels),
            "};",
        ]
    mask = run["mask"]
    if "cells" in mask:
        said = textwrap.wrap(mask["rule"], 96)
        rows, columns = mask["cells"]
        lines += [
            "",
            *(f"// {line}" for line in said),
            f"inline constexpr int kCellRows = {rows};",
            f"inline constexpr int kCellColumns = {columns};",
        ]
    lines += ["", f"inline constexpr int kVisibleCount = {mask['visible']};"]
    if "positions" in mask:
        lines += [
            "// Row-major positions of the patches that are read; the others need not be sensed.",
            f"inline constexpr uint16_t kVisiblePatches[{mask['visible']}] = {{",
            _numbers(mask["positions"], "{}", 16),
            "};",
        ]
    rest = "\n".join(lines)
    return f"""#ifndef MODEL_SETTINGS_H_
#define MODEL_SETTINGS_H_

#include <cstdint>

inline constexpr char kModelName[] = {_string(name)};
inline constexpr char kRunDigest[] = {_string(run["digest"])};
// Measured with 64-bit pointers; on a 32-bit microcontroller less will do.
inline constexpr int kArenaSize = {arena};

inline constexpr int kInputCount = {len(inputs)};
{rest}

#endif  // MODEL_SETTINGS_H_
"""


def _readme(name: str, flash: int, arena: int, mask: Mapping) -> str:
    text = _README.format(name=name, flash=flash, arena=arena)
    pixels = ["An image's pixel is its byte less 128, as int8.", mask.get("rule", "")]
    if "cell" in mask:
        height, width = mask["cell"]
        pixels.append(
            f"A cell has {height} x {width} pixels: an image of that size goes in as it is."
        )
    elif mask.get("grid") == "sensor":
        pixels.append("Every cell of a camera's image is scaled to its patch by itself.")
    return f"{text}\n{textwrap.fill(' '.join(pixels), 100)}\n"


def _port(prefix: str, port: Port) -> list[str]:
    shape = ", ".join(str(n) for n in port.shape)
    lines = [
        f"using {prefix}Type = {_C_TYPES[port.dtype]};",
        f"inline constexpr int k{prefix}Shape[] = {{{shape}}};",
        f"inline constexpr int k{prefix}Size = {int(np.prod(port.shape))};",
    ]
    if port.scale:
        lines += [
            "// value = scale * (number - zero)",
            f"inline constexpr float k{prefix}Scale = {np.float32(port.scale)!s}f;",
            f"inline constexpr int k{prefix}Zero = {port.zero};",
        ]
    return lines


def resolver(operators: Sequence[str]) -> str:
    """op_resolver.h for some operators, by the names of the schema."""
    adds = "\n".join(
        f"  if (resolver.Add{MICRO_OPERATORS[op]}() != kTfLiteOk) return kTfLiteError;"
        for op in operators
    )
    return f"""#ifndef OP_RESOLVER_H_
#define OP_RESOLVER_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

inline constexpr int kOperatorCount = {len(operators)};
using ModelOpResolver = tflite::MicroMutableOpResolver<kOperatorCount>;

// Registers the operators that the model uses and no others.
inline TfLiteStatus RegisterOperators(ModelOpResolver& resolver) {{
{adds}
  return kTfLiteOk;
}}

#endif  // OP_RESOLVER_H_
"""


def _test_input(
    inputs: Sequence[Port], example: Mapping[str, np.ndarray], expected: np.ndarray, accepted: int
) -> str:
    values = [_numbers(port.encode(example[port.name]).ravel(), "{}", 20) for port in inputs]
    images = "\n".join(
        f"inline constexpr Input{i}Type kTestInput{i}[kInput{i}Size] = {{\n{numbers}\n}};"
        for i, numbers in enumerate(values)
    )
    copies = "\n".join(
        f"  std::memcpy(interpreter.input({i})->data.raw, kTestInput{i}, sizeof(kTestInput{i}));"
        for i in range(len(inputs))
    )
    return f"""#ifndef TEST_INPUT_H_
#define TEST_INPUT_H_

#include <cstring>

#include "model_settings.h"

// The first image of the test split.
{images}

// What the TFLite Micro interpreter makes of it, and by how many steps other kernels may differ
// from that: as many as LiteRT's reference kernels did when the model was exported.
inline constexpr int kAcceptedDifference = {accepted};
inline constexpr OutputType kExpectedOutput[kOutputSize] = {{
{_numbers(np.ravel(expected), "{}", 20)}
}};

template <typename Interpreter>
void FillInputs(Interpreter& interpreter) {{
{copies}
}}

#endif  // TEST_INPUT_H_
"""


def _numbers(values, form: str, per_line: int) -> str:
    texts = [form.format(int(value)) for value in values]
    starts = range(0, len(texts), per_line)
    return "\n".join("    " + ", ".join(texts[i : i + per_line]) + "," for i in starts)


def _string(value: str) -> str:
    """A C string; what isn't ASCII goes in as UTF-8 bytes."""
    if value.isascii() and value.isprintable():
        return json.dumps(value)
    # Octal, since a hexadecimal escape would swallow letters behind it.
    return '"' + "".join(f"\\{byte:03o}" for byte in value.encode()) + '"'


MODEL_HEADER = """#ifndef MODEL_DATA_H_
#define MODEL_DATA_H_

#include <cstddef>

extern const unsigned char g_model_data[];
extern const size_t g_model_data_size;

#endif  // MODEL_DATA_H_
"""

_MAIN = """#include <cstdio>
#include <cstdlib>

#include "model_data.h"
#include "model_settings.h"
#include "op_resolver.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"
#include "test_input.h"

alignas(16) static uint8_t arena[kArenaSize];

int main() {
  tflite::InitializeTarget();
  const tflite::Model* model = tflite::GetModel(g_model_data);
  if (model->version() != TFLITE_SCHEMA_VERSION) {
    std::printf("schema version %u, %d is needed\\n", static_cast<unsigned>(model->version()),
                TFLITE_SCHEMA_VERSION);
    return 1;
  }
  static ModelOpResolver resolver;
  if (RegisterOperators(resolver) != kTfLiteOk) return 1;
  static tflite::MicroInterpreter interpreter(model, resolver, arena, kArenaSize);
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    std::printf("%d bytes of arena are not enough\\n", kArenaSize);
    return 1;
  }
  FillInputs(interpreter);
  if (interpreter.Invoke() != kTfLiteOk) return 1;

  const OutputType* output = tflite::GetTensorData<OutputType>(interpreter.output(0));
  int best = 0;
  int worst_difference = 0;
  for (int i = 0; i < kOutputSize; ++i) {
    std::printf("%d %.6f\\n", i, kOutputScale * (output[i] - kOutputZero));
    if (output[i] > output[best]) best = i;
    const int difference = std::abs(output[i] - kExpectedOutput[i]);
    if (difference > worst_difference) worst_difference = difference;
  }
  std::printf("largest: %d, arena used: %d of %d bytes, off by %d from what was expected, %d may "
              "be\\n", best, static_cast<int>(interpreter.arena_used_bytes()), kArenaSize,
              worst_difference, kAcceptedDifference);
  return worst_difference <= kAcceptedDifference ? 0 : 2;
}
"""

MAKEFILE = """# make TFLM_DIR=path/to/tflite-micro
#
# TFLM_DIR is a checkout in which
# `make -f tensorflow/lite/micro/tools/make/Makefile third_party_downloads`
# has been run, or a tree made by its create_tflm_tree.py. TFLM_LIB may name a library built from
# it; otherwise its sources are compiled here.

TFLM_DIR ?= tflite-micro
CXX ?= c++
CXXFLAGS ?= -O2
DOWNLOADS = $(TFLM_DIR)/tensorflow/lite/micro/tools/make/downloads
CPPFLAGS += -DTF_LITE_STATIC_MEMORY -DTF_LITE_DISABLE_X86_NEON -I. -I$(TFLM_DIR) \\
  -I$(DOWNLOADS)/flatbuffers/include -I$(DOWNLOADS)/gemmlowp -I$(DOWNLOADS)/ruy \\
  -I$(TFLM_DIR)/third_party/flatbuffers/include -I$(TFLM_DIR)/third_party/gemmlowp \\
  -I$(TFLM_DIR)/third_party/ruy
override CXXFLAGS += -std=c++17 -fno-rtti -fno-exceptions -ffunction-sections -fdata-sections

ROOT = $(TFLM_DIR)/tensorflow
TFLM_FOLDERS = compiler/mlir/lite/core/api compiler/mlir/lite/schema lite/core/api lite/core/c \\
  lite/kernels lite/kernels/internal lite/kernels/internal/reference lite/micro \\
  lite/micro/arena_allocator lite/micro/kernels lite/micro/memory_planner \\
  lite/micro/tflite_bridge lite/schema
# The sources for every board; tests, benchmarks and the audio operators stay out.
TFLM_SOURCES = $(filter-out %_test.cc %_test_data.cc %_test_common.cc %test_helpers.cc \\
  %test_helper_custom_ops.cc %mock_micro_graph.cc %kernel_runner.cc %recording_%.cc, \\
  $(foreach folder,$(TFLM_FOLDERS),$(wildcard $(ROOT)/$(folder)/*.cc)))
OBJECTS = $(patsubst $(ROOT)/%.cc,build/%.o,$(TFLM_SOURCES))

ifdef TFLM_LIB
LIBRARY = $(TFLM_LIB)
else
LIBRARY = build/libtflm.a
endif

run: model
\t./model

model: main.cc model_data.cc model_settings.h op_resolver.h test_input.h $(LIBRARY)
\t$(CXX) $(CPPFLAGS) $(CXXFLAGS) main.cc model_data.cc $(LIBRARY) -Wl,--gc-sections -lm -o $@

build/libtflm.a: $(OBJECTS)
\t$(AR) rcs $@ $^

build/%.o: $(ROOT)/%.cc
\t@mkdir -p $(dir $@)
\t$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@

clean:
\trm -rf build model

.PHONY: run clean
"""

_README = """# {name}

`{flash}` bytes of model data, `{arena}` bytes of arena (measured in the TFLite Micro interpreter on
a 64-bit computer).

| file | holds |
|---|---|
| `model_data.h`, `model_data.cc` | the model, 16-byte aligned |
| `model_settings.h` | sizes, scales, labels, and which patches are read |
| `op_resolver.h` | the operators that the model uses, and no others |
| `test_input.h` | the first test image, what must come out, and what difference is accepted |
| `main.cc` | runs it and prints the logits |
| `Makefile` | `make TFLM_DIR=path/to/tflite-micro` builds and runs it on this computer |
"""
