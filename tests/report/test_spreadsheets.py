"""Tables for a paper, written from kept records."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from msgspec import structs

from ostiary.experiment.exchange import read_records
from ostiary.experiment.record import Record
from ostiary.metrics.intervals import rate
from ostiary.report.ranking import ranking
from ostiary.report.spreadsheets import save_tables
from ostiary.report.tables import groups, rows

KEPT = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """AIDS of the certificates, three seeds; with the last one `subsampling` failed."""
    found = [r for r in read_records(KEPT / "certified.jsonl.xz") if r.plan["dataset"]["set"] == "AIDS"]
    last = found[-1]
    label = next(n for n in last.metrics["purifiers"] if n.startswith("subsampling"))
    left = {n: m for n, m in last.metrics["purifiers"].items() if n != label}
    errors = {f"purifier {label}": "out of memory"}
    cut = structs.replace(last, metrics={**last.metrics, "purifiers": left}, errors=errors, published={"none": {"asr": 95.8}})
    return [structs.replace(r, published=cut.published) for r in found[:-1]] + [cut]


def read(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def test_every_table_of_the_page_is_written(records: list[Record], tmp_path: Path) -> None:
    kinds = ("defences", "ranking", "reactivation", "stealth", "certified", "published")
    assert {p.name for p in save_tables(records, tmp_path)} == {"runs.csv"} | {
        f"{k}.{e}" for k in kinds for e in ("csv", "tex")
    }
    lines = read(tmp_path / "certified.csv")
    (one,) = [ln for ln in lines if (ln["defence"], ln["change"], ln["radius"]) == ("edge-partition", "edges", "8")]
    held = [r.metrics["purifiers"]["edge-partition"]["certified"]["edges"]["8"]["value"] for r in records]
    assert float(one["share"]) == pytest.approx(math.fsum(held) / 3) and one["share_n"] == "3"
    assert "none: ASR \\% & $95.8$ & $" in (tmp_path / "published.tex").read_text(encoding="utf-8")


def test_a_figure_of_fewer_seeds_says_so(records: list[Record], tmp_path: Path) -> None:
    save_tables(records, tmp_path)
    lines = {ln["defence"]: ln for ln in read(tmp_path / "defences.csv")}
    assert lines["none"]["seeds"] == "3" and lines["subsampling"]["seeds"] == "2"
    latex = (tmp_path / "defences.tex").read_text(encoding="utf-8").splitlines()
    assert [ln.rpartition("& ")[2] for ln in latex if ln.startswith(("none &", "subsampling &"))] == ["3 \\\\", "2 \\\\"]
    ranked = {ln["defence"]: ln for ln in read(tmp_path / "ranking.csv")}
    assert (ranked["subsampling"]["runs"], ranked["subsampling"]["failed"]) == ("2", "1")


def test_published_figures_are_numbers_like_all_others(records: list[Record], tmp_path: Path) -> None:
    """In shares of 1, with the ends, spread and number of ours; the paper's 95.8 is in percent."""
    save_tables(records, tmp_path)
    (line,) = read(tmp_path / "published.csv")
    (defended, *_) = read(tmp_path / "defences.csv")
    assert (line["defence"], line["figure"], float(line["published"])) == ("none", "asr", 0.958)
    ours = {f"ours{end}": defended[f"asr{end}"] for end in ("", "_low", "_high", "_sd", "_n")}
    assert {k: v for k, v in line.items() if k.startswith("ours")} == ours


def test_ends_in_files_are_those_of_the_page(records: list[Record], tmp_path: Path) -> None:
    """Student's interval of two seeds may leave what a share can be."""
    low, high = ({**r.metrics["victim"], "asr": rate(hits, 10)} for r, hits in zip(records, (4, 10), strict=False))
    two = [structs.replace(r, metrics={**r.metrics, "victim": v}) for r, v in zip(records, (low, high), strict=False)]
    save_tables(two, tmp_path)
    assert rows(groups(two)[0])[0].figures["asr"]["high"] > 1
    heads = {"acc": 0, "asr": 0, "ra": 0, "der": 0, "asr_lift": -1, "drop": -1}
    for line in read(tmp_path / "defences.csv"):
        limits = [(least, line[f"{n}_low"], line[f"{n}_high"]) for n, least in heads.items() if line[f"{n}_low"]]
        assert limits and all(least <= float(low) <= float(high) <= 1 for least, low, high in limits)
        assert not {"seconds_low", "seconds_high"} & set(line), "the page gives seconds no interval"


def test_latex_has_the_figures_of_the_page(records: list[Record], tmp_path: Path) -> None:
    """Intervals by their ends, cut to what is possible; the ranking with standard deviations."""
    save_tables(records, tmp_path)
    (victim, *_) = rows(groups(records)[0])
    asr = victim.figures["asr"]
    shown = f"${100 * asr['value']:.1f}\\; [{100 * asr['low']:.1f}, {100 * min(1.0, asr['high']):.1f}]$"
    assert shown in (tmp_path / "defences.tex").read_text(encoding="utf-8")
    best = ranking(records)[0]
    spread = f"${100 * best.figures['asr']['value']:.1f} \\pm {100 * best.figures['asr']['sd']:.1f}$"
    (line,) = [ln for ln in (tmp_path / "ranking.tex").read_text(encoding="utf-8").splitlines() if ln.startswith(best.defence)]
    assert spread in line and " & -" not in line.replace("& - ", ""), "a minus is set as mathematics"


def test_what_failed_in_all_seeds_keeps_its_line(records: list[Record], tmp_path: Path) -> None:
    save_tables([records[-1]], tmp_path)
    lines = {ln["defence"]: ln for ln in read(tmp_path / "defences.csv")}
    assert lines["subsampling"]["seeds"] == "0" and lines["subsampling"]["acc"] == ""


def test_a_table_without_lines_leaves_no_old_file(records: list[Record], tmp_path: Path) -> None:
    save_tables(records, tmp_path)
    bare = [structs.replace(r, published={}) for r in records[:1]]
    assert not {p.name for p in save_tables(bare, tmp_path)} & {"ranking.csv", "published.csv"}
    assert not list(tmp_path.glob("ranking.*")) and not list(tmp_path.glob("published.*"))
