import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.inputs import datasets, records

DATA = os.environ.get("SPARSE_IST_DATA")


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def photos(tmp_path):
    """Ten images in each of two classes, one unreadable."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(10):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    (tmp_path / "dog" / "3.png").write_bytes(b"broken")
    return tmp_path


def test_digits_are_split_and_scaled():
    splits = datasets.load("digits")
    assert {part: s.size for part, s in splits.items()} == {"train": 1437, "test": 360}
    for part, split in splits.items():
        assert split.name == f"digits/{part}"
        assert split.num_classes == 10
        assert split.labels.dtype == np.int32
        counts = np.bincount(split.labels)
        assert counts.min() > 0.9 * counts.mean()
    rows = list(splits["test"].dataset(64, batch_size=100).as_numpy_iterator())
    assert [len(r["label"]) for r in rows] == [100, 100, 100, 60]
    images = np.concatenate([r["image"] for r in rows])
    assert images.shape == (360, 64, 64, 3)
    assert images.dtype == np.uint8
    assert images.max() == 255
    assert images.min() == 0
    assert np.array_equal(images[..., 0], images[..., 2])
    np.testing.assert_array_equal(np.concatenate([r["index"] for r in rows]), np.arange(360))
    np.testing.assert_array_equal(np.concatenate([r["label"] for r in rows]), splits["test"].labels)


def test_digits_depend_on_the_seed_alone():
    first, again, other = (datasets.load("digits", split_seed=s)["test"] for s in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.fingerprint != datasets.load("digits")["train"].fingerprint
    assert not np.array_equal(first.labels, other.labels)


def test_any_stretch_of_a_split_reads_the_same():
    split = datasets.load("digits")["train"]
    whole = [r["image"] for r in split.dataset(16, stop=40).as_numpy_iterator()]
    rows = list(split.dataset(16, start=10, stop=35, batch_size=8).as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate([r["image"] for r in rows]), whole[10:35])
    np.testing.assert_array_equal(np.concatenate([r["index"] for r in rows]), np.arange(10, 35))
    assert list(split.dataset(16, start=5, stop=5)) == []
    assert split.dataset(16, start=5, stop=9).cardinality() == 4


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"scale": 0}, "image_size=0"),
        ({"scale": 8, "start": -1}, "images -1 to 360"),
        ({"scale": 8, "start": 9, "stop": 8}, "images 9 to 8"),
        ({"scale": 8, "stop": 361}, "images 0 to 361: .* 360"),
    ],
)
def test_impossible_stretches_are_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        datasets.load("digits")["test"].dataset(**arguments)


def test_images_are_scaled_with_antialiasing():
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (32, 16, 3))
    scaled = datasets.Split(
        "x", datasets.ArraySource(stripes[None]), np.zeros(1, np.int32), ("a",), ""
    ).dataset(8)
    image = next(iter(scaled))["image"].numpy()
    assert abs(image[:, 1:-1].astype(int) - 128).max() < 10


def test_unknown_names_and_choices():
    with pytest.raises(
        RequestError, match=r"dataset\.name='mnist': must be one of mnist5k, digits, cifar10"
    ):
        datasets.load("mnist")
    with pytest.raises(RequestError, match=r"dataset\.on_bad_image='ignore': must be one of error"):
        datasets.load("digits", on_bad_image="ignore")


def test_an_unreadable_image_is_named(photos):
    splits = datasets.load(f"folder:{photos}")
    rows = splits["train"].dataset(8).concatenate(splits["test"].dataset(8))
    with pytest.raises(RunError) as caught, datasets.image_errors():
        list(rows)
    assert str(photos / "dog" / "3.png") in one_line(caught)


def test_unreadable_images_are_skipped_and_counted(photos, capsys):
    plain = datasets.load(f"folder:{photos}")
    splits = datasets.load(f"folder:{photos}", on_bad_image="skip")
    assert sum(s.size for s in splits.values()) == 19
    for part, split in splits.items():
        rows = list(split.dataset(8).as_numpy_iterator())
        assert [r["index"] for r in rows] == list(range(split.size))
        assert [r["label"] for r in rows] == split.labels.tolist()
        changed = split.size != plain[part].size
        assert changed == (split.fingerprint != plain[part].fingerprint)
    [warning] = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: ")
    assert "left out 1 of" in warning
    assert "3.png" in warning


def test_only_unreadable_images(photos):
    for path in photos.glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(RequestError, match=r"none of \d+ images can be read"):
        datasets.load(f"folder:{photos}", on_bad_image="skip")


def test_skipping_keeps_whole_data_as_it_is(photos):
    (photos / "dog" / "3.png").unlink()
    plain = datasets.load(f"folder:{photos}")
    splits = datasets.load(f"folder:{photos}", on_bad_image="skip")
    assert [s.fingerprint for s in splits.values()] == [s.fingerprint for s in plain.values()]


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    monkeypatch.delenv("SPARSE_IST_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("aid", "download AID.zip"),
        ("resisc45", "download NWPU-RESISC45.rar"),
        ("rsscn7", "clone https://github.com/palewithout/RSSCN7"),
    ],
)
def test_missing_data_says_what_brings_it(no_data, name, remedy):
    for data_dir, place in ((None, no_data / "nowhere"), (str(no_data), no_data)):
        with pytest.raises(RequestError) as caught:
            datasets.load(name, data_dir=data_dir)
        text = one_line(caught)
        assert f"{name}: not in {place}" in text
        assert remedy in text
        assert str(place / "downloads" / "manual") in text


def test_a_data_dir_that_is_not_there(no_data):
    with pytest.raises(RequestError, match=r"data_dir=.*gone: there is no such folder"):
        datasets.load("aid", data_dir=str(no_data / "gone"))


def test_a_failed_download_is_one_line(no_data, monkeypatch):
    monkeypatch.setitem(records._DOWNLOADED, "cifar10", "http://127.0.0.1:9/")
    with pytest.raises(RunError, match=r"cifar10: could not be prepared .*tfds build cifar10"):
        datasets.load("cifar10", data_dir=str(no_data))


def write_prepared(folder, parts, labels=("a", "b"), file_format="tfrecord"):
    """A data set as TFDS prepares it: one file per part, images of one colour."""
    import tensorflow_datasets as tfds

    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=labels),
        }
    )
    infos = []
    for part, count in parts.items():
        with tf.io.TFRecordWriter(str(folder / f"x-{part}.tfrecord-00000-of-00001")) as writer:
            for i in range(count):
                image = tf.fill((4, 4, 3), tf.constant(i, tf.uint8))
                writer.write(features.serialize_example({"image": image.numpy(), "label": i % 2}))
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        infos.append(
            tfds.core.SplitInfo(
                name=part,
                shard_lengths=[count],
                num_bytes=1,
                filename_template=tfds.core.ShardedFileTemplate(
                    template=template, dataset_name="x", data_dir=folder, filetype_suffix="tfrecord"
                ),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=infos, version=folder.name
    )
    info = folder / "dataset_info.json"
    text = info.read_text().replace('"name": "my_dataset"', '"name": "x"')
    info.write_text(text.replace('"fileFormat": "tfrecord"', f'"fileFormat": "{file_format}"'))
    for file in folder.glob("x-*"):
        assert file.exists()


def first_pixels(split):
    return [int(r["image"][0, 0, 0]) for r in split.dataset(4).as_numpy_iterator()]


def test_prepared_data_loads_in_its_order(no_data):
    write_prepared(no_data / "cifar10" / "2.0.0", {"train": 3, "test": 3})
    write_prepared(no_data / "cifar10" / "10.0.0", {"train": 12, "test": 5})
    splits = datasets.load("cifar10", data_dir=str(no_data))
    assert splits["train"].class_names == ("a", "b")
    assert splits["train"].labels.tolist() == [0, 1] * 6
    assert first_pixels(splits["train"]) == list(range(12))
    assert first_pixels(splits["test"]) == list(range(5))
    rows = list(splits["train"].dataset(4, start=7, stop=9).as_numpy_iterator())
    assert [int(r["image"][0, 0, 0]) for r in rows] == [7, 8]
    assert splits["train"].fingerprint != splits["test"].fingerprint


def test_the_environment_says_where_data_is(no_data, monkeypatch):
    write_prepared(no_data / "here" / "cifar10" / "3.0.2", {"train": 4, "test": 2})
    monkeypatch.setenv("SPARSE_IST_DATA", str(no_data / "here"))
    assert datasets.load("cifar10")["test"].size == 2


def test_resisc45_is_split_at_random_in_the_papers_proportion(no_data):
    write_prepared(no_data / "resisc45" / "3.0.0", {"train": 63})
    splits = datasets.load("resisc45", data_dir=str(no_data))
    assert (splits["train"].size, splits["test"].size) == (54, 9)
    train, test = first_pixels(splits["train"]), first_pixels(splits["test"])
    assert sorted(train + test) == list(range(63))
    assert train == sorted(train)
    assert [i % 2 for i in test] == splits["test"].labels.tolist()
    rows = list(splits["test"].dataset(4, start=3, stop=6).as_numpy_iterator())
    assert [int(r["image"][0, 0, 0]) for r in rows] == test[3:6]
    other = datasets.load("resisc45", data_dir=str(no_data), split_seed=1)
    assert first_pixels(other["test"]) != test
    assert other["test"].fingerprint != splits["test"].fingerprint
    assert list(splits["test"].dataset(4, start=9)) == []


def test_damaged_records_are_one_line(no_data):
    folder = no_data / "cifar10" / "3.0.2"
    write_prepared(folder, {"train": 40, "test": 2})
    [file] = folder.glob("x-train*")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    with pytest.raises(RunError, match=f"cifar10: can't read {folder}") as caught:
        datasets.load("cifar10", data_dir=str(no_data))
    one_line(caught)


def test_truncated_sets_and_other_formats_are_refused(no_data):
    folder = no_data / "cifar10" / "3.0.2"
    write_prepared(folder, {"train": 4, "test": 2})
    (folder / "x-test.tfrecord-00000-of-00001").write_bytes(b"")
    with pytest.raises(RunError, match="has 0 records of 2"):
        datasets.load("cifar10", data_dir=str(no_data))
    write_prepared(no_data / "cifar10" / "4.0.0", {"train": 4}, file_format="riegeli")
    with pytest.raises(RequestError, match="has riegeli files; must be tfrecord"):
        datasets.load("cifar10", data_dir=str(no_data))


def test_an_unreadable_record_is_named_or_skipped(no_data):
    folder = no_data / "cifar10" / "3.0.2"
    write_prepared(folder, {"train": 5, "test": 2})
    file = folder / "x-train.tfrecord-00000-of-00001"
    examples = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    broken = tf.train.Example.FromString(examples[3])
    broken.features.feature["image"].bytes_list.value[0] = b"broken"
    examples[3] = broken.SerializeToString()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for example in examples:
            writer.write(example)
    split = datasets.load("cifar10", data_dir=str(no_data))["train"]
    with (
        pytest.raises(RunError, match="cifar10/train, record 3: can't be read"),
        datasets.image_errors(),
    ):
        first_pixels(split)
    split = datasets.load("cifar10", data_dir=str(no_data), on_bad_image="skip")["train"]
    assert first_pixels(split) == [0, 1, 2, 4]


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="SPARSE_IST_DATA is not set")
@pytest.mark.parametrize(
    ("name", "sizes", "classes"), [("aid", (8500, 1500), 30), ("cifar10", (50_000, 10_000), 10)]
)
def test_real_sets_have_the_papers_sizes(name, sizes, classes):
    for splits in (datasets.load(name), datasets.load(name, data_dir=DATA)):
        assert tuple(split.size for split in splits.values()) == sizes
        assert splits["train"].num_classes == classes
        assert set(splits["train"].labels) == set(range(classes))
    split = splits["test"]
    batch = next(iter(split.dataset(64, start=100, batch_size=32)))
    assert batch["image"].shape == (32, 64, 64, 3)
    assert 20 < batch["image"].numpy().std() < 120
    np.testing.assert_array_equal(batch["label"], split.labels[100:132])


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="SPARSE_IST_DATA is not set")
def test_real_labels_fit_their_images():
    """AID's file names hold the class, and the prepared set keeps them."""
    split = datasets.load("aid")["test"]
    [file] = sorted(Path(DATA).glob("aid/1.0.0/aid-test*"))
    wanted = {"filename": tf.io.FixedLenFeature((), tf.string)}
    data = tf.data.TFRecordDataset(str(file)).map(lambda r: tf.io.parse_single_example(r, wanted))
    names = [row["filename"].decode() for row in data.as_numpy_iterator()]
    assert [split.class_names[i].lower() for i in split.labels] == [n.split("_")[0] for n in names]
