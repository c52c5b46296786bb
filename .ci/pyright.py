"""Checks that the Python examples of README and docs have no error in pyright's eyes.

python .ci/pyright.py            needs pip install '.[lint]' in an environment that runs the package

The package ships py.typed: what an editor underlines in our own examples, it underlines for users.
Each example is checked as a module of its own, as a reader copies it. One that does not import
jaxdml goes on where the example before it in its section ended; a section's first goes on after
the page's first.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[tuple[int, str, str]]:
  """(line before the block, its code, the heading above) of each Python example of a page."""
  text = (ROOT / page).read_text()
  found = re.finditer(r"^```(?:python|py)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
  above = lambda m: ["", *re.findall(r"^## .*$", text[: m.start()], re.MULTILINE)][-1]
  return [(text[: m.start()].count("\n") + 1, m.group(1), above(m)) for m in found]


def main() -> int:
  """Returns 0 if there is no error, else prints each as page:line and returns 1."""
  starts = {}
  with tempfile.TemporaryDirectory() as folder:
    for page in PAGES:
      before = first = section = ""
      for line, code, heading in blocks(page):
        if re.search(r"^(?:from|import) jaxdml", code, re.MULTILINE):
          before = ""
        elif heading != section:
          before = first
        section = heading
        name = f"example_{len(starts)}.py"
        starts[name] = page, line - before.count("\n")
        before += code
        first = first or code
        (pathlib.Path(folder) / name).write_text(before)
    config = {"include": [folder], "extraPaths": [str(ROOT)], "typeCheckingMode": "basic"}
    (pathlib.Path(folder) / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--project", folder]
    command += ["--pythonpath", sys.executable]
    result = subprocess.run(command, capture_output=True, text=True)
  try:
    report = json.loads(result.stdout)
  except json.JSONDecodeError:
    print(result.stdout[-2000:], result.stderr[-2000:])
    return 2
  errors = [d for d in report["generalDiagnostics"] if d["severity"] == "error"]
  for error in errors:
    page, line = starts[pathlib.Path(error["file"]).name]
    line += error["range"]["start"]["line"] + 1
    print(f"{page}:{line}: {error['message']} ({error.get('rule', 'syntax')})")
  print(f"{len(starts)} examples of {len(PAGES)} pages, {len(errors)} errors")
  return 1 if errors or report["summary"]["filesAnalyzed"] != len(starts) else 0


if __name__ == "__main__":
  sys.exit(main())
