"""The C++ sources that train a subnet on a microcontroller: model, state, operators, a main."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparse_ist_tf.export.devices import bundle as inference
from sparse_ist_tf.export.files.operators import operators
from sparse_ist_tf.export.training import micro
from sparse_ist_tf.export.training.recipe import ADJUSTMENT, STEP, Recipe

STEPS = 10  # that main.cc trains on one batch
MOST = 1e-4  # that a loss may be off


class Training(NamedTuple):
    """What a bundle holds.

    Args:
        name: of the file, without its ending.
        recipe: of the subnet.
        content: of micro.make_step.
        state: where training begins.
        arena: bytes that TFLite Micro needs.
    """

    name: str
    recipe: Recipe
    content: bytes
    state: dict[str, np.ndarray]
    arena: int


def write(folder: Path, training: Training, batches: Mapping[str, np.ndarray]) -> None:
    """Writes the bundle of a step.

    Args:
        folder: that is made for it.
        training: what it holds.
        batches: as micro.run takes them; main.cc trains on the first.

    Raises:
        RunError: if TFLite Micro can't run it.
    """
    first = {
        "features": np.repeat(batches["features"][:1], STEPS, axis=0),
        "labels": np.repeat(batches["labels"][:1], STEPS, axis=0),
        "rates": batches["rates"][:STEPS],
    }
    found = micro.run(training.recipe, training.content, training.state, first)
    files = {
        "model_data.h": inference.MODEL_HEADER,
        "model_data.cc": inference.model_source(training.content),
        "op_resolver.h": inference.resolver(sorted({o.name for o in operators(training.content)})),
        "training_settings.h": _settings(training),
        "initial_state.h": _state(training),
        "test_batch.h": _test_batch(training, first, found.losses),
        "main.cc": _MAIN,
        "Makefile": _makefile(),
        "README.md": _readme(training),
    }
    folder.mkdir(parents=True)
    for file, text in files.items():
        comment = "" if file.endswith((".md", "Makefile")) else inference.head(training.name)
        (folder / file).write_text(comment + text, encoding="utf-8")


def _moved(recipe: Recipe) -> list[str]:
    """What a step changes, in the order of the state."""
    return [name for names in recipe.columns.values() for name in names]


def _settings(training: Training) -> str:
    recipe, at = training.recipe, micro.places(training.content)
    update, rows, offset = recipe.update, [], 0
    for name in _moved(recipe):
        size = int(np.prod(recipe.shapes[name]))
        rows.append(f'    {{"{name}", {at.inputs[name]}, {at.outputs[name]}, {offset}, {size}}},')
        offset += size
    entries = "\n".join(rows)
    return f"""#ifndef TRAINING_SETTINGS_H_
#define TRAINING_SETTINGS_H_

inline constexpr char kModelName[] = "{training.name}";
// Measured with 64-bit pointers; on a 32-bit microcontroller less will do.
inline constexpr int kArenaSize = {training.arena};

inline constexpr int kBatchSize = {recipe.batch_size};
inline constexpr int kFeatureSize = {recipe.feature_dim};
inline constexpr int kClassCount = {recipe.num_classes};

// Places among the model's inputs and outputs.
inline constexpr int kFeaturesInput = {at.inputs[micro.FEATURES]};
inline constexpr int kTruthInput = {at.inputs[micro.TRUTH]};
inline constexpr int kRatesInput = {at.inputs[micro.RATES]};
inline constexpr int kAdjustmentInput = {at.inputs[ADJUSTMENT]};
inline constexpr int kLossOutput = {at.outputs[micro.LOSS]};
inline constexpr int kLogitsOutput = {at.outputs[micro.LOGITS]};

struct StateEntry {{
  const char* name;
  int input;
  int output;
  int offset;  // in the state, in floats
  int size;
}};
// Weights, each before its moments.
inline constexpr StateEntry kEntries[] = {{
{entries}
}};
inline constexpr int kStateSize = {offset};

// The second rate makes up for moments that began at 0.
inline constexpr bool kIsAdam = {str(update.kind == "adam").lower()};
inline constexpr double kBeta1 = {update.beta_1!r};
inline constexpr double kBeta2 = {update.beta_2!r};

#endif  // TRAINING_SETTINGS_H_
"""


def _state(training: Training) -> str:
    values = [training.state[name].ravel() for name in _moved(training.recipe)]
    adjustment = training.state[ADJUSTMENT]
    return f"""#ifndef INITIAL_STATE_H_
#define INITIAL_STATE_H_

#include "training_settings.h"

// Steps that the moments have seen.
inline constexpr int kInitialStep = {int(training.state[STEP])};
inline constexpr float kInitialState[kStateSize] = {{
{_floats(np.concatenate(values))}
}};
// What the loss adds to the logits.
inline constexpr float kAdjustment[kClassCount] = {{
{_floats(adjustment)}
}};

#endif  // INITIAL_STATE_H_
"""


def _test_batch(training: Training, batches: Mapping[str, np.ndarray], losses: np.ndarray) -> str:
    labels = ", ".join(str(int(label)) for label in batches["labels"][0])
    return f"""#ifndef TEST_BATCH_H_
#define TEST_BATCH_H_

#include "training_settings.h"

