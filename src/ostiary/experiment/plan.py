"""A plan: what is crossed with what. Plans are components too, so the same names work in YAML, CLI and Python."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ostiary.attacks.base import Attack
from ostiary.component import Component, Json, Rate, build, hints, plain, suggest
from ostiary.data.source import DataSource
from ostiary.detectors.base import Detector
from ostiary.errors import BadSpec, InvalidInput, OstiaryError, UnknownName
from ostiary.experiment.plan_file import check_published, read_file, read_value
from ostiary.experiment.record import canonical
from ostiary.models.base import Architecture
from ostiary.purifiers.base import Purifier
from ostiary.training.trainer import Trainer


class Plan(Component, name="plan"):
    """One cell and its seeds, or a sweep of cells.

    attack: None (left out, null or none) takes data and model as they come: what is judged is accuracy alone; detectors that
    scan the model look again at what each purifier made of it, and the triggers they recovered are tried on it (rescan).
    trainer: options on top of the victim's own recipe. vary: option path -> values; every combination is a cell.
    Paths joined by " + " vary together: each of their values is a list with one entry per path.
    least_lift: ASR lift over the clean control (0 to 1) below which a cell's detectors and purifiers are left out: where the
    attack does not work there is nothing to find or to remove. 0: they always run.
    published: figures a paper reports for this plan, printed beside ours. title, notes: for the reader.
    """

    kind = "plan"
    dataset: DataSource
    victim: Architecture
    attack: Attack | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    detectors: tuple[Detector, ...] = ()
    purifiers: tuple[Purifier, ...] = ()
    seeds: tuple[int, ...] = (0,)
    vary: dict[str, Any] = field(default_factory=dict)
    least_lift: Rate = 0.0
    published: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        if self.attack in ("none", {"name": "none"}):  # as people write it; YAML's own word is null
            object.__setattr__(self, "attack", None)
        super().__post_init__()
        check_published(self.published)

    def training(self, *, own: bool = False) -> Trainer:
        """The victim's recipe for such data with the plan's own options on top. own: of models that others train for
        themselves; where the plan trains none (0 epochs, a model that is given), for as many epochs as the recipe has."""
        recipe = self.victim.training(self.dataset.modalities)
        options = {**recipe, **self.trainer}
        if own and options.get("epochs") == 0:
            options["epochs"] = recipe.get("epochs", Trainer.epochs)
        trainer: Trainer = build("trainer", {**options, "name": "trainer"})
        return trainer

    def control(self) -> tuple[Architecture, Trainer]:
        """(network, trainer) of the clean model that the victim is held against: its own. A victim that is given (0 epochs) may
        hold a backdoor: the control starts without its weights and is trained by the recipe."""
        given = self.training().epochs == 0
        return self.victim.untaught() if given else self.victim, self.training(own=True)

    def scans(self) -> list[Detector]:
        """The detectors that judge the model itself."""
        return [d for d in self.detectors if d.subject() == "model"]

    def cells(self) -> list[Cell]:
        """Every combination of `vary` with every seed, in order. Raises BadSpec or UnknownName for what does not fit."""
        base = {k: v for k, v in self.spec().items() if k not in ("name", "vary")}
        axes = [_axis(path, values) for path, values in self.vary.items()]
        paths = [path for entry in self.vary for path in _paths(entry)]
        if twice := [path for path, n in Counter(paths).items() if n > 1]:
            raise BadSpec(f"vary names {twice[0]} twice, and one value would wipe the other; name each path once")
        found: list[Cell] = []
        known: set[bytes] = set()
        marks: dict[bytes, str] = {}
        plans = [_combined(base, {k: v for point in points for k, v in point.items()}) for points in itertools.product(*axes)]
        marked = [(plan, _marks(plan, marks), said) for plan, said in plans]
        for seed in dict.fromkeys(s for plan, _ in plans for s in plan.seeds):  # outermost: a run cut short has some of all
            for plan, files, said in (m for m in marked if seed in m[0].seeds):
                cell = Cell(plan.replace(seeds=(seed,), vary={}), seed, files)
                spec = canonical({**cell.spec(), "trainer": plan.training().spec()})  # defaults written out are no other cell
                if spec in known:
                    raise BadSpec(f"vary gives one cell twice ({said}seed {seed}); name each combination once")
                known.add(spec)
                found.append(cell)
        return found


@dataclass(frozen=True)
class Cell:
    """One combination and one seed: what a record is about.

    files: marks of the user's files behind data, victim and attack when the run began. keys: of the stages that all parts
    share.
    """

    plan: Plan
    seed: int
    files: tuple[str, str, str]
    keys: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def spec(self) -> dict[str, Json]:
        hidden = ("name", "seeds", "vary", "least_lift", "title", "notes", "published")
        return {**{k: v for k, v in self.plan.spec().items() if k not in hidden}, "seed": self.seed}

    def check_files(self) -> None:
        """Raises InvalidInput if files changed since the run began: what was made of them would carry a wrong key."""
        if self.files != _marks(self.plan, {}):
            raise InvalidInput("the files of the data set or the model changed during the run; run the same command again")


def _combined(base: dict[str, Any], chosen: dict[str, Any]) -> tuple[Plan, str]:
    """(the plan with the chosen values of `vary` in place, these in words)."""
    spec = base
    for path in _parts_first(chosen):
        spec = put(spec, path, chosen[path])
    try:
        plan = Plan(**spec)
        plan.training()
        _check_lists(plan)
    except (BadSpec, UnknownName) as error:
        raise type(error)(f"vary, with {_settings(chosen)[:-2]}: {error}" if chosen else str(error)) from error
    return plan, _settings(chosen)


def _parts_first(paths: Iterable[str]) -> list[str]:
    """A part before its options, which it would wipe."""
    return sorted(paths, key=lambda path: path.count("."))


def _settings(chosen: Mapping[str, Any]) -> str:
    return "".join(f"{path}={plain(value)}, " for path, value in chosen.items())


def _paths(entry: str) -> list[str]:
    return [p.strip() for p in entry.split("+")]


def _axis(path: str, values: Any) -> list[dict[str, Any]]:
    """The points of one entry of `vary`: option path -> value, several paths where they are joined by " + "."""
    paths = _paths(path)
    known = [name for name in hints(Plan) if name != "vary"]
    for head in (p.partition(".")[0] for p in paths):
        if head not in known:
            raise UnknownName(f"vary: {path} is no option of a plan{suggest(head, known)}")
    for part, _, last in (p.rpartition(".") for p in paths):
        if part and last == "preset":  # all other options of the part are set by now, and would override it
            raise BadSpec(f"vary: options of {part} would override its preset; vary {part}, like {{name: ..., preset: ...}}")
    if not isinstance(values, list | tuple) or not values:
        raise BadSpec(f"vary: {path} needs a list of values, got {values!r}")
    if len(paths) == 1:
        return [{path: v} for v in values]
    for v in values:
        if not isinstance(v, list | tuple) or len(v) != len(paths):
            raise BadSpec(f"vary: each value of {path} must be a list of {len(paths)}, one per path; got {v!r}")
    return [dict(zip(paths, v, strict=True)) for v in values]


def _check_lists(plan: Plan) -> None:
    """Seeds and parts once each: a seed counted twice would narrow the intervals."""
    if not plan.seeds:
        raise BadSpec("seeds is empty; give at least one, like seeds=[0]")
    for seed in plan.seeds:
        if abs(seed) >= 2**63:
            raise BadSpec(f"the seed {seed} is too large; give one of at most 18 digits")
    for purifier in plan.purifiers if plan.attack is None else ():
        if "oracle" in purifier.needed():
            raise BadSpec(f"{purifier.label()} chooses by attack success, and the plan names no attack; leave its oracle out")
    for name in ("seeds", "detectors", "purifiers"):
        given = [part.label() if isinstance(part, Component) else str(part) for part in getattr(plan, name)]
        twice = [g for g, n in Counter(given).items() if n > 1]
        if twice:
            raise BadSpec(f"{name} lists {twice[0]} twice; name each once")


def _marks(plan: Plan, known: dict[bytes, str]) -> tuple[str, str, str]:
    """Those of the data's files, the victim's, and those of the attack's and of models that it takes from files."""
    own = " ".join(mark for part in _readers(plan.attack) if (mark := _mark(part, known)))
    return _mark(plan.dataset, known), _mark(plan.victim, known), own


