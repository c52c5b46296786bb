import collections
import hashlib
import os
import subprocess
import sys
import unicodedata

import cv2
import numpy as np
import pytest

from jaxdml import commands, data
from jaxdml.data import bundled, records
from jaxdml.data import glyphs as glyphs_lib


def test_counts(glyphs):
  train, test = glyphs["train"], glyphs["test"]
  classes = [len(part.classes("label")) for part in (train, test)]
  print(f"glyphs: {sum(classes)} classes, {len(train) + len(test)} renderings")
  # Exact figures depend on the fonts of the matplotlib release.
  assert 1600 < sum(classes) < 1900
  assert 21_000 < len(train) + len(test) < 24_000
  assert abs(classes[0] - classes[1]) <= 1
  assert min(np.unique(train.labels["label"], return_counts=True)[1]) >= glyphs_lib.MIN_FONTS


def test_train_and_test_share_no_class(glyphs):
  assert not set(glyphs["train"].labels["label"]) & set(glyphs["test"].labels["label"])
  # ... and so no code point, as homoglyphs are one class.
  assert not set(glyphs["train"].labels["codepoint"]) & set(glyphs["test"].labels["codepoint"])


def test_names(glyphs):
  part = glyphs["train"] if 0x41 in glyphs["train"].labels["codepoint"] else glyphs["test"]
  at = np.flatnonzero(part.labels["codepoint"] == 0x41)[0]
  shown = {c: part.label_names(c)[part.labels[c][at]] for c in ("label", "base_letter", "script")}
  assert shown == {"label": "U+0041 LATIN CAPITAL LETTER A", "base_letter": "a", "script": "LATIN"}
  assert part.label_names("codepoint") is None
  assert "DejaVuSans" in part.label_names("font")


def test_coarse_labels_are_functions_of_the_fine_one(glyphs):
  for part in glyphs.values():
    for coarse in ("base_letter", "script"):
      pairs = set(zip(part.labels["label"].tolist(), part.labels[coarse].tolist(), strict=True))
      assert len(pairs) == len(part.classes("label"))


def test_images_are_letters_not_blank_and_distinct_within_class_and_font(glyphs):
  for part in glyphs.values():
    seen = set()
    for i, encoded in enumerate(part.read(range(len(part)))):
      image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
      assert image.shape == (32, 32) and image.dtype == np.uint8
      assert image.max() > 60
      key = part.labels["label"][i], part.labels["font"][i], image.tobytes()
      assert key not in seen
      seen.add(key)
    assert all(
      unicodedata.category(chr(code)).startswith("L") for code in set(part.labels["codepoint"])
    )


@pytest.fixture(scope="module")
def pens():
  return {name: glyphs_lib.Pen(path) for name, path in glyphs_lib.font_files().items()}


def test_fonts_without_unicode_are_left_out(pens):
  assert {"DejaVuSans", "STIXGeneral"} <= set(pens)
  assert not any(name.startswith(("cm", "STIXSiz", "STIXNonUni", "LastResort")) for name in pens)


def test_missing_glyphs_and_blanks_are_not_drawn(pens):
  pen = pens["DejaVuSans"]
  han = "\u4e00"
  assert ord(han) not in pen.codepoints
  assert pen._draw(han).any()  # The font has a box for it ...
  assert pen.draw(han) is None  # ... which is no drawing of the letter.
  assert pen.draw(" ") is None
  assert pen.draw("A").max() == 255


def test_case_size_and_baseline_are_kept(pens):
  def rows(char):
    return np.flatnonzero(pens["DejaVuSans"].draw(char).max(1) > 100)

  assert len(rows("O")) >= 1.25 * len(rows("o"))
  assert rows("o")[-1] == pytest.approx(rows("O")[-1], abs=1)
  assert rows("p")[-1] > rows("o")[-1] + 2


def test_a_wide_letter_is_shrunk_to_fit(pens):
  image = pens["DejaVuSans-Bold"].draw("\ufb03")  # ffi
  assert image[:, 1:-1].any() and not image[:, 0].any() and not image[:, -1].any()


