"""Executes every notebook of colab/ in a clean kernel; fails on any error."""

import pathlib
import sys
import time

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "colab"


def main() -> int:
  """Runs them all and prints the time of each."""
  paths = sorted(FOLDER.glob("*.ipynb"))
  if not paths:
    print(f"no notebook in {FOLDER}")
    return 1
  for path in paths:
    notebook = nbformat.read(path, as_version=4)
    if any(cell.get("outputs") for cell in notebook.cells):
      print(f"{path.name} is committed with outputs; clear them")
      return 1
    start = time.perf_counter()
    client = NotebookClient(
      notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute()
    for cell in notebook.cells:
      for output in cell.get("outputs", []):
        if output.get("name") == "stdout":
          print(output["text"], end="")
    print(f"{path.name}: {time.perf_counter() - start:.0f} s")
  return 0


if __name__ == "__main__":
  sys.exit(main())
