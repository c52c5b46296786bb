"""Executes every notebook of colab/ in a clean kernel, and writes what all of them share.

python .ci/notebooks.py [--only NAME]   run them small on eight CPU devices, two at a time
python .ci/notebooks.py --write         fill in first cells, badges and the lists in README and docs

The first code cell of each is colab/first_cell.py, with the repository's address and the least jax
from setup.cfg. A run fails on any error, on outputs that are committed, and on an output that
contains a path of the machine: notebooks work in their folder WORK and name paths below it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import configparser
import datetime
import json
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Mapping

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.xla import cheap_flags  # noqa: E402

FOLDER = ROOT / "colab"
NAMES = (  # in the order in which they are best read
  "quickstart",
  "losses_in_your_loop",
  "class_collapse",
  "your_photos",
  "tpu_scale",
  "benchmarks",
)


def setup_facts() -> tuple[str, str]:
  """(the repository's address, the least jax) as setup.cfg has them."""
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  (jax,) = re.findall(r"^jax>=(\S+)$", setup["options"]["install_requires"], re.MULTILINE)
  return setup["metadata"]["url"], jax


def first_cell() -> str:
  """The text of colab/first_cell.py with setup.cfg's facts in it."""
  text = (FOLDER / "first_cell.py").read_text()
  for name, value in zip(("URL", "NEEDS_JAX"), setup_facts(), strict=True):
    text, count = re.subn(rf'^{name} = "[^"]*"', f'{name} = "{value}"', text, flags=re.MULTILINE)
    if count != 1:
      raise ValueError(f"colab/first_cell.py: expected one line {name} = ...; got {count}")
  return text


def badge(name: str) -> str:
  """Markdown of the button that opens a notebook on Colab."""
  place = setup_facts()[0].removeprefix("https://github.com/")
  opens = f"https://colab.research.google.com/github/{place}/blob/main/colab/{name}.ipynb"
  return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({opens})"


def paths(only: str = "") -> list[pathlib.Path]:
  """The notebooks there are, in the order of `NAMES`."""
  found = {path.stem: path for path in FOLDER.glob("*.ipynb")}
  if unknown := sorted(found.keys() - set(NAMES)):
    raise ValueError(f"{unknown[0]}.ipynb: expected a name of NAMES in .ci/notebooks.py")
  if only and only not in found:
    raise ValueError(f"--only: expected one of {', '.join(found)}; got {only}")
  return [found[name] for name in NAMES if name in found and only in ("", name)]


def read(path: pathlib.Path) -> dict:
  """A notebook, the source of each cell as one text."""
  notebook = json.loads(path.read_text())
  for cell in notebook["cells"]:
    cell["source"] = "".join(cell["source"])
  return notebook


def linked(text: str) -> str:
  """Markdown with links into the repository as addresses: on Colab relative ones lead nowhere."""
  files = f"{setup_facts()[0]}/blob/main/"
  text = re.sub(r"https://github\.com/[\w.-]+/[\w.-]+/blob/main/", files, text)
  relative = lambda m: f"]({files}{os.path.normpath(f'colab/{m[1]}')})"
  return re.sub(r"\]\((?!https?:|#|data:|attachment:)([^)\s]+)\)", relative, text)


def filled(path: pathlib.Path) -> str:
  """A notebook's file with the badge as its first cell and the shared one as its first code."""
  notebook = read(path)
  for cell in notebook["cells"]:
    if cell["cell_type"] == "markdown":
      cell["source"] = linked(cell["source"])
  cells = [cell for cell in notebook["cells"] if cell["id"] not in ("badge", "setup")]
  for number, cell in enumerate(cells, 1):
    cell["id"] = f"cell-{number}"
  first = next((i for i, cell in enumerate(cells) if cell["cell_type"] == "code"), len(cells))
  opens = {"cell_type": "markdown", "id": "badge", "metadata": {}, "source": badge(path.stem)}
  setup = {"cell_type": "code", "execution_count": None, "id": "setup", "metadata": {}}
  setup |= {"outputs": [], "source": first_cell().strip()}
  notebook["cells"] = [opens, *cells[:first], setup, *cells[first:]]
  for cell in notebook["cells"]:
    cell["source"] = cell["source"].splitlines(keepends=True)
  return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def title(path: pathlib.Path) -> str:
  """The heading of a notebook."""
  text = "\n".join(cell["source"] for cell in read(path)["cells"])
  return re.search(r"^# (.*)$", text, re.MULTILINE)[1]


def filled_pages() -> dict[pathlib.Path, str]:
  """README.md and docs/README.md with their lists of the notebooks."""
  readme, index = ROOT / "README.md", ROOT / "docs" / "README.md"
  row = ", ".join(f"[{path.stem}](colab/{path.name})" for path in paths())
  lines = "\n".join(
    f"- [{path.stem}](../colab/{path.name}): {title(path)} {badge(path.stem)}" for path in paths()
  )
  in_row = r"(?m)^(\| try it on Colab \| ).*( \|)$"
  in_list = r"(?s)(<!-- notebooks -->\n).*(\n<!-- end -->)"
  return {
    readme: re.sub(in_row, rf"\g<1>{row}\g<2>", readme.read_text()),
    index: re.sub(in_list, rf"\g<1>{lines}\g<2>", index.read_text()),
  }


def all_filled() -> dict[pathlib.Path, str]:
  """Every file that `--write` writes, with what it should hold."""
  return {
    FOLDER / "first_cell.py": first_cell(),
    **{path: filled(path) for path in paths()},
    **filled_pages(),
  }


def run(path: pathlib.Path, out: str = "") -> str:
  """Runs a notebook in a kernel and folder of its own; returns its time, in words.

  Raises:
    CellExecutionError: a cell failed.
    ValueError: an output is committed, or contains a path of this machine.
  """
  import nbformat
  from nbclient import NotebookClient

  notebook = nbformat.read(path, as_version=4)
  if any(cell.get("outputs") for cell in notebook.cells):
    raise ValueError(f"{path.name} is committed with outputs; clear them")
  start = time.perf_counter()
  with tempfile.TemporaryDirectory() as work:
    env = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": f"{cheap_flags()} --xla_force_host_platform_device_count=8",
      "JAXDML_SMALL": "1",
      # Threads of XLA on a CPU: with one a core, eight devices can wait for each other for ever.
      "NPROC": "32",
      "JAXDML_WORK": work,
      "PYTHONPATH": str(ROOT),
    }
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(FOLDER)}})
    try:
      client.execute(env=env)
    finally:
      if out:
        nbformat.write(notebook, pathlib.Path(out, path.name))
    seconds = time.perf_counter() - start
    for number, cell in enumerate(notebook.cells):
      said = "\n".join(spoken(output) for output in cell.get("outputs", []))
      for place in (work, str(ROOT), str(pathlib.Path.home()), tempfile.gettempdir()):
        if f"{place}/" in f"{said}/":
          (line,) = [text for text in said.splitlines() if place in text][:1]
          raise ValueError(f"{path.name}, cell {number} shows a path of the machine: {line}")
  taken = {number: duration(cell) for number, cell in enumerate(notebook.cells)}
  longest = max(taken, key=taken.get)
  return f"{seconds:.0f} s, of which cell {longest} {taken[longest]:.0f} s"


def duration(cell: Mapping) -> float:
  """Seconds from a cell's start to its end, 0 for text."""
  times = cell.get("metadata", {}).get("execution", {})
  at = lambda name: datetime.datetime.fromisoformat(times[name])
  return (at("shell.execute_reply") - at("iopub.status.busy")).total_seconds() if times else 0.0


def spoken(output: Mapping) -> str:
  """All text of one output; a picture has none."""
  texts = [text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")]
  return "\n".join([output.get("text", ""), *map(str, texts)])


def main() -> int:
  """Runs or writes the notebooks."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", default="", metavar="NAME", help="this notebook alone")
  parser.add_argument("--out", default="", metavar="DIR", help="keep the executed notebooks there")
  parser.add_argument("--write", action="store_true", help="fill in what all of them share")
  args = parser.parse_args()
  if args.write:
    for path, text in all_filled().items():
      path.write_text(text)
    return 0
  failed = False
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    tasks = {pool.submit(run, path, args.out): path.name for path in paths(args.only)}
    for task in concurrent.futures.as_completed(tasks):
      failed |= task.exception() is not None
      print(f"{tasks[task]}: {task.exception() or task.result()}", flush=True)
  return int(failed)


if __name__ == "__main__":
  sys.exit(main())
