"""Files of open pages: what is an upload, what each may have, and when it is deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bidiff_deploy.app.pages import Pages, Upload
from bidiff_deploy.errors import UsageError


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    return Pages(tmp_path, 100)


def upload(root: Path, name: str, digest: str = "d1", content: bytes = b"photo") -> Upload:
    path = root / digest / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return Upload(path, name)


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_what_a_page_no_longer_shows_is_deleted(pages, tmp_path):
    one, two = upload(tmp_path, "a.png"), upload(tmp_path, "b.png", "d2")
    pages.open("page", [one, two])
    pages.open("page", [two])
    assert files(tmp_path) == ["b.png"] and not one.path.parent.exists()
    pages.close("page")
    assert list(tmp_path.iterdir()) == []
    pages.close("page")  # of which nothing is known


def test_a_file_that_another_page_shows_stays(pages, tmp_path):
    shared, alias = upload(tmp_path, "a.png"), upload(tmp_path, "same content.png")
    pages.open("one", [shared, alias])
    pages.open("other", [shared])
    pages.close("one")
    assert files(tmp_path) == ["a.png"]
    pages.close("other")
    assert list(tmp_path.iterdir()) == []


def test_closing_a_page_ends_its_work(pages, tmp_path):
    photo = upload(tmp_path, "a.png")
    work = pages.open("page", [photo]).start([photo])
    assert work.photos[0].read_bytes() == b"photo"
    pages.close("page")
    assert work.stopped.is_set() and work.abandoned and list(tmp_path.iterdir()) == []


def test_new_work_ends_the_last(pages, tmp_path):
    photo = upload(tmp_path, "a.png")
    page = pages.open("page", [photo])
    first, second = page.start([photo]), page.start([photo])
    assert first.stopped.is_set() and not first.folder.exists()
    assert not second.stopped.is_set() and second.photos[0].exists()


def test_results_of_photos_with_one_name_have_two(pages, tmp_path):
    found = [upload(tmp_path, name, f"d{number}") for number, name in enumerate(
        ["a.png", "a.jpg", "A.png", "a-2.png"])]
    work = pages.open("page", found).start(found)
    stems = [photo.stem.lower() for photo in work.photos]
    assert stems == ["a", "a-2", "a-3", "a-2-2"]
    assert [photo.suffix for photo in work.photos] == [".png", ".jpg", ".png", ".png"]


@pytest.mark.parametrize(("given", "used"), [
    ("../../etc/passwd.png", "passwd.png"), ("..\\up.png", "up.png"), (".hidden.png", "hidden.png"),
    ("", "photo"), ("/", "photo"), ("été 1.png", "été 1.png"), ("a\nb\x1b.png", "a_nb_x1b.png"),
    ("x" * 300 + ".png", "x" * 120 + ".png"), ("ö" * 300 + ".png", "ö" * 60 + ".png")])
def test_names_stay_in_the_folder(pages, tmp_path, given, used):
    photo = Upload(upload(tmp_path, "a.png").path, given)
    work = pages.open("page", [photo]).start([photo])
    assert [path.name for path in (work.folder / "originals").iterdir()] == [used]


def test_other_files_are_no_uploads(pages, tmp_path):
    photo = upload(tmp_path, "a.png")
    link = tmp_path / "d1" / "link.png"
    link.symlink_to("/etc/passwd")
    work = pages.open("other", [photo]).start([photo])
    for path in (Path("/etc/passwd"), tmp_path / "d1" / ".." / ".." / "x.png", link, tmp_path,
                 work.photos[0], tmp_path / "d1" / "missing.png", tmp_path / "d1"):
        with pytest.raises(UsageError, match="add it again"):
            pages.open("page", [Upload(path, "a.png")])


def test_a_page_has_a_limit(pages, tmp_path):
    half = upload(tmp_path, "a.png", content=bytes(60))
    more = upload(tmp_path, "b.png", "d2", bytes(41))
    pages.open("page", [half])
    with pytest.raises(UsageError, match="--max-upload"):
        pages.open("page", [half, more])


def test_what_pages_left_before_they_had_it_is_deleted_later(pages, tmp_path):
    late, new, held = (upload(tmp_path, f"{name}.png", name) for name in ("late", "new", "held"))
    (tmp_path / "tmpab12").write_bytes(b"half an upload")
    pages.open("page", [held])
    for path in (late.path, held.path, tmp_path / "tmpab12"):
        os.utime(path, (0, 0))
    pages.close("another")
    assert files(tmp_path) == ["held.png", "late.png", "new.png", "tmpab12"]
    pages.open("page", [held])
    assert files(tmp_path) == ["held.png", "new.png"]
