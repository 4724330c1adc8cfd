"""Photos of a page are upscaled as the command does; a bad one is a sentence, others go on."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from bidiff_deploy.app import photos, previews
from bidiff_deploy.app.pages import Pages, Upload, Work
from bidiff_deploy.app.photos import Stopped, Upscaler
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.read import MAX_PIXELS
from bidiff_deploy.images.write import write_image
from support.batch_setting import Setting
from support.fake_engine import FakeEngine
from support.image_samples import profile


class Case:
    """A page whose engine needs no network. ``opened``: the models that were opened."""

    def __init__(self, root: Path, setting: Setting) -> None:
        self.root, self.setting = root, setting
        self.pages = Pages(root, 1 << 20)
        self.opened: list[tuple[str | None, FakeEngine]] = []
        self.upscaler = Upscaler(None, 1000)

    def open_model(self, model, **options):
        self.opened.append((model, self.setting.make()))
        return self.opened[-1][1]

    def work(self, *originals: Path, page: str = "page") -> Work:
        uploads = []
        for original in originals:
            path = self.root / f"digest{original.stem}" / original.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(original.read_bytes())
            uploads.append(Upload(path, original.name))
        return self.pages.open(page, uploads).start(uploads)

    def run(self, work: Work, model: str | None = "m", on_progress=lambda share, text: None
            ) -> list[Path | None]:
        return list(self.upscaler.run(work, model, 2, on_progress))


@pytest.fixture
def case(tmp_path, monkeypatch):
    for name in ("photos", "root"):
        (tmp_path / name).mkdir()
    made = Case(tmp_path / "root", Setting(tmp_path / "photos", monkeypatch))
    monkeypatch.setattr(photos, "open_model", made.open_model)
    return made


def test_the_file_is_the_commands(case):
    deep = case.setting.folder / "deep.png"
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (7, 9, 3)).astype(np.uint16)
    write_image(deep, Image(pixels, pixels[:, :, 0], profile()))
    grey = case.setting.photo("grey.tif", shape=(6, 5))
    case.setting.run(deep, grey, "-o", "out")
    written = case.run(case.work(deep, grey))
    assert [path.name for path in written] == ["deep_x2.png", "grey_x2.png"]
    for path, name in zip(written, ("deep", "grey")):
        assert path.read_bytes() == (case.setting.folder / "out" / f"{name}.png").read_bytes()


def test_a_bad_file_is_a_sentence(case):
    broken = case.setting.folder / "broken <b>.jpg"
    broken.write_text("no image")
    good, large = case.setting.photo("good.png"), case.setting.photo("large.png", shape=(26, 40))
    work = case.work(broken, large, good)
    assert [path and path.name for path in case.run(work)] == [None, None, "good_x2.png"]
    assert work.lines[0].startswith("broken <b>.jpg is ")
    assert work.lines[1].startswith("large.png: ") and "has 40x26 pixels" in work.lines[1]
    assert work.lines[2].startswith("good_x2.png: 18x12, ")
    assert list(work.results) == ["good_x2.png"]
    assert str(case.root) not in " ".join(work.lines)


def test_progress_names_photo_step_and_time_left(case):
    seen = []
    work = case.work(case.setting.photo("a.png"), case.setting.photo("b.png"))
    case.run(work, on_progress=lambda share, text: seen.append((share, text)))
    steps = len(FakeEngine(default_start=150).bundle.timesteps) - 1
    assert [share for share, _ in seen] == pytest.approx(
        [(place + step / steps) / 2 for place in (0, 1) for step in range(steps + 1)])
    assert seen[0][1] == "[1/2] a.png"
    assert seen[1][1].startswith(f"[1/2] a.png, step 1 of {steps}, about ")


def test_an_engine_is_kept_until_another_model_is_wanted(case):
    photo = case.setting.photo("a.png")
    for model in ("m", "m", "n"):
        case.run(case.work(photo), model)
    assert [model for model, _ in case.opened] == ["m", "n"]
    assert [engine.closings for _, engine in case.opened] == [1, 0]
    case.upscaler.close()
    assert case.opened[1][1].closings == 1


def test_without_a_model_each_photo_gets_that_of_its_kind(case):
    case.run(case.work(case.setting.photo("a.png"), case.setting.photo("b.jpg")), None)
    assert [model for model, _ in case.opened] == ["photo-x2", "photo-jpeg-x2"]


def test_stopped_work_ends_at_the_next_step_and_keeps_results(case):
    work = case.work(case.setting.photo("a.png"), case.setting.photo("b.png"))

    def stop(share: float, text: str) -> None:
        if text.startswith("[2/2] b.png, step 1"):
            work.stopped.set()

    with pytest.raises(Stopped):
        case.run(work, on_progress=stop)
    assert [path.name for path in work.folder.glob("*.png")] == ["a_x2.png"]
    calls = len(case.opened[0][1].calls)
    with pytest.raises(Stopped):  # in the queue
        case.run(work)
    assert len(case.opened[0][1].calls) == calls


def test_nothing_is_left_of_a_page_that_closes_while_it_computes(case):
    work = case.work(case.setting.photo("a.png"))

    def close(share: float, text: str) -> None:
        if "step 1" in text:
            case.pages.close("page")
            (work.folder / "late").mkdir(parents=True)  # as the work itself may do

    with pytest.raises(Stopped):
        case.run(work, on_progress=close)
    case.pages.close("page")
    assert [path for path in case.root.rglob("*") if path.is_file()] == []
    assert not work.folder.exists()


def test_one_picture_is_computed_at_a_time(case):
    works = [case.work(case.setting.photo(f"{name}.png"), page=name) for name in "ab"]
    inside, order = threading.Event(), []
    second = threading.Thread(target=lambda: case.run(works[1], on_progress=lambda *_:
                                                      order.append("b")))

    def first(share: float, text: str) -> None:
        order.append("a")
        if not inside.is_set():
            inside.set()
            second.start()

    case.run(works[0], on_progress=first)
    second.join()
    assert order == sorted(order) and set(order) == {"a", "b"}
    assert len(case.opened) == 1


@pytest.mark.parametrize(("shape", "alpha", "suffix"), [
    ((40, 60, 3), False, ".jpg"), ((40, 60, 1), False, ".jpg"), ((40, 60, 3), True, ".png"),
    ((40, 60, 1), True, ".png")])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_previews_are_two_pictures_of_one_size(tmp_path, monkeypatch, shape, alpha, suffix, dtype):
    monkeypatch.setattr(previews, "MAX_PIXELS", 600)
    top = np.iinfo(dtype).max
    large = np.full(shape, top, dtype)
    see_through = np.full(shape[:2], top // 2, dtype) if alpha else None
    for name, step in (("large", 1), ("small", 2)):
        write_image(tmp_path / f"{name}.png", Image(
            large[::step, ::step], None if see_through is None else see_through[::step, ::step],
            profile(shape[2] == 1)))
    found = previews.write_previews(tmp_path / "small.png", tmp_path / "large.png",
                                    tmp_path / "previews", MAX_PIXELS)
    for path in found:
        with pillow.open(path) as opened:
            assert opened.size == (30, 20) and path.endswith(suffix)
            assert opened.info["icc_profile"]
            assert min(low for low, _ in opened.convert("RGB").getextrema()) == 255
