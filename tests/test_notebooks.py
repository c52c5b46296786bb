"""The notebooks share their first cell; what it says and does where something is amiss."""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("ci_notebooks", ROOT / ".ci" / "notebooks.py")
notebooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(notebooks)


@pytest.mark.parametrize("path", notebooks.all_filled(), ids=lambda path: path.name)
def test_files_hold_what_write_writes(path):
  text = notebooks.all_filled()[path]
  assert path.read_text() == text, "run: python .ci/notebooks.py --write"


def test_no_notebook_is_committed_with_outputs():
  for path in notebooks.paths():
    for cell in notebooks.read(path)["cells"]:
      assert not cell.get("outputs") and cell.get("execution_count") is None


def test_links_into_the_repository_lead_to_files():
  files = f"{notebooks.setup_facts()[0]}/blob/main/"
  found = []
  for path in notebooks.paths():
    texts = "".join(c["source"] for c in notebooks.read(path)["cells"][1:])
    found += re.findall(re.escape(files) + r"([^)#\s]+)", texts)
  assert found and [link for link in found if not (ROOT / link).is_file()] == []


def test_links_become_addresses_of_the_repository():
  files = f"{notebooks.setup_facts()[0]}/blob/main"
  text = "[a](../docs/losses.md#miners) [b](x.ipynb) [c](https://github.com/me/fork/blob/main/d.md)"
  expected = f"[a]({files}/docs/losses.md#miners) [b]({files}/colab/x.ipynb) [c]({files}/d.md)"
  assert notebooks.linked(text) == expected


@pytest.fixture
def cell(monkeypatch, tmp_path):
  """Runs the first cell in a fresh folder as on a machine with these packages."""

  def run(*packages, has_jaxdml=False, pip="", drive=None):
    calls = []

    def fake_pip(command, **options):
      calls.append((command, pathlib.Path(command[command.index("-c") + 1]).read_text()))
      return subprocess.CompletedProcess(command, int(bool(pip)), stdout="", stderr=pip)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXDML_WORK", "")  # and what the cell sets is undone
    del os.environ["JAXDML_WORK"]
    monkeypatch.delenv("JAXDML_SMALL", raising=False)
    for name, version in (package.split("==") for package in packages):
      folder = tmp_path / "site" / f"{name}-{version}.dist-info"
      folder.mkdir(parents=True)
      (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    found = list(importlib.metadata.distributions(path=[str(tmp_path / "site")]))
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    spec = importlib.util.find_spec
    finds = lambda name: (has_jaxdml or None) if name == "jaxdml" else spec(name)
    monkeypatch.setattr(importlib.util, "find_spec", finds)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: sys.modules[name].__version__)
    monkeypatch.setattr(subprocess, "run", fake_pip)
    if drive:
      colab = types.ModuleType("google.colab")
      colab.drive = types.SimpleNamespace(mount=drive)
      monkeypatch.setitem(sys.modules, "google.colab", colab)
    text = notebooks.first_cell().replace("/content/drive", str(tmp_path / "drive"))
    names = {}
    exec(compile(text, "first_cell", "exec"), names)
    return names, calls

  yield run
  os.chdir(ROOT)


def test_pip_may_not_change_a_package_of_jax(cell):
  here = ("jax==0.10.0", "jaxlib==0.10.0", "jax-cuda12-plugin==0.10.0", "libtpu==0.0.40")
  _, [(command, constraints)] = cell(*here, "numpy==2.4.0", "jaxtyping==0.3.0")
  assert sorted(constraints.split()) == sorted(here)
  assert command[-1] == f"git+{notebooks.setup_facts()[0]}"


def test_in_a_clone_the_clone_is_installed(cell, tmp_path):
  (tmp_path.parent / "setup.cfg").touch()
  try:
    _, [(command, _)] = cell("jax==0.10.0")
  finally:
    (tmp_path.parent / "setup.cfg").unlink()
  assert command[-1] == ".."


@pytest.mark.parametrize(
  ("packages", "chip"),
  [(("libtpu==0.0.20",), "[tpu]"), (("jax-cuda12-plugin==0.7.2",), "[cuda12]"), ((), "")],
)
def test_an_older_jax_is_left_with_a_line_that_says_what_to_run(cell, packages, chip):
  with pytest.raises(SystemExit) as error:
    cell("jax==0.9.2", *packages)
  assert f'%pip install -U "jax{chip}"' in str(error.value) and "has 0.9.2" in str(error.value)


def test_a_failing_install_is_one_line(cell):
  stderr = "  running git clone\nfatal: repository not found\nerror: subprocess-exited-with-error\n"
  with pytest.raises(SystemExit, match=r"^Could not install git.*: fatal: repository not found$"):
    cell(pip=stderr)


def test_where_jaxdml_is_nothing_is_installed_and_work_is_a_folder_here(cell, tmp_path):
  names, calls = cell("jax==0.10.0", has_jaxdml=True)
  assert calls == [] and names["SMALL"]
  assert names["WORK"] == tmp_path / "jaxdml_work" == pathlib.Path.cwd()
  exec(notebooks.first_cell(), names)
  assert names["WORK"] == tmp_path / "jaxdml_work" == pathlib.Path.cwd()


def test_on_colab_work_is_on_drive(cell, tmp_path, capsys):
  names, _ = cell(has_jaxdml=True, drive=lambda path: None)
  assert names["WORK"] == tmp_path / "drive" / "MyDrive" / "jaxdml"
  assert "Runtime -> Change runtime type" in capsys.readouterr().out


def test_a_refused_drive_leaves_work_here_with_a_warning(cell, tmp_path, capsys):
  def refuse(path):
    raise ValueError("mount failed")

  names, _ = cell(has_jaxdml=True, drive=refuse)
  assert names["WORK"] == tmp_path / "jaxdml_work"
  assert "(mount failed); what you train is lost with this runtime" in capsys.readouterr().out