inline constexpr float kTestFeatures[kBatchSize * kFeatureSize] = {{
{_floats(batches["features"][0].ravel())}
}};
inline constexpr int kTestLabels[kBatchSize] = {{{labels}}};
inline constexpr float kTestRate = {_float(batches["rates"][0])};
// Losses of so many steps on that batch in the TFLite Micro interpreter.
inline constexpr int kTestSteps = {len(losses)};
inline constexpr float kExpectedLosses[kTestSteps] = {{
{_floats(losses)}
}};
inline constexpr float kAcceptedDifference = {_float(MOST)};

#endif  // TEST_BATCH_H_
"""


def _float(value: float) -> str:
    text = repr(float(np.float32(value)))
    return f"{text}f"


def _floats(values: np.ndarray) -> str:
    texts = [_float(value) for value in values]
    return "\n".join("    " + ", ".join(texts[i : i + 8]) + "," for i in range(0, len(texts), 8))


def _makefile() -> str:
    """The one of a bundle that infers, of this one's headers."""
    headers = "training_settings.h initial_state.h op_resolver.h test_batch.h"
    return inference.MAKEFILE.replace("model_settings.h op_resolver.h test_input.h", headers)


def _readme(training: Training) -> str:
    recipe = training.recipe
    held = 4 * sum(int(np.prod(recipe.shapes[name])) for name in _moved(recipe))
    return _README.format(
        name=training.name,
        flash=len(training.content),
        held=held,
        arena=training.arena,
        rows=recipe.batch_size,
        features=recipe.feature_dim,
    )


_MAIN = """#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "initial_state.h"
#include "model_data.h"
#include "op_resolver.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"
#include "test_batch.h"
#include "training_settings.h"

alignas(16) static uint8_t arena[kArenaSize];
static float state[kStateSize];
static int steps = kInitialStep;

static float* Input(tflite::MicroInterpreter& interpreter, int index) {
  return tflite::GetTensorData<float>(interpreter.input(index));
}

// Trains on a batch; false where the interpreter fails.
static bool Step(tflite::MicroInterpreter& interpreter, const float* features, const int* labels,
                 float rate, float* loss) {
  ++steps;
  // All inputs are written in every step: the interpreter may put other tensors where they were.
  for (const StateEntry& entry : kEntries) {
    std::memcpy(Input(interpreter, entry.input), state + entry.offset, entry.size * sizeof(float));
  }
  std::memcpy(Input(interpreter, kFeaturesInput), features,
              kBatchSize * kFeatureSize * sizeof(float));
  float* truth = Input(interpreter, kTruthInput);
  for (int i = 0; i < kBatchSize; ++i) {
    for (int k = 0; k < kClassCount; ++k) truth[i * kClassCount + k] = labels[i] == k ? 1.0f : 0.0f;
  }
  std::memcpy(Input(interpreter, kAdjustmentInput), kAdjustment, sizeof(kAdjustment));
  float* rates = Input(interpreter, kRatesInput);
  rates[0] = rates[1] = rate;
  if (kIsAdam) {
    rates[1] = static_cast<float>(rate * std::sqrt(1 - std::pow(kBeta2, steps)) /
                                  (1 - std::pow(kBeta1, steps)));
  }
  if (interpreter.Invoke() != kTfLiteOk) return false;
  for (const StateEntry& entry : kEntries) {
    std::memcpy(state + entry.offset,
                tflite::GetTensorData<float>(interpreter.output(entry.output)),
                entry.size * sizeof(float));
  }
  *loss = tflite::GetTensorData<float>(interpreter.output(kLossOutput))[0];
  return true;
}

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
  std::memcpy(state, kInitialState, sizeof(state));
  float worst = 0;
  for (int i = 0; i < kTestSteps; ++i) {
    float loss;
    if (!Step(interpreter, kTestFeatures, kTestLabels, kTestRate, &loss)) return 1;
    const float off = std::fabs(loss - kExpectedLosses[i]);
    std::printf("step %d loss %.6f\\n", i + 1, loss);
    if (!(off <= worst)) worst = off;
  }
  std::printf("arena used: %d of %d bytes, state: %d bytes, losses off by %.1e from what was "
              "expected, %.1e may be\\n", static_cast<int>(interpreter.arena_used_bytes()),
              kArenaSize, static_cast<int>(sizeof(state)), worst, kAcceptedDifference);
  return worst <= kAcceptedDifference ? 0 : 2;
}
"""

_README = """# {name}

Trains a subnet on a microcontroller, {rows} features of {features} numbers a step. `{flash}` bytes
of model data, `{arena}` bytes of arena (measured in the TFLite Micro interpreter on a 64-bit
computer) and `{held}` bytes for weights and moments, which lie outside of the arena.

| file | holds |
|---|---|
| `model_data.h`, `model_data.cc` | the step, 16-byte aligned |
| `training_settings.h` | sizes, and where each weight and moment goes in and comes out |
| `initial_state.h` | where training begins |
| `op_resolver.h` | the operators that the step uses, and no others |
| `test_batch.h` | a batch, and the losses of some steps on it |
| `main.cc` | trains on that batch, prints the losses and compares them |
| `Makefile` | `make TFLM_DIR=path/to/tflite-micro` builds and runs it on this computer |

`Step` in `main.cc` is all that a program of one's own needs: it takes features, labels and the
learning rate. `state` is what goes home: weights, each before its moments, in the order of
`kEntries`.
"""
