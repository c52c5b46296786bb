"""Pages are made from tables: the numbers in them, and what is out of date."""

import json
import pathlib

import pytest

from studies import document, markdown, statistics, table
from studies.table import Row

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = """# Results

By hand, before.

<!-- suite:letters -->
old
<!-- end -->

Between.

<!-- suite:digits -->
<!-- end -->
After.
"""


def rows(cells, metric="map@r", task="t", seeds=None, suite="letters"):
  """(loss, arm) -> values of seeds 0, 1, ..."""
  return [
    Row(suite, task, loss, arm, seed, "test", metric, value)
    for (loss, arm), values in cells.items()
    for seed, value in enumerate(values)
  ]


CELLS = {
  ("", "raw pixels"): [0.2] * 5,
  ("npair", "plain"): [0.40, 0.50, 0.45, 0.42, 0.48],
  ("npair", "EPS"): [0.42, 0.53, 0.46, 0.45, 0.49],
  ("margin", "plain"): [0.10, 0.30, 0.20, 0.20, 0.20],
  ("margin", "EPS"): [0.30, 0.10, 0.20, 0.20, 0.20],
}


def lines_of(text):
  return [line for line in text.splitlines() if line.startswith("|")]


def test_results_by_hand():
  # s of plain: sqrt(0.0068 / 4); t_4 = 2.776; half = 0.0512; EPS: 0.0070, 0.0519.
  assert lines_of(markdown.results(rows(CELLS))) == [
    "| loss | arm | MAP@R |",
    "| --- | --- | --- |",
    "| raw pixels |  | 0.200 |",
    "| N-pair | plain | 0.450 ± 0.051 |",
    "| N-pair | EPS | **0.470** ± 0.052 |",
    "| margin | plain | 0.200 ± 0.088 |",
    "| margin | EPS | 0.200 ± 0.088 |",
  ]


def test_bold_only_where_pairs_say_so():
  bold = lambda table: [line for line in lines_of(markdown.results(table)) if "**" in line]
  assert len(bold(rows(CELLS))) == 1
  near = dict(CELLS) | {("npair", "EPS"): [0.42, 0.53, 0.46, 0.41, 0.49]}
  assert bold(rows(near)) == []
  assert "Bold" not in markdown.results(rows(near))
  # Floors can be best.
  floor = dict(CELLS) | {("", "raw pixels"): [0.9] * 5}
  assert bold(rows(floor)) == ["| raw pixels |  | **0.900** |"]
  # Other seeds do not pair, and of a spread nothing is best.
  fewer = dict(CELLS) | {("npair", "EPS"): [0.9, 0.9]}
  assert bold(rows(fewer)) == []
  assert "| N-pair | EPS | 0.900 (n=2) |" in markdown.results(rows(fewer))
  assert bold(rows(CELLS, metric="collapse/class_spread")) == []


def test_columns_and_tasks():
  more = rows(CELLS) + rows(CELLS, metric="nmi") + rows(CELLS, metric="collapse/modes_kept")
  more += rows(CELLS, metric="recall@8") + rows(CELLS, metric="collapse/modes_kept", task="a -> b")
  text = markdown.results(more, ["collapse/modes_kept"])
  assert lines_of(text)[0] == "| loss | arm | modes kept | MAP@R | NMI |"
  assert text.index("**a → b**") < text.index("**t**")
  assert "| N-pair | plain | 0.450 ± 0.051 |  |  |" in text


def test_effects_by_hand():
  # Differences 0.02, 0.03, 0.01, 0.03, 0.01: ends (4 * 0.01 + 0.01) / 5 and (0.03 + 4 * 0.03) / 5.
  text = markdown.effects(rows(CELLS))
  assert lines_of(text)[2:] == [
    "| N-pair | EPS | +0.020 (+0.010 to +0.030), p 0.06 |",
    # 0.2, -0.2, 0, 0, 0.
    "| margin | EPS | 0.000 (−0.160 to +0.160), p 1.00 |",
    # 0.11, -0.085, 0.005, 0.015, 0.005: where 0.11 and 0.085 have one sign, 16 flips of 32 reach
    # the sum 0.05, else only the one seen and its negative.
    "| *mean of losses* | EPS | +0.010 (−0.067 to +0.091), p 0.56 |",
  ]
  assert "5 pairs cannot bring below 0.0625" in text.replace("\n", " ")
  assert "95 % bootstrap interval" in text.replace("\n", " ")
  few = {place: values[:3] for place, values in CELLS.items()}
  assert "95 % t interval" in markdown.effects(rows(few)).replace("\n", " ")
  one = markdown.effects(rows({place: values[:1] for place, values in CELLS.items()}))
  assert "| N-pair | EPS | +0.020 |" in one
  assert "no interval" in one
  assert "One run each, seed 0." in markdown.results(rows({("npair", "plain"): [0.5]}))
  with pytest.raises(statistics.UnpairedError):
    markdown.effects(rows(dict(CELLS) | {("npair", "EPS"): [0.9, 0.9]}))


