"""Files for the user appear whole or not at all; devices and links stay what they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from toy_runs import LINUX, TOY_IMAGES, toy

from ostiary import cli
from ostiary.errors import StoreError
from ostiary.experiment.runner import run
from ostiary.models.weights import save_weights
from ostiary.writing import whole


def test_a_file_appears_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with whole(path) as part:
        part.write_text("old", encoding="utf-8")
        assert not path.exists()
    with pytest.raises(UnicodeEncodeError), whole(path) as part:
        part.write_text("new" * 9999 + "\N{SNOWMAN}", encoding="ascii")
    assert path.read_text(encoding="utf-8") == "old" and list(path.parent.iterdir()) == [path]


def test_a_name_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".txt")
    with whole(path) as part:
        part.write_text("there", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "there"


def test_a_link_is_followed_and_a_pipe_written(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "deep" / "target"
    link.symlink_to(target)
    with whole(link) as part:
        part.write_text("there", encoding="utf-8")
    assert link.is_symlink() and target.read_text(encoding="utf-8") == "there"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with whole(pipe) as part:
        part.write_text("through", encoding="utf-8")
    assert os.read(reader, 99) == b"through" and pipe.is_fifo()
    os.close(reader)


@pytest.mark.skipif(not LINUX, reason="needs /dev/full")
def test_a_full_disk_is_told_with_the_file_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = r"/dev/full cannot be written \(No space left on device\); choose another place"
    with pytest.raises(StoreError, match=said), whole(Path("/dev/full")) as part:
        part.write_bytes(b"lost")
    assert Path("/dev/full").is_char_device()
    store, link, other = tmp_path / "s", tmp_path / "v.safetensors", tmp_path / "v.npz"
    link.symlink_to("/dev/full")
    other.symlink_to("/dev/full")
    (record,) = run(toy(purifiers=[], detectors=["spectral"]), store=store)
    (drawn,) = run(toy(**TOY_IMAGES), store=store)
    written = ["data", record.key, str(link)], ["data", drawn.key, str(other), "--of", "clean"]
    with pytest.raises(StoreError, match="No space left on device"):
        save_weights(torch.nn.Linear(2, 2), link)
    assert link.is_symlink()
    for command in (["weights", record.key, str(link)], ["scores", record.key, "/dev/full", "--of", "spectral"], *written):
        assert cli.main([*command, "--store", str(store)]) == 2
        assert f"{command[2]} cannot be written (No space left on device); choose" in capsys.readouterr().err


def test_a_failed_write_leaves_the_scores_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, file = tmp_path / "s", tmp_path / "scores.csv"
    (record,) = run(toy(purifiers=[], detectors=["spectral"]), store=store)
    command = ["scores", record.key, str(file), "--of", "spectral", "--store", str(store)]
    assert cli.main(command) == 0
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ostiary.cli.commands.csv.writer", full)
    assert cli.main(command) == 2
    assert file.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {"s", "scores.csv"}
