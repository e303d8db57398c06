"""The example on images shows what it says: fine-tuning keeps the backdoor, unlearning the patch takes it out."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_own_image_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = runpy.run_path(str(ROOT / "examples" / "own_image_model.py"))["main"]()
    assert found["before"]["acc"] > 0.9
    assert found["before"]["asr"] > 0.9
    assert found["before"]["natural"] < 0.1
    assert found["fine-tune"]["asr"] > 0.9
    assert found["nc-unlearn"]["asr"] < 0.1
    assert found["nc-unlearn"]["acc"] > 0.9
    assert len(capsys.readouterr().out.splitlines()) == 3