def test_what_the_second_of_two_methods_adds():
  both = {("npair", "EPS+HDML"): [0.43, 0.54, 0.47, 0.46, 0.50]}  # EPS and 0.01, plain and 0.03
  text = markdown.effects(rows(CELLS | both), None, "EPS", {"EPS+HDML"})
  assert text.startswith("Paired differences from EPS:")
  line = "| N-pair | EPS+HDML | +0.010 (+0.010 to +0.010), p 0.06 |"
  assert lines_of(text)[2:] == [line]
  place = document.Place(*map(pathlib.Path, ("results.md", "results", "images")))
  section = document.section(place, document.Suite("letters", rows(CELLS | both), {}, None))
  assert line in section and "| N-pair | EPS+HDML | +0.030 " in section
  assert "from EPS" not in document.section(place, document.Suite("letters", rows(CELLS), {}, None))


def test_tuning_and_provenance():
  candidate = {"task": "a -> b", "loss": "npair", "arm": "EPS", "validation": 0.41239}
  text = markdown.tuning(
    [
      candidate | {"candidate": {"optimizer.learning_rate": 0.0005}, "chosen": False},
      candidate | {"candidate": {"hdml.beta": 3.0, "k": "x|y"}, "chosen": True},
      candidate | {"candidate": {}, "chosen": False, "validation": None},
    ]
  )
  assert "3 an arm" in text
  assert lines_of(text)[2] == (
    "| a → b | N-pair | EPS | optimizer.learning_rate 0.0005: 0.412<br>"
    "**hdml.beta 3, k x\\|y: 0.412**<br>as it is: failed |"
  )
  assert markdown.provenance({}) == ""
  info = {"runs": 4, "seconds": 90, "workers": 2, "versions": {"jax": "1", "numpy": "2"}}
  assert markdown.provenance(info | {"notes": ["One.", "Two"]}) == (
    "4 runs, 90 s, 2 at a time. jax 1, numpy 2. One. Two."
  )


@pytest.fixture
def site(tmp_path):
  """A folder of docs with a page and one table; arguments of the command."""
  (tmp_path / "results.md").write_text(PAGE)
  table.write(rows(CELLS), tmp_path / "results" / "letters.csv")
  (tmp_path / "results" / "letters.json").write_text(
    json.dumps({"command": "run it", "seconds": 600, "machine": "a CPU", "metrics": ["map@r"]})
  )
  args = [f"--page={tmp_path / 'results.md'}", f"--results={tmp_path / 'results'}"]
  return tmp_path, [*args, f"--images={tmp_path / 'images'}"]


def test_page_is_made_and_checked(site, capsys):
  folder, args = site
  assert document.main([*args, "--check"]) == 1
  said = capsys.readouterr().out
  assert "results.md is out of date" in said
  assert "results_letters.png is out of date" in said
  assert (folder / "results.md").read_text() == PAGE
  assert not (folder / "images").exists()

  assert document.main(args) == 0
  page = (folder / "results.md").read_text()
  first, last = page.index("<!-- suite:letters -->"), page.index("<!-- end -->")
  inside = page[first:last]
  for text in (
    "```bash\nrun it\n```", markdown.results(rows(CELLS), ["map@r"]),
    "(images/results_letters.png)", markdown.effects(rows(CELLS), ["map@r"]),
    "(images/results_letters_effects.png)", "10 minutes in all. a CPU.",
  ):  # fmt: skip
    assert text in inside
  assert "\nold\n" not in page
  assert page[:first] == PAGE[: PAGE.index("<!-- suite:letters -->")]
  assert page[last:] == (
    "<!-- end -->\n\nBetween.\n\n<!-- suite:digits -->\n\n*Not run.*\n\n<!-- end -->\nAfter.\n"
  )
  capsys.readouterr()
  assert document.main([*args, "--check"]) == 0
  pictures = {path: path.read_bytes() for path in (folder / "images").iterdir()}
  assert {path.name for path in pictures} == {"results_letters.png", "results_letters_effects.png"}
  assert document.main(args) == 0
  assert capsys.readouterr().out == ""
  assert document.main([*args, "--redraw"]) == 0
  assert "wrote" in capsys.readouterr().out
  assert {path: path.read_bytes() for path in pictures} == pictures


