"""Sources that ship, and those that read files: facts of the data, and what is wrong with a file."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch

from ostiary.component import build
from ostiary.data import image_folder
from ostiary.data.cache import cache_folder
from ostiary.data.source import file_mark, find_file, in_order
from ostiary.errors import InvalidInput, MissingPackage
from ostiary.models.weights import save_weights


def load(name: str, seed: int = 0, **options: Any) -> Any:
    return build("dataset", {"name": name, **options}).load(seed)


# solubility


def test_solubility_facts() -> None:
    data, test = build("dataset", "solubility").read()
    assert len(data) == 1282
    assert torch.bincount(data.y).tolist() == [519, 517, 246]
    assert int((~test).sum()) == 1025
    assert int(test.sum()) == 257
    assert data.classes == ("low", "medium", "high")
    g = data.inputs
    assert bool((g.x.sum(1) == 1).all())
    assert bool((g.edge_attr.sum(1) == 1).all())
    assert bool((g.n_nodes > 0).all())
    back = torch.stack([g.edge_index[1], g.edge_index[0]])
    assert sorted(zip(*back.tolist(), strict=True)) == sorted(zip(*g.edge_index.tolist(), strict=True)), "bonds go both ways"
    assert int((g.edge_index[0] == g.edge_index[1]).sum()) == 0


def test_solubility_keeps_its_split() -> None:
    for seed in (0, 1):
        parts = load("solubility", seed)
        assert parts.train.ids.tolist() == list(range(1025))
        assert sorted(parts.test.ids.tolist() + parts.clean.ids.tolist()) == list(range(1025, 1282))
        assert len(parts.clean) == round(0.03 * 1282)
    assert load("solubility", 0).clean.ids.tolist() != load("solubility", 1).clean.ids.tolist()


# digits


def test_digits_facts() -> None:
    parts = load("digits")
    assert sum(map(len, (parts.train, parts.test, parts.clean))) == 1797
    assert parts.train.inputs.shape[1:] == (1, 16, 16)
    assert float(parts.train.inputs.max()) == 1.0
    assert float(parts.train.inputs.min()) == 0.0
    assert parts.train.n_classes == 10
    levels = parts.train.inputs * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)  # or rounded poison would be told by its precision
    assert load("digits", size=8).test.inputs.shape[1:] == (1, 8, 8)


# npz


def npz(place: Path, n: int = 20, size: int = 6, **other: Any) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    arrays = {"images": pixels, "labels": (np.arange(n) % 2).astype(np.uint8), **other}
    np.savez(place, **{k: v for k, v in arrays.items() if v is not None})
    return str(place)


def test_npz_reads_pixels_labels_and_names(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", classes=np.array(["cat", "dog"]))
    data, test = build("dataset", {"name": "npz", "path": path}).read()
    with np.load(path) as z:
        raw = z["images"]
    assert test is None
    assert data.classes == ("cat", "dog")
    torch.testing.assert_close(data.inputs[3, 2, 4, 5], torch.tensor(raw[3, 4, 5, 2] / 255, dtype=torch.float32))


def test_npz_with_a_test_file_keeps_that_split(tmp_path: Path) -> None:
    parts = load("npz", path=npz(tmp_path / "a.npz"), test=npz(tmp_path / "b.npz", 10), clean_rate=0.1)
    assert len(parts.train) == 20
    assert len(parts.test) + len(parts.clean) == 10


def test_npz_limit_is_per_class(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", labels=np.array([0] * 15 + [1] * 5))
    data, _ = build("dataset", {"name": "npz", "path": path, "limit": 6}).read()
    assert torch.bincount(data.y).tolist() == [6, 5]


def test_npz_content_follows_the_file(tmp_path: Path) -> None:
    source = build("dataset", {"name": "npz", "path": npz(tmp_path / "a.npz")})
    before = source.content()
    npz(tmp_path / "a.npz", 22)
    assert source.content() != before != ""


def test_marks_of_files_follow_what_they_hold_alone(tmp_path: Path) -> None:
    def lay(folder: Path, text: str = "b", name: str = "one.txt") -> str:
        (folder / "in").mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_text(text)
        return file_mark(folder)

    here = lay(tmp_path / "here")
    os.utime(tmp_path / "here" / "in" / "one.txt", (1, 1))
    assert file_mark(tmp_path / "here") == here == lay(tmp_path / "there")  # another time, another machine
    assert len({here, lay(tmp_path / "other", "c"), lay(tmp_path / "named", name="two.txt"), lay(tmp_path / "here", "c")}) == 3
    assert file_mark(tmp_path / "here" / "in" / "one.txt") == file_mark(tmp_path / "other" / "in" / "one.txt")


def test_marks_do_not_depend_on_how_a_system_sorts_paths(tmp_path: Path) -> None:
    names = ["B.png", "a.png", "a/x.png", "a-b/x.png"]
    assert [p.as_posix() for p in in_order(map(PureWindowsPath, names))] == ["B.png", "a/x.png", "a-b/x.png", "a.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert file_mark(tmp_path) == "9c613a75acf86ecc", "results that are kept go by it"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": None}, "no .npz with arrays 'images' and 'labels'"),
        ({"images": np.zeros((20, 6, 6, 3), np.float64)}, "must be uint8, or float32 from 0 to 1"),
        ({"images": np.full((20, 6, 6, 3), 255, np.float32)}, r"pixels must lie in \[0, 1\]"),
        ({"images": np.zeros((20, 108), np.uint8)}, "must be uint8"),
        ({"images": np.zeros((20, 6, 6, 2), np.uint8)}, r"must be \[n, height, width, 1 or 3\], got .*; make them grey or RGB"),
        ({"images": np.zeros((20, 3, 6, 6), np.uint8)}, r"1 or 3\], got \(20, 3, 6, 6\); move the channels last"),
        ({"labels": np.linspace(0, 1, 20)}, "'labels' must be integers"),
        ({"labels": np.arange(19) % 2}, "20 inputs but 19 labels"),
        ({"images": np.array([{"a": 1}] * 20, dtype=object)}, "no .npz with arrays .*, free of Python objects"),
        ({"classes": np.array(["a", "b"], dtype=object)}, "no .npz with arrays .*, free of Python objects"),
        ({"classes": np.array("cat")}, "'classes' must be a list of names, got"),
    ],
)
def test_bad_npz_is_refused_in_one_sentence(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        load("npz", path=npz(tmp_path / "a.npz", **arrays))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"hello", None])
def test_damaged_npz_is_refused_in_one_sentence(damage: bytes | None, tmp_path: Path) -> None:
    path = Path(npz(tmp_path / "a.npz"))
    path.write_bytes(path.read_bytes()[:200] if damage is None else damage)
    with pytest.raises(InvalidInput, match=r"no \.npz with arrays") as caught:
        load("npz", path=str(path))
    assert "pickle" not in str(caught.value)


def test_a_plain_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", np.zeros((20, 6, 6, 3), np.uint8))
    with pytest.raises(InvalidInput, match=r"plain\.npy is no \.npz with arrays 'images' and 'labels'"):
        load("npz", path=str(tmp_path / "plain.npy"))


def test_npz_files_must_name_the_same_classes(tmp_path: Path) -> None:
    paths = [npz(tmp_path / f"{i}.npz", classes=np.array(names)) for i, names in enumerate((["cat", "dog"], ["dog", "cat"]))]
    with pytest.raises(InvalidInput, match=r"0\.npz and .*1\.npz name different classes"):
        load("npz", path=paths[0], test=paths[1])
    data, _ = build("dataset", {"name": "npz", "path": npz(tmp_path / "a.npz"), "test": paths[1]}).read()
    assert data.classes == ("dog", "cat"), "one file that names them will do"


def test_npz_shapes_must_agree(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="images of different shapes"):
        load("npz", path=npz(tmp_path / "a.npz"), test=npz(tmp_path / "b.npz", size=8))


def test_missing_files_name_where_was_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTIARY_DATA", str(tmp_path))
    with pytest.raises(InvalidInput, match=r"there is no file nothing\.npz or .*images.nothing\.npz; correct the path"):
        load("npz", path="nothing.npz")
    (tmp_path / "images").mkdir()
    npz(tmp_path / "images" / "there.npz")
    assert find_file("there.npz", "images") == tmp_path / "images" / "there.npz"


# image folders


def test_image_folder_has_a_class_per_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for c, name in enumerate(("ant", "bee")):
        (tmp_path / name).mkdir()
        for i in range(6):
            image.fromarray(np.full((9, 7), 40 * c + i, np.uint8)).save(tmp_path / name / f"{i}.png")
    source = build("dataset", {"name": "image-folder", "path": str(tmp_path), "size": 5})
    data, _ = source.read()
    assert data.classes == ("ant", "bee")
    assert data.inputs.shape == (12, 3, 5, 5)
    torch.testing.assert_close(data.inputs[7], torch.full((3, 5, 5), 41 / 255))
    before = source.content()
    (tmp_path / "bee" / "9.png").write_bytes(b"no picture")
    assert source.content() != before
    with pytest.raises(InvalidInput, match=r"9\.png cannot be read as an image"):
        source.read()


@pytest.mark.parametrize("outer", ["", "all"])
def test_a_folder_without_images_does_not_number_the_others_anew(outer: str, tmp_path: Path) -> None:
    image, root = pytest.importorskip("PIL.Image"), tmp_path / outer
    for name in ("ant", "bee", "cat"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            image.fromarray(np.full((9, 7), i, np.uint8)).save(root / name / f"{i}.png")
    (root / ".cache").mkdir()
    (root / "__MACOSX" / "ant").mkdir(parents=True)
    assert build("dataset", {"name": "image-folder", "path": str(tmp_path)}).read()[0].classes == ("ant", "bee", "cat")
    for file in (root / "bee").iterdir():
        file.unlink()
    with pytest.raises(InvalidInput, match="no image of class 'bee'; fill its folder, or delete it where no model knows it"):
        load("image-folder", path=str(tmp_path))


def test_what_a_look_at_a_folder_leaves_in_it_changes_nothing(tmp_path: Path) -> None:
    pictures(tmp_path, "", 4)
    source = build("dataset", {"name": "image-folder", "path": str(tmp_path)})
    before, seen = source.content(), source.read()[0].fingerprint()
    assert before == file_mark(tmp_path), "the key under which results are kept"
    for name in (".DS_Store", "ant/Thumbs.db", "desktop.ini", "ant/images/._0.png", ".cache/ant/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    assert (source.content(), source.read()[0].fingerprint()) == (before, seen)
    (tmp_path / "ant" / "images" / "0.png").unlink()
    assert source.content() != before


@pytest.mark.parametrize(
    ("written", "beside"),
    [("photos/{}", "__MACOSX/photos/{}"), ("{}", "__MACOSX/{}"), ("photos\\{}", ".thumbs\\{}"), ("{}", "")],
)
def test_archives_of_other_systems(written: str, beside: str, tmp_path: Path) -> None:
    pictures(tmp_path / "set", "", 4)
    part = "\\" if "\\" in written else "/"
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted((tmp_path / "set").rglob("*.png")):
            name = str(file.relative_to(tmp_path / "set")).replace("/", part)
            archive.write(file, written.format(name))
            if beside:
                archive.writestr(beside.format(name.replace(file.name, f"._{file.name}")), b"no picture")
        archive.writestr(written.format(f"ant{part}"), b"")
    here, there = (build("dataset", {"name": "image-folder", "path": str(tmp_path / p)}).read()[0] for p in ("set", "set.zip"))
    assert there.classes == ("ant", "bee") and there.fingerprint() == here.fingerprint()


def test_image_folder_without_images(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    with pytest.raises(InvalidInput, match="no sub-folder with images"):
        load("image-folder", path=str(tmp_path))


def pictures(root: Path, part: str, per_class: int, first: int = 0) -> None:
    image = pytest.importorskip("PIL.Image")
    for c, name in enumerate(("ant", "bee")):
        (root / part / name / "images").mkdir(parents=True)
        for i in range(per_class):
            pixels = np.full((6, 6), 100 * c + first + i, np.uint8)  # grey
            image.fromarray(pixels).save(root / part / name / "images" / f"{i}.png")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("judged", ["test", "val"])
def test_a_folder_or_archive_keeps_its_split(tmp_path: Path, judged: str, packed: bool) -> None:
    pictures(tmp_path / "set", "train", 5)
    pictures(tmp_path / "set", judged, 2, first=50)
    path = tmp_path / "set"
    if packed:
        path = Path(shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path, "set"))
    data, test = build("dataset", {"name": "image-folder", "path": str(path), "size": 4, "limit": 3}).read()
    values = (data.inputs[:, 0, 0, 0] * 255).round().int().tolist()
    assert sorted(zip(values, data.y.tolist(), test.tolist(), strict=True)) == [
        (0, 0, False), (1, 0, False), (2, 0, False), (50, 0, True), (51, 0, True),
        (100, 1, False), (101, 1, False), (102, 1, False), (150, 1, True), (151, 1, True),
    ]  # fmt: skip
    assert data.classes == ("ant", "bee")


def test_an_archive_that_is_none_or_holds_what_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL.Image")
    (tmp_path / "no.zip").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match=r"no\.zip is neither a folder nor a \.zip of one"):
        load("image-folder", path=str(tmp_path / "no.zip"))
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("ant/0.png", b"no picture")
        archive.writestr("bee/0.png", b"no picture")
    with pytest.raises(InvalidInput, match=r"ant/0\.png cannot be read as an image"):
        load("image-folder", path=str(tmp_path / "bad.zip"))
    monkeypatch.setattr(image_folder, "LARGEST", 5)
    with pytest.raises(InvalidInput, match=r"ant/0\.png is larger than"):
        load("image-folder", path=str(tmp_path / "bad.zip"))


@pytest.mark.slow
def test_tiny_imagenet_facts(needs_data: Path) -> None:
    pytest.importorskip("PIL.Image")
    data, test = build("dataset", {"name": "image-folder", "path": "tiny-imagenet-20.zip", "size": 16}).read()
    assert data.inputs.shape == (7000, 3, 16, 16) and len(data.classes) == 20
    assert torch.bincount(data.y[test]).tolist() == [50] * 20 and torch.bincount(data.y[~test]).tolist() == [300] * 20


def test_near_copies_of_one_track_stay_in_one_part(tmp_path: Path) -> None:
    tracks, y = np.arange(120) // 6 % 10, np.arange(120) // 60
    images = np.arange(120, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=y, tracks=tracks)
    np.savez(tmp_path / "b.npz", images=images[:20], labels=y[::6])
    groups = set()
    for seed in range(3):
        splits = load("npz", seed, path=str(tmp_path / "a.npz"), clean_rate=0.1, clean_from="train")
        parts = [{(int(y[i]), int(tracks[i])) for i in part.ids.tolist()} for part in (splits.train, splits.test, splits.clean)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert [len(part) for part in (splits.train, splits.test, splits.clean)] == [84, 24, 12]
        groups.add(frozenset(parts[2]))
    assert len(groups) > 1, "another seed draws other tracks"
    source = build("dataset", {"name": "npz", "path": str(tmp_path / "a.npz"), "test": str(tmp_path / "b.npz"), "limit": 12})
    tied, (data, _) = source.tied(), source.read()
    assert len(tied) == len(data) == 44 and len(tied.unique()) == 4 + 20  # two whole tracks a class, then each alone
    np.savez(tmp_path / "c.npz", images=images, labels=y, tracks=tracks / 2)
    with pytest.raises(InvalidInput, match="'tracks' must be one integer per image"):
        load("npz", path=str(tmp_path / "c.npz"))


@pytest.mark.slow
def test_no_track_of_traffic_signs_is_split(needs_data: Path) -> None:
    options = {"path": "gtsrb-train.npz", "test": "gtsrb-test.npz", "clean_from": "train"}
    splits = load("npz", **options)
    with np.load(needs_data / "images" / "gtsrb-train.npz") as z:
        known = list(zip(z["labels"].tolist(), z["tracks"].tolist(), strict=True))
    parts = [{known[i] for i in part.ids.tolist()} for part in (splits.train, splits.clean)]
    assert not parts[0] & parts[1] and 0.03 < len(splits.clean) / 11971 < 0.07


def test_missing_packages_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackage, match=r"pip install 'ostiary\[vision\]'"):
        load("image-folder", path=str(tmp_path))


def test_a_package_that_does_not_load_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise ImportError('libtiff.so.6: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.partition(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingPackage, match=r"Pillow is installed but cannot be loaded \(libtiff\.so\.6: cannot open"):
        load("image-folder", path=str(tmp_path))


# TU sets, from the offline folder

FACTS = {  # graphs, counts per class, mean nodes, mean undirected edges, node features
    "AIDS": (2000, [400, 1600], 15.69, 16.20, 38),
    "MUTAG": (188, [63, 125], 17.93, 19.79, 7),
    "PROTEINS_full": (1113, [663, 450], 39.06, 72.82, 3),  # from a zip
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTS)
def test_tu_facts(name: str, needs_data: Path) -> None:
    n, counts, nodes, edges, width = FACTS[name]
    data, given_split = build("dataset", {"name": "tu", "set": name}).read()
    assert given_split is None
    assert len(data) == n
    assert torch.bincount(data.y).tolist() == counts
    g = data.inputs
    assert len(g.x) / n == pytest.approx(nodes, abs=0.006)
    assert g.edge_index.shape[1] / 2 / n == pytest.approx(edges, abs=0.006)
    assert g.x.shape[1] == width
    again, _ = build("dataset", {"name": "tu", "set": name}).read()
    assert again.fingerprint() == data.fingerprint()


@pytest.mark.slow
def test_tu_attributes_are_appended(needs_data: Path) -> None:
    data, _ = build("dataset", {"name": "tu", "set": "AIDS", "attributes": True}).read()
    assert data.inputs.x.shape[1] == 42


@pytest.mark.slow
def test_fingerprint_subset_of_the_papers(needs_data: Path) -> None:
    """Graphs without a node are dropped, four of fifteen classes are kept and renumbered."""
    source = build("dataset", {"name": "tu", "set": "Fingerprint", "attributes": True, "classes": [0, 2, 4, 5]})
    data, _ = source.read()
    assert len(data) == 1661
    assert torch.bincount(data.y).tolist() == [517, 109, 538, 497]
    assert data.classes == ("0", "2", "4", "5")
    assert len(data.inputs.x) / 1661 == pytest.approx(8.15, abs=0.006)
    assert data.inputs.edge_index.shape[1] / 2 / 1661 == pytest.approx(6.81, abs=0.006)
    with pytest.raises(InvalidInput, match=r"no graph of the classes \[99\]"):
        source.replace(classes=(99,)).read()


@pytest.mark.slow
def test_sets_without_features_get_degrees(needs_data: Path) -> None:
    data, _ = build("dataset", {"name": "tu", "set": "IMDB-MULTI", "max_degree": 20}).read()
    g = data.inputs
    assert (len(data), g.x.shape[1]) == (1500, 20)
    assert torch.equal(g.x.argmax(1), g.in_degree.clamp(max=19))


def test_what_is_damaged_in_the_cache_is_made_anew(needs_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source, cached = build("dataset", {"name": "tu", "set": "MUTAG"}), tmp_path / "ostiary" / "tu" / "MUTAG.safetensors"
    whole = source.read()[0].fingerprint()
    raw = tmp_path / "ostiary" / "pyg" / "MUTAG" / "raw" / "MUTAG_A.txt"
    cached.write_bytes(cached.read_bytes()[:1000])
    raw.write_text("0, 1\n")
    assert source.read()[0].fingerprint() == whole
    cached.unlink()
    raw.unlink()
    monkeypatch.setenv("OSTIARY_DATA", str(tmp_path))
    with pytest.raises(InvalidInput, match="nor could it be fetched"):
        source.read()
    assert not raw.parent.exists(), "half a download would fail for ever"


@pytest.fixture
def small_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """OSTIARY_DATA with the TU set FEW, packed by Windows; the cache is to be at `home`."""
    tables = {"A": "1, 2\n2, 1\n3, 4\n4, 3\n", "graph_indicator": "1\n1\n2\n2\n", "graph_labels": "0\n1\n"}
    (tmp_path / "data" / "tu").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "data" / "tu" / "FEW.zip", "w") as archive:
        for name, text in (tables | {"node_labels": "0\n1\n0\n1\n"}).items():
            archive.writestr(f"FEW\\FEW_{name}.txt", text)
    monkeypatch.setenv("OSTIARY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("ostiary.console._said", set())
    return tmp_path


def test_tables_are_found_whatever_packed_them(small_set: Path) -> None:
    data, _ = build("dataset", {"name": "tu", "set": "FEW"}).read()
    assert data.y.tolist() == [0, 1] and (small_set / "home" / "ostiary" / "tu" / "FEW.safetensors").exists()


def test_sets_are_read_where_no_cache_can_be_written(small_set: Path, caplog: pytest.LogCaptureFixture) -> None:
    (small_set / "home").write_text("no folder")
    temporary = set(Path(tempfile.gettempdir()).glob("ostiary-*"))
    for _ in range(2):
        data, _ = build("dataset", {"name": "tu", "set": "FEW"}).read()
        assert data.y.tolist() == [0, 1]
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"cache folder {small_set / 'home'}" in said and said.endswith("set XDG_CACHE_HOME to a folder that can")
    assert set(Path(tempfile.gettempdir()).glob("ostiary-*")) == temporary


def test_a_cache_that_can_only_be_read_is_read(small_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = build("dataset", {"name": "tu", "set": "FEW"}).read()[0].fingerprint()
    shutil.rmtree(small_set / "data")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: 1 / 0)
    assert build("dataset", {"name": "tu", "set": "FEW"}).read()[0].fingerprint() == seen


def test_no_place_to_write_at_all_is_a_sentence(small_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small_set / "home").write_text("no folder")
    monkeypatch.setattr(tempfile, "tempdir", str(small_set / "nowhere"))
    with pytest.raises(InvalidInput, match=r"nor a temporary one can be written .*; set XDG_CACHE_HOME to a folder that can"):
        load("tu", set="FEW")


def test_users_without_a_home_folder(small_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    for make in (lambda: find_file("~/a.npz", "images"), lambda: save_weights(torch.nn.Linear(1, 1), "~/a.safetensors")):
        with pytest.raises(InvalidInput, match=r"no home folder is known here for the ~ of .*; give the whole path"):
            make()
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(InvalidInput, match="no home folder is known here to keep data sets in; set XDG_CACHE_HOME to a folder"):
        cache_folder()


def test_names_of_sets_are_no_paths() -> None:
    with pytest.raises(InvalidInput, match="is no name of a TU data set"):
        load("tu", set="../../etc")
