"""The one atomic write: a file is the old one or the new one, and nothing is left beside it."""

import json
import os
import pathlib
import re
from concurrent import futures

import pytest

from jaxdml import _files


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
  path = tmp_path / "made" / "a.txt"
  _files.write_text(path, "old\n")
  with pytest.raises(KeyboardInterrupt), _files.replacing(path) as temporary:
    temporary.write_text("ne")
    raise KeyboardInterrupt

  def refuse(*_):
    raise OSError(28, "No space left on device")

  for function in ("fsync", "replace"):
    with monkeypatch.context() as patch:
      patch.setattr(os, function, refuse)
      with pytest.raises(OSError, match="No space left"):
        _files.write_bytes(path, b"new")
  assert path.read_bytes() == b"old\n" and os.listdir(path.parent) == ["a.txt"]


def test_the_content_is_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
  calls = []
  for function in ("fsync", "replace"):
    original = getattr(os, function)
    spy = lambda *args, name=function, original=original: calls.append(name) or original(*args)
    monkeypatch.setattr(os, function, spy)
  _files.write_text(tmp_path / "a", "a")
  assert calls == ["fsync", "replace"]
  with _files.replacing(tmp_path / "b", sync=False) as temporary:
    temporary.write_bytes(b"b")
  assert calls == ["fsync", "replace", "replace"]


def test_writers_of_one_file_do_not_mix(tmp_path):
  path = tmp_path / ("ü" * 120)  # 240 bytes of the 255 that a name may have.
  texts = [str(i) * 10_000 for i in range(8)]
  with futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda text: _files.write_text(path, text), texts))
  assert path.read_text() in texts and len(os.listdir(tmp_path)) == 1


def test_json(tmp_path):
  path, value = tmp_path / "a.json", {"name": "ü", "loss": [float("nan"), float("-inf"), 1.5]}
  _files.write_json(path, value)
  assert _files.read_json(path) == {"name": "ü", "loss": [None, None, 1.5]}
  assert path.read_text().endswith("}\n") and path.stat().st_mode & 0o600 == 0o600
  _files.write_json(path, value, indent=None)
  assert path.read_text() == '{"name":"\\u00fc","loss":[null,null,1.5]}\n'
  path.write_text(path.read_text()[:-5])
  assert _files.read_json(path) is None and _files.read_json(tmp_path / "none") is None
  with pytest.raises(TypeError):
    _files.write_json(path, {"a": object()})
  with pytest.raises(json.JSONDecodeError):
    json.loads(path.read_text())


def test_no_other_module_writes_json_that_parsers_refuse():
  """Bare NaN and Infinity are Python's own."""
  package = pathlib.Path(_files.__file__).parent
  for path in [*package.rglob("*.py"), *(package.parent / "studies").glob("*.py")]:
    written = re.findall(r"write(?:_text)?\(\s*json\.dumps\(.*|json\.dump\(.*", path.read_text())
    assert all("allow_nan=False" in line for line in written), path
