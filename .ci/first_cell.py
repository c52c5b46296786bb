"""Runs the notebooks' first cell in fresh environments: no package of JAX may change.

python .ci/first_cell.py [--python FILE]       a minute or two an environment, mostly downloads

One environment holds nothing, one an older jax than pip would choose. The cell installs from a
clone of this checkout; in each it then runs again, and installs nothing.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from notebooks import ROOT, first_cell, setup_facts


def packages(python: pathlib.Path) -> list[str]:
  """Names and versions of all that is installed there."""
  command = [python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
  return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def of_jax(names: list[str]) -> list[str]:
  """The packages of JAX among them."""
  return [name for name in names if name.startswith(("jax=", "jaxlib=", "jax-"))]


def check(interpreter: str, pinned: str) -> str:
  """Runs the cell twice in one environment; returns a line about it.

  Raises:
    AssertionError: it replaced a package of JAX, or installed again.
    CalledProcessError: a command failed.
  """
  start = time.perf_counter()
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    subprocess.run([interpreter, "-m", "venv", root / "env"], check=True)
    python = root / "env" / "bin" / "python"
    # A repository of one commit, as pip cannot clone a shallow checkout in part.
    publish = f"""
      mkdir clone && git -C '{ROOT}' archive HEAD | tar -x -C clone && cd clone && git init -q
      git add -A && git -c user.name=ci -c user.email=ci@localhost commit -qm published
    """
    subprocess.run(["bash", "-euo", "pipefail", "-c", publish], check=True, cwd=root)
    if pinned:
      install = [python, "-m", "pip", "install", "-q", f"jax=={pinned}", f"jaxlib=={pinned}"]
      subprocess.run(install, check=True)
    before = packages(python)
    (root / "cell.py").write_text(first_cell().replace(setup_facts()[0], f"file://{root}/clone"))
    env = {**os.environ, "JAXDML_WORK": str(root / "work"), "JAX_PLATFORMS": "cpu"}
    env.pop("PYTHONPATH", None)
    cell = lambda: (
      subprocess.run(
        [python, "cell.py"], cwd=root, env=env, check=True, text=True, stdout=subprocess.PIPE
      ).stdout
    )
    assert "Installing jaxdml" in cell(), "expected the cell to install jaxdml"
    after = packages(python)
    if pinned:
      assert of_jax(after) == of_jax(before), f"JAX changed: {of_jax(before)} to {of_jax(after)}"
    assert any(name.startswith("jaxdml=") for name in after), "jaxdml is not installed"
    again = cell()
    assert "Installing" not in again and packages(python) == after, "expected nothing to install"
  line = f"{', '.join(of_jax(after))}; {len(after) - len(before)} packages added"
  return f"{pinned or 'nothing'} before: {line}; {time.perf_counter() - start:.0f} s"


def main() -> int:
  """Checks both environments."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--python", default=sys.executable, metavar="FILE", help="makes them")
  args = parser.parse_args()
  for pinned in ("", setup_facts()[1]):
    print(check(args.python, pinned), flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
