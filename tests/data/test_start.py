"""From the command to the first batch with the metadata of Stanford Online Products."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from jaxdml.prepare import shards, source, writing

IMAGES, CLASSES = 120_053, 22_634
_PNG = cv2.imencode(".png", np.full((4, 4, 3), 7, np.uint8))[1].tobytes()
_SCRIPT = """
import json, resource, sys, time
from jaxdml import data
for name in data.__all__:
  getattr(data, name)  # Imports are not what is measured.
def resident():
  return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
before, since = resident(), time.perf_counter()
train = data.load("tfds:image_folder/products", "train", data_dir=sys.argv[1])
sampler = data.sampling.create("pk", train.column("label"), 64, 2)
fn = data.preprocess.create("standard", 8, True, 3)
with data.train_batches(train, sampler, fn, label="label", seed=0) as batches:
  batch = next(batches)
  seconds, megabytes = time.perf_counter() - since, resident() - before
print(json.dumps([len(train), len(batch["label"]), seconds, megabytes]))
"""


def _serialize(values):
  example = tf_example_pb2.Example()
  feature = example.features.feature
  feature["image"].bytes_list.value.append(values["image"])
  feature["path"].bytes_list.value.append(values["path"].encode())
  feature["label"].int64_list.value.append(values["label"])
  return example.SerializeToString()


class Products:
  """120,053 tiny photos of 22,634 classes, all for training."""

  name, version = "image_folder/products", "1.0.0"
  description, homepage, supervised, fingerprint = "", "", "label", ""
  features = tfds.features.FeaturesDict(
    {
      "image": tfds.features.Image(),
      "path": tfds.features.Text(),
      "label": tfds.features.ClassLabel(num_classes=CLASSES),
    }
  )

  def __init__(self):
    self.items = [
      source.Item("train", f"product_{i}.png", {"label": i % CLASSES}) for i in range(IMAGES)
    ]

  def read(self, start):
    for _ in range(start, IMAGES):
      yield _PNG


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the memory in use there")
def test_the_first_batch_comes_soon_and_the_index_is_small(tmp_path, monkeypatch):
  # Neither what it takes to check a picture nor TFDS's encoder is tested here, 120,053 times.
  monkeypatch.setattr(writing, "_checked", lambda encoded, max_side: (encoded, None))
  monkeypatch.setattr(shards, "serializer", lambda features: _serialize)
  writing.write(Products(), tmp_path)
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
  result = subprocess.run(
    [sys.executable, "-c", _SCRIPT, tmp_path], env=environment, capture_output=True, check=True
  )
  records_read, batch, seconds, megabytes = json.loads(result.stdout)
  assert (records_read, batch) == (IMAGES, 64)
  assert seconds < 6  # Under 3 on a quiet machine: benchmarks/input_pipeline.py.
  assert megabytes < 100
