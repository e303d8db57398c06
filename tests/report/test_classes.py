"""Bars of a scan's measures, class by class."""

from __future__ import annotations

from typing import Any

from ostiary.report.classes import class_bars
from ostiary.report.drawing import ATTACK, Figure

NC: dict[str, Any] = {
    "about": "model",
    "classes": [1],
    "info": {
        "classes": {
            "cat": {"mask norm": 20.0, "anomaly index": -0.5, "rate": 1.0, "fourth": 2.0},
            "dog": {"mask norm": 2.123456, "anomaly index": 3.5, "rate": 1.0, "fourth": 1.0},
            "emu": {"mask norm": None, "anomaly index": 0.0, "rate": 0.1, "fourth": 1.0},
        }
    },
}
NAMES = ["cat", "dog", "emu"]


def drawn(found: dict[str, Any], target: int | None = None) -> list[Figure]:
    return list(class_bars("neural-cleanse", found, NAMES, target, "Seed 3"))


def test_every_measure_has_a_panel_and_flagged_classes_stand_out() -> None:
    (figure,) = drawn(NC, target=1)
    panels = figure.spec["vconcat"]
    assert [p["encoding"]["y"]["title"] for p in panels] == ["mask norm", "anomaly index", "rate"]  # three are enough
    assert panels[0]["data"]["values"] == [
        {"class": "cat", "mask norm": 20.0, "verdict": "not flagged"},
        {"class": "dog (target)", "mask norm": 2.123, "verdict": "flagged"},
    ]
    assert panels[0]["encoding"]["x"]["scale"]["domain"] == ["cat", "dog (target)", "emu"]
    assert panels[0]["encoding"]["color"]["scale"]["range"][0] == ATTACK
    assert [p["encoding"]["x"]["axis"]["labels"] for p in panels] == [False, False, True]
    assert "Flagged: dog. Seed 3." in figure.caption
    assert "<svg" in figure.svg()


def test_without_a_target_or_a_flag_the_caption_says_so() -> None:
    (figure,) = drawn(NC | {"classes": []})
    assert "No class is flagged." in figure.caption
    assert "(target)" not in str(figure.spec)


def test_words_nested_values_and_yes_or_no_are_no_measures() -> None:
    lines = {
        n: {"trigger": "clique", "nodes": {"1": {"rate": 0.1}}, "flagged": False, "score": float(i)}
        for i, n in enumerate(NAMES)
    }
    (figure,) = drawn({"about": "model", "classes": [], "info": {"classes": lines}})
    assert figure.spec["encoding"]["y"]["title"] == "score"
    assert drawn({"about": "model", "classes": [], "info": {"classes": {n: {"flagged": True} for n in NAMES}}}) == []


def test_detectors_of_inputs_have_none() -> None:
    assert drawn({"about": "train", "classes": [], "info": {}}) == []
    assert drawn({"about": "model", "classes": [], "info": {"classes": {"cat": {"score": 1.0}}}}) == []
