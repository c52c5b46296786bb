"""Tries a wheel in this Python's environment: python .ci/wheel.py WHEEL [--whole]

In an empty folder, where no clone helps: the commands, README's first one by the name of its config
(a few steps of it; all with --whole), a copy of a config, and README's lines of losses.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHORT = (
  "--config.train.duration=4 steps", "--config.train.evaluate_every=4 steps",
  "--config.eval.plain=False", "--config.eval.raw_pixels=False", "--config.eval.clustering=False",
  "--config.eval.diagnostics=False", "--config.eval.untrained=False", "--config.data.batch_size=32",
)  # fmt: skip


def run(folder: pathlib.Path, *command: str) -> str:
  """Runs a command in a folder, with nothing of the clone on Python's path."""
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
  if done.returncode:
    sys.exit(f"{shlex.join(command)}\n{done.stdout}{done.stderr}exit status {done.returncode}")
  return done.stdout


def main(wheel: str, whole: bool) -> None:
  """Installs the wheel, without what it requires, and uses it."""
  subprocess.run(
    [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel],
    check=True,
  )
  python = pathlib.Path(sys.executable)
  jaxdml = str(python.with_name("jaxdml"))
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    data = f"--config.data.data_dir={folder / 'data'}"
    place = run(folder, str(python), "-c", "import jaxdml; print(jaxdml.__file__)").strip()
    assert "site-packages" in place, place
    assert re.findall(r"^  (\w+) ", run(folder, jaxdml, "--help"), re.MULTILINE)[0] == "train"
    assert " eps_glyphs, " in run(folder, jaxdml, "train", "--help")
    print(run(folder, jaxdml, "--version").strip(), "on Python", sys.version.split()[0])

    first = ["--config=eps_glyphs", "--workdir=by_name", data]
    if not whole:
      first += [*SHORT, "--config.train.report=False"]
    table = run(folder, str(python), "-m", "jaxdml.main", *first)
    print(table.splitlines()[-1] if not whole else table)
    assert (folder / "by_name" / "results.json").is_file()
    # It imports another config, which comes with the package.
    shutil.copy(ROOT / "configs" / "hdml_glyphs.py", folder / "mine.py")
    mine = ["--config=mine.py:triplet", "--workdir=by_file", "--config.data.dataset=digits"]
    run(folder, jaxdml, "train", *mine, data, *SHORT)
    assert (folder / "by_file" / "report.html").is_file()

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    run(folder, str(python), "-c", "\n".join(blocks))
    assert blocks
  print("by name, by a copied file, and as functions: all done")


if __name__ == "__main__":
  main(str(pathlib.Path(sys.argv[1]).resolve()), "--whole" in sys.argv[2:])
