"""The folder, photos and command that tests of ``upscale`` share."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.batch_setting import Setting


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    return Setting(tmp_path, monkeypatch)
