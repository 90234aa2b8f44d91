"""Long tables: one fact a row."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dlnflow as dln

FACTS = """item,relation,attribute,value
dog,can,run,1
dog,is,furry,1
cod,can,swim,1
cod,is,furry,0
"""


def _task(tmp_path, text, **options):
    path = tmp_path / "facts.csv"
    path.write_text(text, encoding="utf-8")
    return dln.Task.from_csv(path, **options)


def test_a_long_table_is_read_with_its_relations(tmp_path):
    task = _task(tmp_path, FACTS, long=True)
    assert task.items == ("dog", "cod")
    assert task.features == ("can run", "is furry", "can swim")
    assert task.y.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert "4 facts" in task.notes[0] and "not listed are 0" in task.notes[1]


def test_a_long_table_read_as_wide_is_told_how(tmp_path):
    with pytest.raises(ValueError, match=r"'relation', 'attribute'.*One row per item") as error:
        _task(tmp_path, FACTS)
    assert "--long" in str(error.value) and "frame.pivot(" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "a,b,c\ndog,run,yes\ndog,bark,yes\ncod,run,no\ncod,bark,no\n",
        "value,attribute,item\n1,run,dog\n1,bark,dog\n0,run,cod\n0,bark,cod\n",
        "a,b\ndog,run\ndog,bark\ncod,swim\ncod,swim\n",
        "what,who,n\nrun,dog,1\nbark,dog,1\nrun,cod,0\n",
        "a;b;c\ndog;run;1,0\ndog;bark;1,0\ncod;run;0,0\n",
    ],
)
def test_columns_are_known_by_name_or_order(text, tmp_path):
    options = {"label_column": "who"} if "who" in text else {}
    task = _task(tmp_path, text, long=True, **options)
    assert task.items == ("dog", "cod") and task.features[:2] == ("run", "bark")
    assert task.y[:2].tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n,a,b,c,d\nx,1,2,3,4\nx,1,2,3,4\n", "both long and wide"),
        ("n,a,v\nx,run,1\ny,fly,1\n", "not long"),
        ("n,a,v\nx,run,1\nx,run,2\ny,run,1\n", "several values: 'x run'"),
        ("n,a,v\nx,run,1\nx,,2\ny,run,1\n", "without attribute: 2"),
        ("n,a,value\nx,run,1\nx,fly,big\ny,run,\n", "'x' has 'big'"),
        ("item,attribute,value\nx,run,1\nx,fly,big\ny,run,\n", "'x' has 'big', 'y' has ''"),
        ("n,a,v\nx,run,1\nx,fly,2\ny,run,3\n", "'fly' has no finite value for 'y'"),
        ("n,a,v\nx,run,1\nx,fly,1\ny,run,1\n", "'run' is constant"),
    ],
)
def test_facts_that_make_no_table_are_refused(text, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        _task(tmp_path, text, long=True)


@given(st.data())
def test_melting_and_reading_gives_the_table_back(data):
    shape = data.draw(st.tuples(st.integers(2, 5), st.integers(2, 5)))
    order = data.draw(st.permutations(range(shape[0] * shape[1])))
    values = np.array(order, dtype=float).reshape(shape)
    wide = pd.DataFrame(
        values, [f"i{k}" for k in range(shape[0])], [f"f{k}" for k in range(shape[1])]
    )
    melted = wide.rename_axis("item").reset_index().melt("item", var_name="feature")
    task = dln.Task.from_frame(melted, long=True)
    expected = dln.Task.from_frame(wide)
    assert (task.items, task.features) == (expected.items, expected.features)
    assert np.array_equal(task.y, expected.y)
