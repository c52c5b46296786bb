"""Tables come back as they went; a bad one is one clear error."""

import json

import numpy as np
import pytest

from studies import table
from studies.table import Row

ROWS = [
  Row("glyphs", "letters", "npair", "plain", 1, "test", "map@r", 0.1 + 0.2),
  Row("glyphs", "letters", "npair", "EPS+HDML", 0, "test", "map@r", 1e-300),
  Row("glyphs", "letters", "", "raw pixels", 0, "test", "map@r", 1 / 3),
  Row("glyphs", "script -> 'code', \"point\"", "", "raw pixels", 10, "test", "é", -0.0),
  Row("glyphs", "letters", "", "raw pixels", 9, "test", "f1", 5.0),
]
HEADER = "suite,task,loss,arm,seed,split,metric,value\n"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_comes_back_sorted_to_the_last_bit(tmp_path, suffix):
  path = tmp_path / "new folder" / f"table{suffix}"
  table.write(ROWS, path)
  back = table.read(path)
  assert back == sorted(ROWS)
  assert [r.value.hex() for r in back] == [r.value.hex() for r in sorted(ROWS)]
  assert {type(r.seed) for r in back} == {int}
  first = path.read_bytes()
  table.write(ROWS[::-1], path)
  assert path.read_bytes() == first
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_numpy_numbers_are_written_as_numbers(tmp_path):
  row = ROWS[0]._replace(seed=np.int64(3), value=np.float32(0.1))
  table.write([row], tmp_path / "t.csv")
  assert (tmp_path / "t.csv").read_text() == (
    HEADER + "glyphs,letters,npair,plain,3,test,map@r,0.10000000149011612\n"
  )


def test_columns_in_any_order_and_an_empty_table(tmp_path):
  path = tmp_path / "t.csv"
  path.write_text("value,suite,task,loss,arm,seed,split,metric\n0.5,s,t,,raw pixels,2,test,nmi\n")
  assert table.read(path) == [Row("s", "t", "", "raw pixels", 2, "test", "nmi", 0.5)]
  table.write([], path)
  assert path.read_text() == HEADER
  assert table.read(path) == []


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "expected the columns suite, task.*got none"),
    ("suite,task\n", "expected the columns .*; got suite, task"),
    (HEADER + "s,t,l,a,0,test,nmi\n", "line 2: expected 8 cells, got 7"),
    (HEADER + "s,t,l,a,0.5,test,nmi,1\n", "line 2: .*seed '0.5'"),
    (HEADER + "s,t,l,a,-1,test,nmi,1\n", "seed '-1'"),
    (HEADER + "s,t,l,a,0,test,nmi,nan\n", "finite value; got .*'nan'"),
    (HEADER + "s,t,l,a,0,test,nmi,high\n", "value 'high'"),
    (HEADER + "s,t,l,,0,test,nmi,1\n", "line 2: arm: expected some text"),
    (HEADER + "s, t,l,a,0,test,nmi,1\n", "task: expected one line of text, got ' t'"),
    (HEADER + "s,t,l,a,0,test,nmi,1\ns,t,l,a,0,test,nmi,2\n", "one row of each key.*'nmi'"),
    (HEADER + '"s,t,l,a,0,test,nmi,1\n', "line 2: unexpected end of data"),
  ],
)
def test_bad_csv(tmp_path, text, message):
  path = tmp_path / "bad.csv"
  path.write_text(text)
  with pytest.raises(table.TableError, match=f"bad.csv: .*{message}|bad.csv: {message}"):
    table.read(path)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("{", "line 2: expected a JSON object"),
    ("[1]", "line 2: expected an object with suite"),
    (json.dumps(ROWS[0]._asdict() | {"more": 1}), "expected an object with suite"),
    (json.dumps(ROWS[0]._asdict() | {"seed": 0.5}), "seed 0.5"),
    (json.dumps(ROWS[0]._asdict() | {"value": None}), "value None"),
    (json.dumps(ROWS[0]._asdict() | {"task": 3}), "task: expected one line of text, got 3"),
  ],
)
def test_bad_jsonl(tmp_path, line, message):
  path = tmp_path / "bad.jsonl"
  path.write_text(json.dumps(ROWS[1]._asdict()) + "\n" + line + "\n")
  with pytest.raises(table.TableError, match=message):
    table.read(path)


def test_writes_nothing_that_it_would_not_read(tmp_path):
  path = tmp_path / "t.csv"
  table.write(ROWS, path)
  before = path.read_bytes()
  for rows, message in [
    ([ROWS[0]._replace(value=float("nan"))], "row 0: .*value nan"),
    ([ROWS[0], ROWS[1]._replace(seed=True, arm="")], "row 1: arm"),
    ([ROWS[0], ROWS[0]._replace(value=0.0)], "one row of each key"),
  ]:
    with pytest.raises(table.TableError, match=message):
      table.write(rows, path)
  assert path.read_bytes() == before
  with pytest.raises(table.TableError, match=r"ends in \.csv or \.jsonl"):
    table.write(ROWS, tmp_path / "t.txt")
  with pytest.raises(table.TableError, match=r"ends in \.csv or \.jsonl"):
    table.read(tmp_path / "t")


def test_a_file_that_is_not_text(tmp_path):
  (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(table.TableError, match="expected UTF-8"):
    table.read(tmp_path / "t.csv")
