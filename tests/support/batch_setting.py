"""What tests of ``upscale`` share: a folder, photos, the command, what it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import bidiff_deploy
from bidiff_deploy.cli import group
from bidiff_deploy.images.write import write_image
from bidiff_deploy.upscale import journal
from support.fake_engine import FakeEngine


class Setting:
    """A folder with photos, and the command with an engine that needs no bundle."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.make = lambda: FakeEngine(default_start=150)
        self.engine: FakeEngine | None = None  # the last that was opened
        self.opened: list[tuple] = []
        self.manifest = {"files": {"weights.bin": {"sha256": "0" * 64}}}

        def load(path: str | None, **options) -> FakeEngine:
            self.opened.append((path, options))
            self.engine = self.make()
            self.engine.bundle.manifest = self.manifest
            return self.engine

        monkeypatch.setattr(bidiff_deploy, "load", load)
        monkeypatch.chdir(folder)

    def photo(self, name: str, seed: int = 0, dtype=np.uint8, shape=(6, 9, 3)) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape)
        write_image(path, pixels.astype(dtype), overwrite=True)
        return path

    def run(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(group, ["upscale", "--model", "bundle", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    def refused(self, *arguments: str) -> str:
        """The one sentence of a run that fails and leaves everything as it was."""
        before = self.tree()
        result = self.run(*arguments, code=1)
        assert result.stdout in ("", "0 of 1 written to folder/ (1 failed)\n")
        assert self.tree() == before
        lines = result.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
        return lines[0]

    def tree(self) -> dict[str, bytes | None]:
        """Every file and folder but journals."""
        start = Path(journal.FILE_NAME).stem
        return {str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
                for path in sorted(self.folder.rglob("*"))
                if not (path.name.startswith(start) and path.suffix == ".jsonl")}


def outputs(setting: Setting, folder: str = "out") -> list[str]:
    return sorted(name[len(folder) + 1:] for name, content in setting.tree().items()
                  if name.startswith(f"{folder}/") and content is not None)


def three(setting: Setting) -> None:
    for index, name in enumerate("abc"):
        setting.photo(f"in/{name}.png", seed=index)
