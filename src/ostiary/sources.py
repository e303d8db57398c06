"""A mark of the code that a method outside this package is made of: of its file and of those of its own that it imports."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

OURS = __name__.partition(".")[0]


def mark(module: str) -> str | None:
    """A hash of the sources as they are now, file by file; "" for our own modules, whose changes revisions tell, and None where
    there is no file to read, as in a notebook."""
    if module.partition(".")[0] == OURS:
        return ""
    first = _file(module)
    if first is None:
        return None
    home, found, waiting = first.parent, dict[Path, bytes](), [(module, first)]
    while waiting:
        name, file = waiting.pop()
        if file in found:
            continue
        found[file] = file.read_bytes()
        for other in _imported(name, found[file], is_package=file.name == "__init__.py"):
            if _own(other.partition(".")[0], module.partition(".")[0], home) and (beside := _file(other)):
                waiting.append((other, beside))
    digest = hashlib.blake2b(digest_size=8)
    for content in sorted(found.values()):  # by content: the names of modules differ between a script and its workers
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _own(package: str, first: str, home: Path) -> bool:
    """Whether it is the method's own package, or stands beside its file. Others are not looked up: that may import them."""
    return package != OURS and (package == first or (home / f"{package}.py").exists() or (home / package).is_dir())


def _file(module: str) -> Path | None:
    """The source file of a module, imported or not."""
    try:
        held = sys.modules.get(module)
        spec = None if held is not None else importlib.util.find_spec(module)
        name = getattr(held, "__file__", None) if held is not None else spec and spec.origin
    except (ImportError, AttributeError, ValueError):
        return None
    file = Path(name).resolve() if name else None
    return file if file is not None and file.suffix == ".py" and file.exists() else None


def _imported(module: str, source: bytes, *, is_package: bool) -> Iterator[str]:
    """Names of what a module's imports may mean by modules."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if node.level and package else []
            base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)
