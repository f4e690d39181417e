"""pandas goes as a pickle, whose columns of numbers stay where they are."""

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_index_equal, assert_series_equal

from distributed_comm._serialize.pickles import dumps, loads
from distributed_comm._serialize.type_registry import find
from distributed_comm.errors import UntrustedError

DAYS = pd.date_range("2024-02-28", periods=3, tz="Europe/Rome")
FRAMES = {
    "numbers": pd.DataFrame({"x": range(3), "y": [1.5, np.nan, 3]}),
    "objects": pd.DataFrame({"x": [{1}, None, "a"]}, dtype=object),
    "empty": pd.DataFrame({"x": []}),
    "nothing": pd.DataFrame(),
    "text": pd.DataFrame({"x": ["a", "größer", None]}),
    "pyarrow's text": pd.DataFrame({"x": pd.array(["a", None, "b"], "string[pyarrow]")}),
    "pyarrow's types": pd.DataFrame({"x": pd.array([1, None, 3], "int64[pyarrow]")}),
    "nullable": pd.DataFrame(
        {"i": pd.array([1, None, 3], "Int64"), "b": pd.array([True, None, False], "boolean")}
    ),
    "categories": pd.DataFrame({"x": pd.Categorical(["b", "a", None], ["b", "a"], ordered=True)}),
    "times": pd.DataFrame({"t": DAYS, "d": DAYS - DAYS[0]}, index=DAYS),
    "periods": pd.DataFrame({"p": pd.period_range("2024", periods=3, freq="M")}),
    "intervals": pd.DataFrame({"i": pd.interval_range(0, 3)}),
    "sparse": pd.DataFrame({"s": pd.arrays.SparseArray([0, 0, 1])}),
    "two levels": pd.DataFrame(
        np.eye(4),
        index=pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["letter", None]),
        columns=pd.MultiIndex.from_product([["x"], DAYS.append(DAYS[:1])]),
    ),
}


def there_and_back(obj, memory=bytearray):
    data, buffers = dumps(obj, trusted=True, protocol=5)
    return loads(data, [memory(buffer) for buffer in buffers], trusted=True)


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("memory", [bytearray, bytes])
def test_a_frame_arrives_as_it_was(name, memory):
    frame = FRAMES[name]
    frame.attrs["about"] = name
    arrived = there_and_back(frame, memory)
    assert_frame_equal(arrived, frame, check_freq=True, check_flags=True)
    assert arrived.attrs == frame.attrs


@pytest.mark.parametrize("name", [name for name in FRAMES if name != "nothing"])
def test_a_series_and_an_index_arrive_as_they_were(name):
    series = FRAMES[name].iloc[:, 0]
    assert_series_equal(there_and_back(series), series)
    assert_index_equal(there_and_back(series.index), series.index, exact=True)


@pytest.mark.parametrize(
    "scalar",
    [DAYS[0], pd.Timedelta("1D"), pd.Period("2024", "Y"), pd.Interval(0, 1), pd.Int64Dtype()],
    ids=repr,
)
def test_a_scalar_arrives_as_it_was(scalar):
    assert there_and_back(scalar) == scalar


def test_columns_of_numbers_are_copied_neither_out_nor_in():
    frame = pd.DataFrame(
        {
            "x": np.arange(100_000),
            "y": np.arange(100_000.0),
            "i": pd.array(np.arange(100_000), "Int64"),
            "d": np.arange(100_000, dtype="f4"),
        },
        index=np.arange(100_000) * 2,
    )
    data, buffers = dumps(frame, trusted=True, protocol=5)
    assert len(data) < 5_000
    assert sum(buffer.nbytes for buffer in buffers) >= 4 * 800_000 + 400_000
    sent = [np.frombuffer(buffer, "u1") for buffer in buffers]
    received = [bytearray(buffer) for buffer in buffers]
    memory = [np.frombuffer(frame, "u1") for frame in received]
    arrived = loads(data, list(received), trusted=True)
    for there, places in ((frame, sent), (arrived, memory)):
        columns = [there["x"].to_numpy(), there["y"].to_numpy(), there.index.to_numpy()]
        columns += [there["i"].array._data, there["d"].to_numpy()]
        for column in columns:
            assert sum(np.shares_memory(column, place) for place in places) == 1
    assert_frame_equal(arrived, frame)


def test_what_arrives_can_be_written_to():
    arrived = there_and_back(FRAMES["numbers"])
    arrived.loc[0, "x"] = 7
    assert arrived["x"].tolist() == [7, 1, 2]


def test_nothing_of_pandas_is_for_strangers():
    assert find(pd.DataFrame) is find(pd.Series) is None
    with pytest.raises(UntrustedError, match=r"pandas.*DataFrame can only be sent as a pickle"):
        dumps(FRAMES["numbers"], trusted=False, protocol=5)
