"""The tables of docs/losses.md say what the code does."""

import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, losses, mining, training
from jaxdml.training import program as program_lib
from tests.losses import names as loss_names

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "losses.md").read_text()


def table(heading):
  """Cells of the rows of the tables under a heading."""
  section = re.split(r"^## ", TEXT, flags=re.MULTILINE)
  (body,) = [s for s in section if s.startswith(heading + "\n")]
  rows = [line.strip("|").split(" | ") for line in body.splitlines() if line.startswith("| `")]
  return [[cell.strip() for cell in row] for row in rows]


def names(rows):
  return [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]


ROWS = {row[0].strip("`"): row for head in ("Losses of embeddings and labels",
        "Losses with parameters") for row in table(head)}  # fmt: skip


def test_every_loss_has_one_row_in_its_table():
  assert sorted(names(table("Losses of embeddings and labels"))) == sorted(loss_names.TUPLE)
  assert sorted(names(table("Losses with parameters"))) == sorted(loss_names.PARAMETRIC)


def _defaults(record):
  parameters = inspect.signature(record.fn).parameters
  for name in record.options:
    value = parameters[name].default
    yield f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"


@pytest.mark.parametrize("name", losses.LOSSES)
def test_defaults_and_sources_are_those_of_the_code(name):
  record, row = losses.LOSSES[name], ROWS[name]
  own = ", ".join(_defaults(record))
  used = f"{record.distance_fn.name}, {record.reduce_fn.name}"
  assert row[3] == (f"`{own}`; " if own else "") + used
  assert all(row), "an empty cell"
  for arxiv in re.findall(r"\[([\d.]+)\]", row[2]):
    assert arxiv in record.fn.__doc__
  assert ("parameters" in row[4]) == (record.parameter is not None)


def test_every_miner_is_listed_with_its_options():
  rows = table("Miners")
  assert sorted(names(rows)) == sorted(mining.MINERS)
  for row in rows:
    for name in re.findall(r"`(\w+)`", row[0]):
      entry = mining.MINERS[name]
      options = entry.options if isinstance(entry, mining.Maker) else ()
      assert sorted(options) == sorted(re.findall(r"`(\w+)`", row[1])), name


def test_every_distance_is_listed():
  assert sorted(names(table("Distances"))) == sorted(distances.NAMES)


@pytest.mark.slow
def test_its_code_runs(monkeypatch):
  monkeypatch.setattr(losses, "LOSSES", dict(losses.LOSSES))
  monkeypatch.setattr(mining, "MINERS", dict(mining.MINERS))
  blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
  assert blocks
  for block in blocks:
    names = {}
    exec(compile(block, "docs/losses.md", "exec"), names)
  # The last one names a loss and a miner of its own: its config trains.
  assert names["value"] > 0 and jnp.any(names["gradient"] != 0)
  config = names["get_config"]()
  program = program_lib.build(
    training.resolve(config, 1), num_classes=3, total_steps=5, steps_per_epoch=5
  )
  size, side = config.data.batch_size, config.data.image_size
  batch = {
    "image": jax.ShapeDtypeStruct((size, side, side, config.data.channels), "uint8"),
    "label": jax.ShapeDtypeStruct((size,), "int32"),
    "index": jax.ShapeDtypeStruct((size,), "int32"),
  }
  state = jax.eval_shape(program.init, jax.random.key(0))
  assert jax.eval_shape(program.step, state, batch)[1]["loss/real"].shape == ()


def test_the_code_of_the_conventions_runs():
  text = (ROOT / "docs" / "conventions.md").read_text()
  blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
  assert len(blocks) == 2
  for block in blocks:
    names = {}
    exec(compile(block, "docs/conventions.md", "exec"), names)
    assert np.all(np.isfinite(names["value"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(names["gradient"]))


def test_the_code_of_the_report_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  text = (ROOT / "docs" / "report.md").read_text()
  (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
  exec(compile(block, "docs/report.md", "exec"), {})
  assert "beech" in (tmp_path / "report.html").read_text()


# The site's build (tests/test_site.py) relies on it.
SNIPPETS_RUN_BY = {
  "README.md": "tests/test_readme.py",
  "conventions.md": "tests/test_docs.py",
  "encoders.md": "tests/models/test_own_encoder.py",
  "evaluation.md": "tests/evaluation/test_collapse.py",
  "export.md": "tests/inference/test_exporting.py",
  "loops.md": "tests/test_docs.py",
  "losses.md": "tests/test_docs.py",
  "report.md": "tests/test_docs.py",
  "retrieval.md": "tests/search/test_retrieval_page.py",
  "training.md": "tests/test_readme.py",
}


def test_the_snippets_of_every_page_are_run_by_a_test():
  pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
  assert {page.name for page in pages if "```python\n" in page.read_text()} == set(SNIPPETS_RUN_BY)
  for page, file in SNIPPETS_RUN_BY.items():
    code = (ROOT / file).read_text()
    assert page in code and "```python" in code, f"{file} does not run the snippets of {page}"


@pytest.mark.parametrize(
  "library", ["Flax nnx", "Equinox", "Plain optax, and a loss with parameters"]
)
def test_the_loops_of_others_learn(library):
  """Each section of docs/loops.md runs after the page's first block, and its loss falls."""
  if library == "Equinox":
    pytest.importorskip("equinox", reason="comes with the extra [test]")
  text = (ROOT / "docs" / "loops.md").read_text()
  sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
  blocks = [re.findall(r"```python\n(.*?)```", part, re.DOTALL)[0]
            for part in (text, sections[library])]  # fmt: skip
  names = {}
  for block in blocks:
    exec(compile(block, "docs/loops.md", "exec"), names)
  (values,) = [names[name] for name in names if name.endswith("_losses")]
  (score,) = [names[name] for name in names if name.endswith("_found")]
  raw = names["found"](lambda x: x)
  assert len(values) == 100 and np.mean(values[-10:]) < 0.8 * np.mean(values[:10])
  assert raw + 0.05 < score <= 1
