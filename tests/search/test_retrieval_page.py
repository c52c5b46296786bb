"""docs/retrieval.md: its Python runs, its flags and names are those of the code."""

import pathlib
import re

import numpy as np
import pytest

from jaxdml import commands, inference, search
from tests.search.helpers import FakeModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "retrieval.md").read_text(encoding="utf-8")
COMMANDS = ("embed", "evaluate", "search")
RNG = np.random.default_rng(0)


def test_python_runs(tmp_path, monkeypatch):
  (block,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
  names = {"inference": inference}
  exec(compile(block, "retrieval.md", "exec"), names)
  assert names["found"].indices.shape == (3, 5)
  whole, serving = re.findall(r"```py\n(.*?)```", TEXT, flags=re.DOTALL)
  compile(whole + serving, "retrieval.md", "exec")
  # With small data: fewer images than the snippet asks for.
  pixels, paths = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8), ["a", "b", "c"]
  model = FakeModel()
  store = search.write_store(tmp_path / "store", inference.embed(model, pixels), paths)
  monkeypatch.setattr(inference, "load", lambda _: model)
  monkeypatch.setattr(search.Store, "open", lambda _: store)
  for backend in search.BACKENDS:
    exec(serving.replace("store.embeddings)", f"store.embeddings, backend={backend!r})"), names)
    found = names["nearest"](pixels[2], k=10)
    assert found[0][0] == "c" and sorted(path for path, _ in found) == paths
  used = re.findall(r"\b(search|inference)\.(\w+)", TEXT.split("## From Python")[1])
  assert len(used) > 8
  modules = {"search": search, "inference": inference}
  assert [name for name in used if not hasattr(modules[name[0]], name[1])] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_exist(name, capsys):
  assert commands.main([name, "--help"]) == 0
  known = set(re.findall(r"--\w+", capsys.readouterr().out))
  lines = re.findall(rf"^jaxdml {name} (.*)$", TEXT, flags=re.MULTILINE)
  assert lines
  for line in lines:
    assert set(re.findall(r"--\w+", line)) <= known


def test_backends_and_links():
  assert re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE) == list(search.BACKENDS)
  links = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
  assert links and [link for link in links if not (ROOT / "docs" / link).exists()] == []
