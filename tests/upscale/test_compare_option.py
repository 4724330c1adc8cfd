"""``upscale --compare``: a page of before and after, next to the outputs."""

from __future__ import annotations

import json

from support.batch_setting import Setting, three


def test_a_page_next_to_one_photo(setting: Setting) -> None:
    setting.photo("a.jpg")
    result = setting.run("a.jpg", "-o", "big.png", "--compare")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("big.png: 18x12") and len(lines) == 2
    assert lines[1].startswith("big_compare.html: before and after, 0.0 MB")
    assert "a.jpg, before" in (setting.folder / "big_compare.html").read_text()


def test_a_second_run_replaces_nothing(setting: Setting) -> None:
    setting.photo("in/a.png")
    page = setting.folder / "out" / "compare.html"
    setting.run("in", "-o", "out", "--compare", "--quiet")
    page.write_text("mine")
    (setting.folder / "out" / "a.png").unlink()
    assert "compare.html already exists" in setting.refused("in", "-o", "out", "--compare")
    assert setting.engine.calls  # of the first run: the second opened no engine
    assert len(setting.opened) == 1
    setting.run("in", "-o", "out", "--compare", "--overwrite")
    assert page.read_text() != "mine"
    setting.run("in", "-o", "out", "--compare", "--resume")
    assert "a.png, before" in page.read_text()


def test_a_folder_has_one_page_and_failures_are_on_it(setting: Setting) -> None:
    three(setting)
    (setting.folder / "in" / "b.png").write_text("no image")
    result = setting.run("in", "-o", "out", "--compare", "--json", code=1)
    *_, entry = json.loads(result.stdout)
    text = (setting.folder / "out" / "compare.html").read_text()
    assert entry == {"compare": "out/compare.html", "photos": 2, "bytes": len(text.encode())}
    assert "in/b.png is a text file" in text and "c.png, after" in text


def test_a_page_is_no_input_of_the_next_run(setting: Setting) -> None:
    setting.photo("a.png")
    setting.run("*", "-o", "b/", "--compare")
    setting.run("b/*", "-o", "c/", "--compare")
    assert setting.tree().keys() >= {"b/compare.html", "c/a.png", "c/compare.html"}
    assert "c/compare.png" not in setting.tree()


def test_without_a_result_there_is_no_page(setting: Setting) -> None:
    (setting.folder / "a.png").write_text("no image")
    assert "is a text file" in setting.refused("a.png", "-o", "b.png", "--compare")


def test_a_page_that_cannot_be_written_loses_nothing(setting: Setting) -> None:
    setting.photo("in/a.png")

    class Late(type(setting.make())):
        def _predict(self, *arguments):
            (setting.folder / "out").mkdir(exist_ok=True)
            (setting.folder / "out" / "compare.html").write_text("of another process")
            return super()._predict(*arguments)

    setting.make = Late
    result = setting.run("in", "-o", "out", "--compare", "--json", code=1)
    first, page = json.loads(result.stdout)
    assert first["output"] == "out/a.png" and "already exists" in page["error"]
    assert result.stderr.startswith("error: out/compare.html already exists")
    assert (setting.folder / "out" / "compare.html").read_text() == "of another process"
