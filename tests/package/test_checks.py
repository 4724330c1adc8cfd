"""Documents of strangers: what the loader refuses, and what values a table allows."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from bidiff_deploy import checks
from bidiff_deploy.checks import (
    MAX_JSON_BYTES,
    Entries,
    Items,
    Keys,
    OrNull,
    Text,
    Whole,
    load_json,
)


@pytest.mark.parametrize("text, value", [
    ("{}", {}), (b"[1, 2.5, null, true]", [1, 2.5, None, True]), ('"\\ud800"', "\ud800"),
    ("123456789012345678", 123456789012345678),
    ("[" * 16 + "]" * 16, json.loads("[" * 16 + "]" * 16)), ("1e308", 1e308)])
def test_documents_are_read(text, value):
    assert load_json(text) == value


@pytest.mark.parametrize("text, reason", [
    ("", "Expecting value"), ("{", "Expecting"), (b"\xff", "decode"), ("[1] 2", "Extra data"),
    ("NaN", "NaN is not a number"), ("[-Infinity]", "-Infinity is not a number"),
    ("1e999", "too large"), ("9" * 21, "more than 20 digits"), ("9" * 100_000, "20 digits"),
    ("-" + "9" * 5000, "20 digits"), ("[" * 18 + "]" * 18, "nested deeper than 16"),
    ("[" * 50_000 + "]" * 50_000, "nested deeper than 16"),
    ('{"a":' * 10_000 + "1" + "}" * 10_000, "nested deeper than 16"),
    ('{"a": 1, "b": 2, "a": 1}', "key 'a' is twice"),
    ('{"k": {"\\u001b": 1, "\\u001b": 2}}', r"key '\\x1b' is twice"),
    ("[" + "[]," * 70_000 + "[]]", "lists and objects"), (" " * (MAX_JSON_BYTES + 1), "4 MiB")])
def test_other_texts_have_a_reason(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        load_json(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("part", ["1,", "257,", '"ab",', "1.5,", "null,", '{"a":1},', "[1],"])
def test_a_document_takes_little_memory(part, monkeypatch):
    most_bytes = MAX_JSON_BYTES // 8  # both limits by an eighth: tracing is slow
    monkeypatch.setattr(checks, "MAX_JSON_BYTES", most_bytes)
    monkeypatch.setattr(checks, "MAX_CONTAINERS", checks.MAX_CONTAINERS // 8)
    text = "[" + part * ((most_bytes - 8) // len(part)) + "0]"
    tracemalloc.start()
    try:
        load_json(text)
    except ValueError:
        pass
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20 * most_bytes


TABLE = Keys({"size": Whole(1, 9), "names": Items(Text(5), 1, 3),
              "start": OrNull(Whole()), "by": Entries(Text(3, "[a-z]+", "letters"),
                                                     Keys({"hash": Text()}))},
             {"note": Text(10)})
RIGHT = {"size": 1, "names": ["a"], "start": None, "by": {"x": {"hash": "h"}}}


@pytest.mark.parametrize("change", [{}, {"start": 0}, {"note": "x"}, {"later": [[]]},
                                    {"names": ["a", "b", ""]}, {"by": {}}])
def test_values_that_a_table_allows(change):
    TABLE.check("", {**RIGHT, **change})


@pytest.mark.parametrize("change, reason", [
    ({"size": 0}, "size is 0; it must be a whole number from 1 to 9"), ({"size": 10}, "size is 10"),
    ({"size": True}, "size is True"), ({"size": 1.0}, "size is 1.0"),
    ({"size": "1" * 99}, "size is '1111"), ({"size": {}}, "size is {}"),
    ({"size": 10 ** 5000}, "a value of type int"), ({"names": "abc"}, "must be a list"),
    ({"names": []}, "has 0 items; it must have 1 to 3"), ({"names": ["a"] * 4}, "has 4 items"),
    ({"names": ["a", 7]}, r"names\[1\] is 7; it must be a text"),
    ({"names": ["abcdef"]}, "at most 5 characters"), ({"start": -1}, "start is -1"),
    ({"by": []}, "by is []; it must be an object".replace("[", r"\[")),
    ({"by": {"A": {}}}, "a key of by is 'A'; it must be letters"),
    ({"by": {"x": 1}}, r"by\['x'\] is 1; it must be an object"),
    ({"by": {"x": {}}}, r"by\['x'\]\.hash is missing"), ({"note": None}, "note is None"),
    ({"note": "\x1b[2J\n" * 9}, r"note is '\\x1b\[2J\\n")])
def test_values_that_it_does_not(change, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        TABLE.check("", {**RIGHT, **change})
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


@pytest.mark.parametrize("key", RIGHT)
def test_missing_keys_are_named(key):
    with pytest.raises(ValueError, match=f"^{key} is missing$"):
        TABLE.check("", {name: value for name, value in RIGHT.items() if name != key})
    with pytest.raises(ValueError, match="must be an object"):
        TABLE.check("document", [])
