"""The `digits` data set: scikit-learn's 1,797 scanned handwritten digits, 32x32 grayscale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxdml.prepare import base

SIZE = 32
_SPLIT_SEED = 2006

_DESCRIPTION = """\
The 1,797 handwritten digits (8x8, 17 grey levels) that ship with scikit-learn, enlarged to 32x32.
The coarse label is the digit's parity. Train and test are halves of the IMAGES of each digit: they
have all classes in common, so they test retrieval by a finer label than the one trained on, not
retrieval of unseen classes.
"""


class Digits(base.BundledBuilder):
  """Handwritten digits with their parity as coarse label; train and test share all classes.

  The splits are stratified halves of the images of each digit, NOT class-disjoint.

  Features:
    image: PNG, 32 x 32 x 1.
    label: the digit, 0 to 9 (fine label).
    parity: 0 for even, 1 for odd (coarse label).
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012 (TFDS reads a plain dict)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(SIZE, SIZE, 1), encoding_format="png"),
          "label": tfds.features.ClassLabel(names=[str(i) for i in range(10)]),
          "parity": tfds.features.ClassLabel(names=["even", "odd"]),
        }
      ),
      supervised_keys=("image", "label"),
      homepage="https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    """Divides the images of each digit in two halves."""
    del dl_manager
    try:
      from sklearn.datasets import load_digits
    except ImportError as error:
      raise ImportError(
        "The data set 'digits' is made from scikit-learn's scanned digits, and scikit-learn is not "
        "installed. Run: pip install scikit-learn"
      ) from error
    data = load_digits()
    rng = np.random.Generator(np.random.PCG64(_SPLIT_SEED))
    in_train = np.zeros(len(data.target), bool)
    for digit in range(10):
      of_digit = rng.permutation(np.flatnonzero(data.target == digit))
      in_train[of_digit[: (len(of_digit) + 1) // 2]] = True
    return {
      split: self._generate_examples(data, np.flatnonzero(in_train == train), split)
      for split, train in (("train", True), ("test", False))
    }

  def _generate_examples(
    self, data: Any, indices: np.ndarray, split: str
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    for i in tqdm(indices, desc=f"digits: writing {split}", unit=" images", mininterval=0.5):
      gray = np.round(data.images[i] * (255 / 16)).astype(np.uint8)
      large = cv2.resize(gray, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
      digit = int(data.target[i])
      yield (
        f"{i:04d}",
        {"image": base.encode_png(large), "label": digit, "parity": digit % 2},
      )
