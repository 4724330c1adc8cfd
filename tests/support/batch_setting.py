"""What tests of ``upscale`` with many images share: its folder, three photos, what it wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_cli_upscale import Setting


@pytest.fixture(name="setting")
def upscale_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    return Setting(tmp_path, monkeypatch)


def outputs(setting: Setting, folder: str = "out") -> list[str]:
    return sorted(name[len(folder) + 1:] for name, content in setting.tree().items()
                  if name.startswith(f"{folder}/") and content is not None)


def three(setting: Setting) -> None:
    for index, name in enumerate("abc"):
        setting.photo(f"in/{name}.png", seed=index)
