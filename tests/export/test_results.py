"""What is remembered of a file, and what is printed of it."""

import json
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparse_ist_tf.export.devices.edge_tpu import Mapping
from sparse_ist_tf.export.results import Accuracy, Comparison, Micro, Result, table, wrapped

MAPPING = Mapping(1, 2, 0.5, "edgetpu_compiler", ("1 ADD Mapped to Edge TPU",))
MICRO = Micro(64, 0.5, 0.75, flash=7, arena=9_999, difference=0, agreement=1.0)
RESULTS = {
    "plain": Result("a.tflite", "head", "int8", 5, {"ADD": 2}, 7, notes=["x"]),
    "mapped": Result(
        "b.tflite", "head", "int8", 5, mapping=MAPPING, problems=["loses 3.00 points"]
    ),
    "micro": Result("c.tflite", "head", "int8", 5, comparison=Comparison(4, 0.5), micro=MICRO),
}


@pytest.mark.parametrize("case", RESULTS)
def test_a_result_survives_json(case):
    stored = json.loads(json.dumps(RESULTS[case].as_dict()))
    assert Result.from_dict(stored) == RESULTS[case]
    stored["numbers"] = stored.pop("quantize")  # as version 0.1.0 wrote it
    assert Result.from_dict(stored) == RESULTS[case]


def test_a_record_is_flat():
    stored = RESULTS["micro"].as_dict()
    assert (stored["images"], stored["accuracy"], stored["good"]) == (4, 0.5, True)
    assert (stored["flash"], stored["arena"], stored["micro_images"]) == (7, 9_999, 64)
    assert RESULTS["plain"].as_dict()["arena"] is None


def test_the_table_says_what_failed():
    text = table(list(RESULTS.values()))
    assert "b.tflite: FAILED: loses 3.00 points" in text
    assert "b.tflite: Edge TPU runs 1 of 2 operators" in text
    assert "arena 9,999 bytes" in text
    assert "bit for bit on 64 images" in text
    assert "accuracy there 50.00 % (float 75.00 %)" in text


def test_the_table_fits_a_terminal_and_explains_itself():
    name = "resisc45_vit_small_patch16_m50_classifier_subnet15of16_sensor_int16x8.tflite"
    times = {"1 thread": (1234.5, 2345.6), "all threads": (99.123, 99.456)}
    large = Result(name, "classifier_sensor", "int16x8", 123_456_789, {"ADD": 2}, 12_345_678)
    large.latency, large.comparison = times, Comparison(9999, 1.0, 1.0, 1.0, 12.3456, 123.456)
    large.problems = ["loses 3.00 points of accuracy, at most 0.5 may be; " + "and so on, " * 9]
    text = table([large, *RESULTS.values()])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    columns = lines[0].split("  ")
    for column in ("accuracy", "float", "same", "mean d", "ms", "memory"):
        assert any(column in title for title in columns)
    for word in ("accuracy:", "float:", "same:", "d:", "ms:", "memory:"):
        assert word in text


@pytest.mark.parametrize("text", ["", "short", "one, two; three", "x" * 150, "a " * 90, "b, " * 90])
def test_wrapped_lines_hold_all_words(text):
    lines = wrapped(text).splitlines()
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    assert all(len(line) <= 100 for line in lines if " " in line.strip())


@example(images=1000, lost=15, right=812)
@given(images=st.integers(1, 20_000), lost=st.integers(0, 200), right=st.integers(0, 20_000))
def test_what_a_bound_allows_is_lost_to_the_image(images, lost, right):
    before = min(right, images)
    after = max(0, before - lost)
    found = Accuracy(images, after / images, before / images)
    for bound in (0.5, 1.0, 1.5, 2.0):
        assert (found.drop > bound) == (Fraction(100 * (before - after), images) > Fraction(bound))