def test_homoglyphs_are_one_class(data_dir, glyphs):
  names = glyphs["train"].label_names("label")
  for letters in ("A\u0391\u0410", "o\u03bf\u043e", "\u00b5\u03bc"):
    assert f"U+{ord(letters[0]):04X}" in {name.split()[0] for name in names}
    for other in letters[1:]:
      assert f"U+{ord(other):04X}" not in {name.split()[0] for name in names}
  for kept in "OQcCoOIlSs":
    assert f"U+{ord(kept):04X}" in {name.split()[0] for name in names}


def test_merging_needs_half_of_the_common_fonts():
  def draw(char, looks):
    return [
      glyphs_lib.Drawing(ord(char), f"font {i}", look.encode()) for i, look in enumerate(looks)
    ]

  assert glyphs_lib.merge_homoglyphs(draw("a", "xyz") + draw("b", "xyw")) == {97: 97, 98: 97}
  assert glyphs_lib.merge_homoglyphs(draw("a", "xyz") + draw("b", "xuw")) == {97: 97, 98: 98}
  chain = draw("a", "xy") + draw("b", "xz") + draw("c", "uz")
  assert set(glyphs_lib.merge_homoglyphs(chain).values()) == {97}


def _digests(directory):
  return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir())}


@pytest.mark.slow
def test_two_processes_build_identical_glyphs(tmp_path, data_dir, glyphs):
  # Another process: what hashing scrambles is the same within one.
  build = "import sys; from jaxdml.data import bundled; bundled.build('glyphs', sys.argv[1])"
  subprocess.run(
    [sys.executable, "-W", "error", "-c", build, tmp_path],
    check=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
  )
  second = _digests(tmp_path / "glyphs" / "1.0.0")
  assert len(second) == 10
  assert second.items() <= _digests(data_dir / "glyphs" / "1.0.0").items()


@pytest.mark.parametrize("file", ["parity.labels.txt", "features.json", "dataset_info.json"])
def test_a_description_that_was_changed_is_refused(tmp_path, file):
  path = bundled.build("digits", tmp_path) / file
  content = bytearray(path.read_bytes())
  content[2] ^= 2
  path.write_bytes(content)
  with pytest.raises(records.DamagedDatasetError, match=f"{file} changed since it was prepared"):
    data.load("digits", "train", data_dir=tmp_path)


def test_an_interrupted_build_leaves_no_data_set(tmp_path, monkeypatch):

  def broken(image):
    raise KeyboardInterrupt

  monkeypatch.setattr(bundled, "encode_png", broken)
  with pytest.raises(KeyboardInterrupt):
    bundled.build("digits", tmp_path)
  assert not (tmp_path / "digits" / "1.0.0").exists()
  monkeypatch.undo()
  assert len(data.load("digits", "train", data_dir=tmp_path)) > 800


def test_the_loser_of_two_builds_takes_the_winners(tmp_path, monkeypatch):

  original, raced = bundled.encode_png, []

  def race(image):
    if not raced:
      raced.append(True)
      monkeypatch.setattr(bundled, "encode_png", original)
      bundled.build("digits", tmp_path)  # Another process finishes while this one is at work.
    return original(image)

  monkeypatch.setattr(bundled, "encode_png", race)
  assert bundled.build("digits", tmp_path) == tmp_path / "digits" / "1.0.0"
  assert [p.name for p in (tmp_path / "digits").iterdir()] == ["1.0.0"]
  assert len(data.load("digits", "test", data_dir=tmp_path)) > 800


def test_a_directory_that_is_no_data_set_is_named(tmp_path):
  (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
  with pytest.raises(FileExistsError, match=r"digits.1\.0\.0 exists but is not a data set"):
    bundled.build("digits", tmp_path)


def test_digits(digits):
  train, test = digits["train"], digits["test"]
  assert len(train) + len(test) == 1797
  for part in (train, test):
    assert part.classes("label").tolist() == list(range(10))
    np.testing.assert_array_equal(part.labels["parity"], part.labels["label"] % 2)
  counts = [np.bincount(part.labels["label"]) for part in (train, test)]
  assert np.abs(counts[0] - counts[1]).max() <= 1
  assert train.label_names("parity") == ["even", "odd"]
  pictures = collections.Counter(train.read(range(len(train))) + test.read(range(len(test))))
  assert len(pictures) > 1790


def test_command_line(data_dir, digits, capsys):
  assert commands.main(["prepare", "digits", f"--data_dir={data_dir}"]) == 0
  assert capsys.readouterr().out.strip() == str(data_dir / "digits" / "1.0.0")
