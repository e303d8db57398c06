"""The examples show what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_own_graph_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = runpy.run_path(str(ROOT / "examples" / "own_graph_model.py"))["main"]()
    before, after = found["before"], found["after"]
    assert before["asr"] - before["natural"] > 0.6
    assert after["asr"] < 0.2
    assert after["acc"] > before["acc"] - 0.1
    assert after["ra"] > before["ra"]
    assert len(capsys.readouterr().out.splitlines()) == 3


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