def test_check_sees_every_change(site):
  folder, args = site
  assert document.main(args) == 0
  page, csv = folder / "results.md", folder / "results" / "letters.csv"
  picture = folder / "images" / "results_letters_effects.png"
  for path, change in [
    (page, lambda text: text.replace("0.470", "0.471")),
    (page, lambda text: text.replace("*Not run.*", "")),
    (csv, lambda text: text.replace("0.53", "0.5300001")),  # Shows in the figures alone.
    (folder / "results" / "letters.json", lambda text: text.replace("600", "6000")),
  ]:
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    assert document.main([*args, "--check"]) == 1, path
    path.write_text(before)
    assert document.main([*args, "--check"]) == 0
  page.write_text(page.read_text().replace("Between.", "Whatever I like."))
  assert document.main([*args, "--check"]) == 0
  picture.unlink()
  assert document.main([*args, "--check"]) == 1
  csv.unlink()
  assert document.main([*args, "--check"]) == 1
  assert document.main(args) == 0
  assert page.read_text().count("*Not run.*") == 2


def test_collects_what_run_wrote(site, capsys):
  folder, args = site
  out = folder / "runs"
  new = rows({("npair", "plain"): [0.5, 0.75]}, suite="digits", metric="new")
  table.write(new, out / "digits" / "table.csv")
  (out / "digits" / "info.json").write_text('{"runs": 2, "metrics": ["gone", "new"]}')
  (out / "digits" / "tuning.json").write_text("[]")
  assert document.main([*args, f"--collect={out}"]) == 0
  assert table.read(folder / "results" / "digits.csv") == new
  assert json.loads((folder / "results" / "digits.json").read_text()) == {
    "runs": 2, "metrics": ["gone", "new"], "tuning": [],
  }  # fmt: skip
  page = (folder / "results.md").read_text()
  assert "| N-pair | plain | 0.625 ± 1.588 |" in page
  # One arm has no effects.
  assert not (folder / "images" / "results_digits_effects.png").exists()
  assert document.main([*args, "--check"]) == 0
  assert document.main([*args, f"--collect={folder / 'nothing'}"]) == 2
  assert "expected NAME/table.csv in it" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    document.main([*args, "--check", f"--collect={out}"])


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("results.md", "<!-- suite:a -->\n", "expected <!-- end --> after <!-- suite:a -->"),
    ("results.md", "<!-- suite:a -->\n<!-- suite:b -->\n<!-- end -->\n", "line 2: expected <!-- e"),
    ("results.md", "a\n<!-- end -->\n", "line 2: expected <!-- suite:NAME --> before"),
    ("results.md", "<!-- suite:a -->\n<!-- end -->\n" * 2, "line 3: suite a stands twice"),
    ("results/letters.json", "{", "letters.json: expected JSON"),
    ("results/letters.json", "[]", "letters.json: expected a JSON object, got list"),
    ("results/letters.json", '{"seconds": "1"}', "seconds: expected int or float, got '1'"),
    ("results/letters.json", '{"tuning": [{}]}', "tuning: expected arm, candidate"),
    ("results/letters.csv", "a,b\n", "letters.csv: expected the columns suite"),
    (
      "results/letters.csv",
      "suite,task,loss,arm,seed,split,metric,value\ndigits,t,,a,0,test,nmi,1\n",
      "expected rows of suite letters, got digits",
    ),
    (
      "results/letters.csv",
      "suite,task,loss,arm,seed,split,metric,value\n"
      "letters,t,npair,plain,0,test,map@r,1\nletters,t,npair,EPS,1,test,map@r,1\n",
      "seeds: expected the same ones of both; EPS (map@r of t, npair) has 1",
    ),
  ],
)
def test_one_clear_error(site, capsys, name, text, message):
  folder, args = site
  (folder / name).write_text(text)
  if name.endswith(".csv"):
    (folder / "results" / "letters.json").unlink()
  before = (folder / "results.md").read_text()
  assert document.main(args) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1
  assert (folder / "results.md").read_text() == before


def test_no_page(tmp_path, capsys):
  assert document.main([f"--page={tmp_path / 'none.md'}"]) == 2
  assert "none.md" in capsys.readouterr().err


def test_the_page_of_this_repository_is_up_to_date(capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert document.main(["--check"]) == 0, capsys.readouterr().out
