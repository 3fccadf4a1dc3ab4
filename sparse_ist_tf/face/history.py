"""What a training in a notebook says, and keeps, of its rounds."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras


def show_into(records: list[dict]) -> Callable[[dict], None]:
    """A function that prints the record of a round, and puts it into a list."""

    def show(record: dict) -> None:
        records.append(record)
        seen = f"loss {record['loss']:.3f}, test {record['test_accuracy']:.3f}"
        print(f"round {record['round']}: {seen}")

    return show


@contextlib.contextmanager
def told(verbose: int) -> Iterator[None]:
    """Keeps what is printed meanwhile to itself where verbose is 0."""
    if verbose:
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def history_of(
    records: Sequence[Mapping], batch_size: int, num_examples: int
) -> keras.callbacks.History:
    """Keras' History of tested rounds.

    Args:
        records: {"step", "loss", "train_accuracy", "test_accuracy"} of each.
        batch_size: of a subnet.
        num_examples: that are trained on.
    """
    history = keras.callbacks.History()
    history.epoch = [record["step"] * batch_size / num_examples for record in records]
    names = {"loss": "loss", "accuracy": "train_accuracy", "val_accuracy": "test_accuracy"}
    history.history = {
        name: [record[source] for record in records] for name, source in names.items()
    }
    return history