def _readers(part: Component | None) -> Iterator[Architecture | Attack]:
    """What may read files: architectures and attacks, the part itself and those among its options, and theirs."""
    if isinstance(part, Architecture | Attack):
        yield part
    if not isinstance(part, Architecture):
        for name in hints(type(part)) if part is not None else ():
            value = getattr(part, name)
            yield from _readers(value) if isinstance(value, Component) else ()


def _mark(part: DataSource | Architecture | Attack, known: dict[bytes, str]) -> str:
    """The mark of a part's files; `known` spares looking at them once per cell."""
    spec = canonical(part.spec())
    if spec not in known:
        try:
            known[spec] = part.content()
        except OstiaryError:
            raise
        except OSError as error:
            raise InvalidInput(f"the files of {part.kind} '{part.name}' cannot be read: {error}") from error
    return known[spec]


def put(spec: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a nested mapping with `value` at a dotted path; a name on the way becomes a mapping with that name."""
    steps = path.split(".")
    if not all(steps):
        raise BadSpec(f"'{path}' is no path to an option; write it like attack.rate")
    copy = other = dict(spec)
    for step in steps[:-1]:
        inner = plain(other.get(step, {}))
        if isinstance(inner, str):
            inner = {"name": inner}
        if not isinstance(inner, Mapping):
            raise BadSpec(f"{path}: '{step}' is {inner!r}, which has no options")
        other[step] = dict(inner)
        other = other[step]
    other[steps[-1]] = value
    return copy


def read_plan(source: str | Path | Mapping[str, Any] | Plan, changes: Iterable[str] = ()) -> tuple[Plan, dict[str, Json]]:
    """(plan, what was passed) from a YAML file, a mapping or a Plan, with `path=value` changes on top."""
    passed, changed = _as_passed(source), dict[str, Any]()
    for change in [changes] if isinstance(changes, str) else changes:
        path, sign, text = (piece.strip() for piece in str(change).partition("="))
        if not sign:
            raise BadSpec(f"'{change}' is no setting; write option=value, like attack.rate=0.1")
        changed[path] = read_value(text, change)  # of two for one path the last counts, as on any command line
    for path in _parts_first(changed):
        passed = put(passed, path, changed[path])
    _check_changed(changed, passed.get("vary"))
    known = hints(Plan)
    for name in passed:
        if name not in known:
            raise UnknownName(f"a plan has no option '{name}'{suggest(name, known)}")
    given = _first_varied(passed.get("vary")) | passed
    for name in ("dataset", "victim"):
        if name not in given:
            raise BadSpec(f"the plan names no {name}; add {name}=..., for instance {name}={_example(name)}")
    plan = Plan(**given)
    _check_lists(plan)
    try:
        canonical([passed, plan.spec()])
    except (TypeError, ValueError, OverflowError) as error:
        raise BadSpec(f"the plan holds a value that is no JSON ({error}); give plain numbers and text") from error
    return plan, passed


def _first_varied(vary: Any) -> dict[str, Any]:
    """Data and victim of the first cell where `vary` lists them: such a plan need not name one more."""
    axes = vary.items() if isinstance(vary, Mapping) else ()
    first = {path: value for entry, values in axes for path, value in _axis(str(entry), values)[0].items()}
    return {name: first[name] for name in ("dataset", "victim") if name in first}


def _check_changed(changed: Iterable[str], vary: Any) -> None:
    """Raises BadSpec for a change that `vary` overrides."""
    varied = [p.strip() for axis in (vary if isinstance(vary, Mapping) else ()) for p in str(axis).split("+")]
    for path in (c for c in changed if c != "vary"):
        over = next((v for v in varied if path == v or path.startswith(f"{v}.")), None)
        if over is not None:
            raise BadSpec(f"{path} is set, but the plan varies {over}, so that it would change nothing; set vary instead")


def _as_passed(source: Any) -> dict[str, Json]:
    """A plan's settings as plain values, whatever they were given as."""
    if isinstance(source, str | Path):
        source = read_file(Path(source))
    elif isinstance(source, Plan):
        source = source.spec()
    if not isinstance(source, Mapping):
        raise BadSpec(f"a plan is a YAML file, a mapping or a Plan; got {source!r}")
    found: dict[str, Json] = plain({k: _named(v) for k, v in source.items()})
    if found.get("name") == Plan.name:  # as in `Plan.spec()`
        del found["name"]
    return found


def _named(value: Any) -> Any:
    """Classes of parts, which `build` takes too, as their names."""
    if isinstance(value, list | tuple):
        return [_named(v) for v in value]
    return value.name if isinstance(value, type) and issubclass(value, Component) else value


def _example(kind: str) -> str:
    return {"dataset": "solubility", "victim": "gin"}[kind]
