"""The tables and keys of docs/data.md are those of the code."""

import pathlib
import re

from jaxdml import prepare
from jaxdml.data import normalize, picture_files, preprocess, sampling
from jaxdml.prepare import manifest
from jaxdml.training import defaults

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def rows(first_cell):
  """First cells of the rows of the table whose first heading cell has this text."""
  lines = TEXT.splitlines()
  (start,) = [i for i, line in enumerate(lines) if line.startswith(f"| {first_cell} |")]
  body = iter(lines[start + 2 :])
  cells = []
  while (line := next(body, "")).startswith("|"):
    cells += re.findall(r"`(\w+)`", line.split("|")[1])
  return cells


def test_tables_list_what_the_code_knows():
  assert sorted(rows("`data.sampler`")) == sorted(sampling.NAMES)
  assert sorted(rows("`data.preprocess`")) == sorted(preprocess.NAMES)
  assert sorted(rows("data set")) == sorted(prepare.CARDS)
  for name in normalize.NAMES:
    assert f"`{name}`" in TEXT
  for suffix in (*picture_files.SUFFIXES, ".csv", ".tsv", ".jsonl"):
    assert suffix in TEXT
  assert {*manifest.REQUIRED, *manifest.OPTIONAL} == set(
    re.search("```csv\n(.*)\n", TEXT).group(1).split(",")
  )


def test_config_keys_and_files_exist():
  config = defaults.get_config()
  keys = set(re.findall(r"(?:config\.|`)((?:data|eval)\.\w+)", TEXT))
  assert len(keys) > 15
  for key in keys:
    section, name = key.split(".")
    assert name in config[section], key
  for file in re.findall(r"`(\w+\.py)`|configs/(\w+\.py)", TEXT):
    assert (ROOT / "configs" / "".join(file)).is_file(), file


def test_the_manifest_of_the_page_is_read(tmp_path):
  path = tmp_path / "photos.csv"
  path.write_text(re.search("```csv\n(.*?)```", TEXT, re.DOTALL).group(1), encoding="utf-8")
  read, extra = manifest.read(path)
  assert [row.label for row in read] == ["roof", "Blüte"] and extra == []
