"""docs/retrieval.md: its Python runs, its flags and names are those of the code."""

import pathlib
import re

import pytest

from jaxdml import commands, inference, search

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "retrieval.md").read_text(encoding="utf-8")
COMMANDS = ("embed", "evaluate", "search")


def test_python_runs():
  (block,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
  names = {}
  exec(compile(block, "retrieval.md", "exec"), names)
  assert names["found"].indices.shape == (3, 5)
  whole, serving = re.findall(r"```py\n(.*?)```", TEXT, flags=re.DOTALL)
  compile(whole + serving, "retrieval.md", "exec")
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
