"""The `glyphs` data set: 1,700 letters of six scripts, drawn by 16 fonts, 32x32 grayscale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxdml.prepare import base, drawing

_SPLIT_SEED = 2019

_DESCRIPTION = """\
Letters (Unicode categories L*) that at least 8 of the TrueType fonts bundled with matplotlib draw,
rendered to 32x32 grayscale, bright on dark, on a common em and baseline so that the size of
capital and small letters is kept; drawings that do not fit are shrunk. Letters whose drawings are
the same in at least half of the fonts that draw both (A in Latin, Greek and Cyrillic) are one
class, named by its smallest code point. Train and test have no class in common, half of the
classes each.
"""


class Glyphs(base.BundledBuilder):
  """Letters drawn by matplotlib's bundled fonts; class-disjoint train and test.

  Features:
    image: PNG, 32 x 32 x 1.
    label: class id, in the order of the classes' smallest code points (fine label).
    base_letter: that code point without case and marks (coarse label).
    script: that code point's script (coarsest label).
    font: the font that drew the image.
    codepoint: the code point that was drawn; within a class and font the smallest that looks so.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012 (TFDS reads a plain dict)

  def _info(self) -> tfds.core.DatasetInfo:
    # The names are known once the letters are drawn; TFDS stores them with the data.
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(
            shape=(drawing.SIZE, drawing.SIZE, 1), encoding_format="png"
          ),
          "label": tfds.features.ClassLabel(),
          "base_letter": tfds.features.ClassLabel(),
          "script": tfds.features.ClassLabel(),
          "font": tfds.features.ClassLabel(),
          "codepoint": tfds.features.Scalar(dtype=np.int64),
        }
      ),
      supervised_keys=("image", "label"),
      homepage="https://matplotlib.org/",
      license="Bitstream Vera, Arev and STIX font licences; drawings made on this machine.",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    """Draws everything once and divides the classes."""
    del dl_manager
    drawings = drawing.draw_letters(
      progress=lambda todo: tqdm(todo, desc="glyphs: drawing", unit=" letters", mininterval=0.5)
    )
    merged = drawing.merge_homoglyphs(drawings)
    classes = sorted(set(merged.values()))
    columns = {
      "label": [drawing.class_name(c) for c in classes],
      "base_letter": [drawing.base_letter(c) for c in classes],
      "script": [drawing.script(c) for c in classes],
    }
    names = {
      "label": columns["label"],
      "base_letter": sorted(set(columns["base_letter"])),
      "script": sorted(set(columns["script"])),
      "font": sorted({d.font for d in drawings}),
    }
    for column, values in names.items():
      self.info.features[column].names = values

    kept: dict[tuple[int, str, bytes], int] = {}
    for d in sorted(drawings):
      kept.setdefault((merged[d.codepoint], d.font, d.pixels), d.codepoint)
    place = {code: i for i, code in enumerate(classes)}
    records = [
      {
        "label": place[code],
        "base_letter": columns["base_letter"][place[code]],
        "script": columns["script"][place[code]],
        "font": font,
        "codepoint": codepoint,
        "pixels": pixels,
      }
      for (code, font, pixels), codepoint in kept.items()
    ]
    order = np.random.Generator(np.random.PCG64(_SPLIT_SEED)).permutation(len(classes))
    in_train = np.zeros(len(classes), bool)
    in_train[order[: (len(classes) + 1) // 2]] = True
    return {
      split: self._generate_examples([r for r in records if in_train[r["label"]] == train], split)
      for split, train in (("train", True), ("test", False))
    }

  def _generate_examples(
    self, records: list[dict[str, Any]], split: str
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    for record in tqdm(records, desc=f"glyphs: writing {split}", unit=" images", mininterval=0.5):
      example = dict(record)
      pixels = np.frombuffer(example.pop("pixels"), np.uint8)
      example["image"] = base.encode_png(pixels.reshape(drawing.SIZE, drawing.SIZE))
      yield f"{record['codepoint']:06x}-{record['font']}", example
