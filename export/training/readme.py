"""What stands beside a file that trains, for who builds the device's program."""

from sparse_ist_tf.export.training.recipe import Recipe
from sparse_ist_tf.runs.finished_run import FinishedRun


def readme(recipe: Recipe, name: str, run: FinishedRun) -> str:
    """A page in Markdown.

    Args:
        recipe: of the subnet.
        name: of the file.
        run: that it is of.
    """
    rows = "\n".join(
        f"| `{key}` | {'int32' if key == 'step' else 'float32'} | {list(shape)} |"
        for key, shape in recipe.shapes.items()
    )
    labels = "\n".join(f"{i}. {label}" for i, label in enumerate(run.labels))
    return _TEXT.format(
        name=name,
        b=recipe.batch_size,
        f=recipe.feature_dim,
        c=recipe.num_classes,
        optimizer=recipe.optimizer["class_name"],
        state=rows,
        labels=labels,
    )


_TEXT = """# {name}

A subnet that trains in LiteRT, with {optimizer}; all operators are LiteRT's own. Encode images
once, by the encoder's file of the same run, and train on the features.

| signature | takes | gives |
|---|---|---|
| `train` | `features` [{b}, {f}], `labels` [{b}], `learning_rate` | `loss`, `accuracy` |
| `infer` | `feature` [1, {f}] | `logits` [1, {c}] |
| `read` | | the state by name |
| `write` | the state by name | `written`, how many arrays |

The state is what has to be kept where a program ends: `read` it, store it, `write` it.

| state | type | shape |
|---|---|---|
{state}

Labels are int32, all else is float32. `loss` is of the batch before the step, in nats. `step`
counts updates. `adjustment` is what the loss, not `infer`, adds to the logits.

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("{name}")
train = interpreter.get_signature_runner("train")
features = np.random.rand({b}, {f}).astype(np.float32)
labels = np.arange({b}, dtype=np.int32) % {c}
for step in range(20):
    seen = train(features=features, labels=labels, learning_rate=np.float32(1e-3))
    print(step, float(seen["loss"]), float(seen["accuracy"]))
state = interpreter.get_signature_runner("read")()
np.savez("state.npz", **state)
interpreter.get_signature_runner("write")(**state)
```

Labels:

{labels}
"""
