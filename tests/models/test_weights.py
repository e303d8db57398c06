"""Suspicious weight files: refused without running anything in them, or read as tensors."""

from __future__ import annotations

import io
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ostiary.errors import InvalidInput, UnsafeFile
from ostiary.models.weights import load_weights, read_weights, save_weights


class Trap:
    """Creates a folder when unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def as_zip(value: Any, file: Path) -> None:
    torch.save(value, file)


def as_legacy(value: Any, file: Path) -> None:
    torch.save(value, file, _use_new_zipfile_serialization=False)


def as_pickle(value: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(value))


def as_old_pickle(value: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(value, protocol=0))


@pytest.mark.parametrize("write", [as_zip, as_legacy, as_pickle, as_old_pickle])
@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.pth"])
def test_malicious_pickle_is_refused_in_one_sentence_and_runs_nothing(write: Any, name: str, tmp_path: Path) -> None:
    file, place = tmp_path / name, tmp_path / "trapped"
    write({"weight": torch.zeros(2), "more": Trap(place)}, file)
    with pytest.raises(UnsafeFile) as caught:
        read_weights(file)
    assert not place.exists()
    text = str(caught.value)
    assert text.startswith(f"{file} was refused: it is a pickle that could run code")
    assert "ask for safetensors" in text
    assert "\n" not in text


def test_the_trap_works(tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    pickle.loads(pickle.dumps(Trap(tmp_path / "trapped")))
    assert (tmp_path / "trapped").is_dir()


def test_refusal_names_what_the_file_asks_for(tmp_path: Path) -> None:
    as_zip({"more": Trap(tmp_path / "trapped")}, tmp_path / "model.pt")
    with pytest.raises(UnsafeFile, match=rf"it asks for {os.mkdir.__module__}.mkdir"):
        read_weights(tmp_path / "model.pt")


def test_whole_pickled_modules_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(UnsafeFile, match=r"asks for .*Linear"):
        read_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("write", [as_zip, as_legacy])
def test_plain_state_dicts_are_read(write: Any, wrap: Any, tmp_path: Path) -> None:
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    write(wrap(net.state_dict()), tmp_path / "model.pt")
    load_weights(other, tmp_path / "model.pt")
    assert torch.equal(other.weight, net.weight)


def test_safetensors_round_trip(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3).to(memory_format=torch.channels_last), nn.BatchNorm2d(2))
    save_weights(net, tmp_path / "net.safetensors")
    found = read_weights(tmp_path / "net.safetensors")
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[k], v) for k, v in net.state_dict().items())


def test_files_are_named_for_what_they_are_and_read_by_what_they_are(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(
        InvalidInput, match=r"weights are written as \.safetensors, not as 'net\.pt'; give the file that ending"
    ):
        save_weights(net, tmp_path / "net.pt")
    save_weights(net, tmp_path / "new" / "net.safetensors")
    (tmp_path / "new" / "net.safetensors").rename(tmp_path / "net.pt")
    assert torch.equal(read_weights(tmp_path / "net.pt")["weight"], net.weight)
    (tmp_path / "text.pt").write_text("these are no weights")
    with pytest.raises(InvalidInput, match=r"it is neither safetensors nor what torch\.save writes"):
        read_weights(tmp_path / "text.pt")


def test_truncated_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    save_weights(nn.Linear(8, 8), file)
    for n in (0, 5, 60, file.stat().st_size - 1):
        cut = tmp_path / f"cut{n}.safetensors"
        cut.write_bytes(file.read_bytes()[:n])
        reason = ": it is empty; save or copy it again" * (n == 0)
        with pytest.raises(InvalidInput, match=f"is no readable weights file{reason}"):
            read_weights(cut)


def test_damaged_state_dicts_end_in_one_sentence(tmp_path: Path) -> None:
    """Whatever torch's reader makes of it: cut short, bits flipped, other files altogether."""
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(5.0)}, buffer, _use_new_zipfile_serialization=False)
    whole = buffer.getvalue()
    damaged = [whole[:n] for n in range(0, len(whole) - 20, 7)]
    damaged += [whole[:n] + bytes([whole[n] ^ 0x55]) + whole[n + 1 :] for n in range(0, 200, 5)]
    file = tmp_path / "model.pt"
    refusals = []
    for data in [*damaged, b"", b"hello", b"\x80\x04."]:
        file.write_bytes(data)
        try:
            read_weights(file)
        except (InvalidInput, UnsafeFile) as error:
            refusals.append(str(error))
    assert len(refusals) > len(damaged) / 2
    assert [r for r in refusals if "\n" in r] == []


def test_files_of_something_else(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(InvalidInput, match="holds list, expected a state dict"):
        read_weights(tmp_path / "list.pt")
    torch.save({"a": 3}, tmp_path / "dict.pt")
    with pytest.raises(InvalidInput, match="expected a state dict"):
        read_weights(tmp_path / "dict.pt")
    with pytest.raises(InvalidInput, match=r"there is no file .*nothing.pt"):
        read_weights(tmp_path / "nothing.pt")


@pytest.mark.parametrize("name", ["model", "model_state_dict", "net"])
def test_the_one_state_dict_of_a_checkpoint_is_taken(name: str, tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters()).state_dict()
    torch.save({name: net.state_dict(), "optimizer": optimizer, "epoch": 3, "hooks": {}}, tmp_path / "model.pt")
    assert torch.equal(read_weights(tmp_path / "model.pt")["weight"], net.weight)


def test_of_several_state_dicts_one_is_asked_for(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(3, 2).state_dict(), "ema": nn.Linear(3, 2).state_dict()}, tmp_path / "model.pt")
    with pytest.raises(InvalidInput, match=r"several state dicts \('model', 'ema'\).*torch\.save\(checkpoint\['model'\], 'we"):
        read_weights(tmp_path / "model.pt")


def test_torchscript_and_empty_files_are_called_so(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "model.pt")
    with pytest.raises(InvalidInput) as caught:
        read_weights(tmp_path / "model.pt")
    said = "is a TorchScript archive, expected a state dict; save its state_dict()"
    assert str(caught.value) == f"{tmp_path / 'model.pt'} {said}"
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(InvalidInput, match="it is empty; save or copy it again"):
        read_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value: float, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    nn.init.constant_(net[1].bias, value)
    save_weights(net, tmp_path / "net.safetensors")
    with pytest.raises(InvalidInput, match=r"net\.safetensors holds NaN or infinite values in '1\.bias'"):
        read_weights(tmp_path / "net.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_a_prefix_of_all_names_is_taken_off_where_the_module_lacks_it(prefix: str, tmp_path: Path) -> None:
    net, other = (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(2))
    torch.save({prefix + name: value for name, value in net.state_dict().items()}, tmp_path / "model.pt")
    load_weights(other, tmp_path / "model.pt")
    assert torch.equal(other[0].weight, net[0].weight)
    wrapped = nn.ModuleDict({"module": net})
    save_weights(wrapped, tmp_path / "net.safetensors")
    load_weights(wrapped, tmp_path / "net.safetensors")


def test_weights_of_another_module(tmp_path: Path) -> None:
    save_weights(nn.Linear(3, 2), tmp_path / "net.safetensors")
    with pytest.raises(InvalidInput, match=r"do not fit the module: .*0\.weight") as caught:
        load_weights(nn.Sequential(nn.Linear(3, 2)), tmp_path / "net.safetensors")
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInput, match="size mismatch for weight"):
        load_weights(nn.Linear(4, 2), tmp_path / "net.safetensors")
