"""Images that cannot be decoded: replaced in training, masked in evaluation, counted in both."""

import os
from multiprocessing import shared_memory

import grain.python as grain
import numpy as np
import pytest

from jaxdml import data
from jaxdml.data import loading, records

LABELS = np.repeat([0, 1, 2], [4, 4, 2])
TRAIN = data.preprocess.create("standard", 32, True, 3)
EVAL = data.preprocess.create("standard", 32, False, 3)


def _train(dataset, share=0.5, steps=8, **options):
  sampler = data.sampling.create("pk", dataset.column("label"), 6, 2, seed=1)
  bad = data.BadImages(dataset, share)
  options = {"label": "label", "seed": 0, "num_steps": steps, "bad_images": bad, **options}
  with data.train_batches(dataset, sampler, TRAIN, **options) as batches:
    return sampler, bad, list(batches)


def test_in_training_the_next_image_of_the_class_takes_the_slot(photos, capfd):
  # The record after 1 is damaged too; after the last of a class comes its first.
  dataset = photos(LABELS, bad=(1, 2, 7))
  stand_ins = {1: 3, 2: 3, 7: 4}
  sampler, bad, batches = _train(dataset)
  seen = set()
  for step, batch in enumerate(batches):
    wanted = sampler(step)
    np.testing.assert_array_equal(batch["replaced"], np.isin(wanted, list(stand_ins)))
    np.testing.assert_array_equal(batch["index"], [stand_ins.get(i, i) for i in wanted])
    np.testing.assert_array_equal(batch["label"], LABELS[batch["index"]])
    for slot, index in enumerate(batch["index"]):
      shown = TRAIN(dataset.read([index])[0], loading.SlotRngs(0, step).at(slot))
      np.testing.assert_array_equal(batch["image"][slot], shown)
    seen |= set(wanted.tolist())
  assert seen == set(range(10))
  assert sorted(bad.reasons) == [1, 2, 7] and len(bad) == 3
  error = capfd.readouterr().err
  assert error.count("cannot decode") == 1
  assert "data set 'photos', split 'train' (file 'straße/" in error
  assert "another image of its class takes its place" in error
  # A run that resumes sees the same.
  again = _train(dataset, steps=2, start_step=6)[2]
  for batch, other in zip(again, batches[6:], strict=True):
    assert all(np.array_equal(batch[key], other[key]) for key in other)


def test_the_name_of_what_is_damaged_steers_no_terminal(photos, capfd):
  data.BadImages(photos(LABELS), 0.5).add({1: "c/\x1b[2Jbad.png: no image"}, "it is left out")
  assert "cannot decode c/[U+001B][2Jbad.png" in capfd.readouterr().err


def test_in_evaluation_it_is_masked(photos, capfd):
  dataset = photos(LABELS, bad=(1, 9))
  bad = data.BadImages(dataset, 0.2)
  for _ in range(2):
    with data.eval_batches(dataset, EVAL, 4, bad_images=bad) as batches:
      got = {key: np.concatenate(values) for key, values in _columns(batches).items()}
    assert np.flatnonzero(got["mask"]).tolist() == [0, 2, 3, 4, 5, 6, 7, 8]
    assert got["index"].tolist() == [*range(10), 9, 9]
    assert (got["image"][~got["mask"]] == 0).all()
    assert all(image.any() for image in got["image"][got["mask"]])
  assert sorted(bad.reasons) == [1, 9]
  assert capfd.readouterr().err.count("cannot decode") == 1


def _columns(batches):
  batches = list(batches)
  return {key: [batch[key] for batch in batches] for key in batches[0]}


def test_too_many_stop_it_with_one_error_that_names_them(photos):
  dataset = photos(LABELS, bad=(1, 2, 7))
  with pytest.raises(data.ImageDecodeError) as caught:
    _train(dataset, share=0.2)
  message = str(caught.value)
  assert "3 of 10 images cannot be decoded, more than data.max_bad_images=0.2 of them" in message
  assert all(
    f"file 'straße/{i}.jpg', record {i} of 'train' in /photos" in message for i in (1, 2, 7)
  )
  with (
    data.eval_batches(dataset, EVAL, 4, bad_images=data.BadImages(dataset, 0)) as batches,
    pytest.raises(data.ImageDecodeError, match=r"^2 of 10 images .*\nrecord 1 of data set"),
  ):
    next(batches)
  many = photos(np.repeat(np.arange(4), 5), bad=tuple(range(15)))
  with (
    data.eval_batches(many, EVAL, 20) as batches,
    pytest.raises(data.ImageDecodeError, match=r"and 10 more$"),
  ):
    list(batches)


def test_a_class_without_any_image_stops_training(photos):
  with pytest.raises(data.ImageDecodeError, match=r"no image of class 2 can be decoded \(2 in"):
    _train(photos(LABELS, bad=(8, 9)))


@pytest.mark.slow
def test_what_is_damaged_crosses_from_a_worker(photos, capfd):
  dataset = photos(LABELS, bad=(5,))
  bad = data.BadImages(dataset, 0.1)
  with data.eval_batches(dataset, EVAL, 10, 1, bad) as batches:
    (batch,) = batches
  assert batch["mask"].tolist() == [True] * 5 + [False] + [True] * 4
  assert list(bad.reasons) == [5]
  # Pixels that a worker wrote into shared memory are handed over as plain arrays.
  assert type(batch["image"]) is np.ndarray
  shared = batch["image"].base
  assert isinstance(shared, grain.SharedMemoryArray)
  with pytest.raises(FileNotFoundError):  # Whoever keeps the array, the name is given back.
    shared_memory.SharedMemory(shared.shm.name)


def test_a_share_that_makes_no_sense(photos):
  with pytest.raises(ValueError, match=r"data\.max_bad_images must be a share in \[0, 1\), got 1"):
    data.BadImages(photos(), 1)


def test_the_file_is_read_from_the_record(cars_dir, digits):
  cars = data.load("cars196", "train", data_dir=cars_dir)
  directory = os.fspath(cars.directory)
  source = records.open_records(directory, cars.tfds_split)
  assert records.read_text(source, cars.rows[0], "id").endswith(f"-{cars.labels['label'][0]}")
  assert cars.path(0) is None and digits["train"].path(0) is None
