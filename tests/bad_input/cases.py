"""The cases of bad input by kind, and good but unusual input that must be accepted.

A spoiled file meets several, not all, of the scripts that read it: `spread` deals them out in turn.
"""

import csv
import json
from argparse import Action, ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import yaml

from dataset.base import SegmentationDataset
from tests.bad_input import files
from tests.bad_input.files import HUGE, Spoil, at, closed, edited, laughs, write, yaml_edited, yaml_value
from tests.bad_input.runner import Case, full_disk, nothing
from tests.bad_input.world import (
    CITYSCAPES,
    DESCRIPTION,
    EVALUATE,
    GOOD,
    GTA5,
    NAMES,
    OPTIONS,
    OWN,
    OWN_CLASSES,
    PREDICT,
    PREDICTED,
    RESULT,
    RUN,
    RUN_FILES,
    SCORING,
    SNAPSHOT,
    STATE,
    TRAIN,
    TRAINING,
)
from tests.conftest import load_script

# Flags: derived from the scripts' own parsers, so a new flag is tried as soon as it is declared.

FLAGS_STEP = 8  # one case in so many is run
LONG = "9" * 5000
NO_VALUE = ("", " ", "nonsense", "-1", "nan", "-inf", "1e999", "1;2", "[1]", "0x", "٣½", LONG)
NO_WHOLE_NUMBER = ("1.5", "1e3", "9" * 30, "1 2")
NO_TEXT = ("", LONG, "two\nlines", "a\x1b[2Jscreen", "zero\0byte")


class _Declared(Exception):
    """Carries a parser out of the script that made it."""


def actions_of(script: str) -> list[Action]:
    """The flags that a script's `main` declares, without --help."""

    def declared(parser, *_, **__):
        raise _Declared(parser)

    methods = dict.fromkeys(("parse_args", "parse_intermixed_args"), declared)
    with mock.patch.multiple(ArgumentParser, **methods), mock.patch("sys.argv", [script]):
        try:
            load_script(script).main()
        except _Declared as found:
            (parser,) = found.args
            return [action for action in parser._actions if action.dest != "help"]
    raise AssertionError(f"{script} parses no flags")


def bad_values(action: Action) -> tuple[str, ...]:
    """What a flag must refuse, by what it makes of good values."""
    if action.nargs == 0:
        return ("True", "")  # a switch that takes no value
    if action.choices:
        return (*NO_VALUE, *NO_TEXT[2:])
    if action.type is None:
        return NO_TEXT
    value = None
    for text in ("1", "0.5", "1,1", "1:1", "folder"):
        try:
            value = action.type(text)
            break
        except (ArgumentTypeError, ValueError):
            continue
    if isinstance(value, str | Path):
        return NO_TEXT
    return (*NO_VALUE, *NO_WHOLE_NUMBER) if type(value) is int else NO_VALUE


def flag_cases() -> Iterator[Case]:
    """Flags with values that they must refuse, without a value, and abbreviated."""
    for script, good in GOOD.items():
        actions = actions_of(script)
        known = {name for action in actions for name in action.option_strings}
        for action in actions:
            name = max(action.option_strings, key=len, default="")
            for value in bad_values(action):
                flags = (*good, f"{name}={value}") if name else (value, *good[1:])
                shown = repr(value) if len(value) < 40 else f"of {len(value)} characters"
                yield Case(f"{script} {name or action.dest} {shown}", script, flags, (name,))
            if name and action.nargs is None:
                yield Case(f"{script} {name} without a value", script, (*good, name), (name,))
            if name and name[:-1] not in known:
                yield Case(f"{script} {name} cut short", script, (*good, name[:-1], "1"), (name[:-1],))
        yield Case(f"{script}: an unknown flag", script, (*good, "--no-such-flag"), ("--no-such-flag",))


# Files


class Reader(NamedTuple):
    """A script that reads a file: its flags, the file's place, what must be named and what may be left."""

    script: str
    flags: tuple[str, ...]
    place: str
    adds: tuple[str, ...] = ()
    named: tuple[str, ...] | None = None  # None: the place

    def case(self, name: str, spoil: Spoil, named: tuple[str, ...] | None = None) -> Case:
        """The case in which `spoil` is done to the file."""
        named = self.named if named is None else named
        named = (self.place,) if named is None else named
        return Case(name, self.script, self.flags, named, at(self.place, spoil), adds=self.adds)


def spread(spoiled: Mapping[str, Spoil], readers: Mapping[str, Reader], times: int) -> Iterator[Case]:
    """Each spoiled file in `times` of its readers, in turn."""
    names = list(readers)
    for number, (what, spoil) in enumerate(spoiled.items()):
        for offset in range(min(times, len(names))):
            reader = names[(number + 2 * offset) % len(names)]
            yield readers[reader].case(f"{reader}: {what}", spoil)


def _image_of(split: str) -> str:
    return f"{CITYSCAPES}/leftImg8bit/{split}/{NAMES[0]}"


def _label_of(split: str) -> str:
    return f"{CITYSCAPES}/gtFine/{split}/{NAMES[0].replace('leftImg8bit', 'gtFine_labelIds')}"


SURVEYED = ("gta5",)  # check_data prints every fault, then one line that names the set
IMAGE_READERS = {
    "source": Reader("train_ms", TRAIN, f"{GTA5}/images/00002.png", RUN_FILES),
    "target": Reader("train_ms", TRAIN, _image_of("train"), RUN_FILES),
    "own": Reader("train_ms", (*TRAIN, *OWN), "own/images/train/0.png", RUN_FILES),
    "predicted": Reader("generate_plabel_cityscapes", PREDICT, _image_of("train"), PREDICTED),
    "evaluated": Reader("evaluate_cityscapes", EVALUATE, _image_of("val"), PREDICTED),
    "surveyed": Reader("check_data", GOOD["check_data"], f"{GTA5}/images/00002.png", (), SURVEYED),
    "segmented": Reader("segment", GOOD["segment"], "street.png", PREDICTED),
}
PSEUDO_LABEL = f"{CITYSCAPES}/pseudo_FULL/train/{NAMES[0]}"
LABEL_READERS = {
    "source": Reader("train_ms", TRAIN, f"{GTA5}/labels/00002.png", RUN_FILES),
    "own": Reader("train_ms", (*TRAIN, *OWN), "own/labels/train/0.png", RUN_FILES),
    "pseudo": Reader("train_ft", GOOD["train_ft"], PSEUDO_LABEL, RUN_FILES),
    "evaluation": Reader("evaluate_cityscapes", EVALUATE, _label_of("val"), PREDICTED),
    "prediction": Reader("evaluate_cityscapes", SCORING, f"predictions/{NAMES[0]}"),
    "survey": Reader("check_data", GOOD["check_data"], f"{GTA5}/labels/00002.png", (), SURVEYED),
}


def image_cases() -> Iterator[Case]:
    """Images that are none, cut short, damaged, of absurd size, of too many bits, without rights."""
    yield from spread(files.IMAGES, IMAGE_READERS, times=2)


def label_cases() -> Iterator[Case]:
    """Labels, pseudo labels and predictions: damaged, missing, of another size or mode, with unknown ids."""
    yield from spread(files.IMAGES, LABEL_READERS, times=1)
    yield from spread(files.LABELS, LABEL_READERS, times=3)
    target = Reader("train_ms", TRAIN, _label_of("train"), RUN_FILES)
    for what in ("one row more", "in colours", "an id of no class"):
        yield target.case(f"target: {what}", files.LABELS[what])
    for classes in ("10", "25"):
        flags = (*SCORING, "--num-classes", classes)
        yield Case(f"{classes} classes to score", "evaluate_cityscapes", flags, (f"--num-classes {classes}",))


LIST = "list.txt"
LISTS: dict[str, Spoil] = {
    "missing": nothing,
    "empty": write(""),
    "blank lines": write(" \n\t\n\r\n"),
    "a folder": Path.mkdir,
    "without rights": lambda path: (path.write_text("00001.png\n"), closed(path)),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "binary": write(bytes(range(256)) * 4),
    "UTF-16": write("00001.png\n".encode("utf-16")),
    "Latin-1": write("stra\xdfe.png\n".encode("latin-1")),
}
LEAVING = {
    "up": "../../../../outside/image.png",
    "up from within": "aachen/../../../../../outside/image.png",
    "absolute": "/etc/hostname",
    "up in Windows' spelling": "..\\..\\outside\\image.png",
    "a Windows drive": "C:\\outside\\image.png",
    "a Windows share": "\\\\server\\share\\image.png",
}
ABSENT = {
    "no file": "nowhere.png",
    "the name of a folder": ".",
    "a name too long": "n" * 300 + ".png",
    "a zero byte": "zero\0byte.png",
    "a terminal's control codes": "evil\x1b[2J\x1b[31m.png",
    "a flag": "--help",
    "a URL": "https://example.org/image.png",
    "a command": f"$(touch {files.PROOF}).png",
    "several on a line": "00001.png 00002.png",
}
LIST_READERS = {  # and a name that exists
    "source": ("train_ms", (*TRAIN, "--data-list", LIST), "00001.png"),
    "target": ("train_ms", (*TRAIN, "--data-list-target", LIST), NAMES[0]),
    "own": ("train_ms", (*TRAIN, *OWN, "--data-list", LIST), "0.png"),
    "pseudo-labelled": ("train_ft", (*GOOD["train_ft"], "--data-list", LIST), NAMES[0]),
    "predicted": ("generate_plabel_cityscapes", (*PREDICT, "--data-list", LIST), NAMES[0]),
    "evaluated": ("evaluate_cityscapes", (*EVALUATE, "--data-list", LIST), NAMES[0]),
    "files scored": ("evaluate_cityscapes", (*SCORING, "--data-list", LIST), NAMES[0]),
    "surveyed": ("check_data", (*GOOD["check_data"], "--data-list", LIST), "00001.png"),
}


def list_cases() -> Iterator[Case]:
    """Lists that are empty, no text, with names that leave the data folder, repeat or have no file."""
    yield from spread(LISTS, {who: Reader(*r[:2], LIST) for who, r in LIST_READERS.items()}, times=3)
    for number, (who, (script, flags, name)) in enumerate(LIST_READERS.items()):
        for what, leaving in list(LEAVING.items())[number % 2 :: 2]:
            spoil, named = write(f"{name}\n{leaving}\n"), (LIST, leaving, "leaves the data folder")
            yield Reader(script, flags, LIST).case(f"{who}: {what}", spoil, named)
        for what, absent in list(ABSENT.items())[number % 3 :: 3]:
            yield Reader(script, flags, LIST).case(f"{who}: {what}", write(f"{name}\n{absent}\n"), ())
        if who in ("predicted", "evaluated", "files scored"):  # a name given twice would count twice
            for again in (name, f"./{name}"):
                spoil = write(f"{name}\n\n{again}\n")
                yield Reader(script, flags, LIST).case(f"{who}: {again} again", spoil, (name, "once"))


# Networks

GN = ("--norm-style", "gn", "--use-se", "--restore-from", SNAPSHOT)
PREDICTING = ("generate_plabel_cityscapes", "evaluate_cityscapes", "segment", "export_onnx")
SNAPSHOT_READERS = {
    "train_ms": Reader("train_ms", (*TRAIN, *GN), SNAPSHOT),
    "train_ft": Reader("train_ft", (*GOOD["train_ft"], *GN), SNAPSHOT),
    **{script: Reader(script, GOOD[script], SNAPSHOT) for script in PREDICTING},
}


def checkpoint_cases() -> Iterator[Case]:
    """Checkpoints that are none, damaged, carry code, are of another network, hold values that are none."""
    yield from spread(files.CHECKPOINTS | {"gone": Path.unlink}, SNAPSHOT_READERS, times=1)
    overflow = files.one_tensor(files.HEAD, lambda tensor: tensor.fill_(3e38))
    for script in PREDICTING[:3]:  # an export takes seconds
        yield SNAPSHOT_READERS[script].case(f"{script}: sums overflow", overflow, ("not finite",))
    for flags, named in (
        (("--norm-style", "bn", "--use-se"), "--norm-style"),
        (("--norm-style", "gn"), "--use-se"),
        (("--num-classes", "20", "--norm-style", "gn", "--use-se"), "--num-classes"),
    ):
        flags = (*TRAIN, *flags, "--restore-from", SNAPSHOT)
        yield Case(f"another network by {named}", "train_ms", flags, (SNAPSHOT, named))
    for script in PREDICTING:
        for name in ("https://a.org/GTA5_4.pth", "snapshots/old"):
            flags = (*GOOD[script], "--restore-from", name)
            yield Case(f"{script}: --restore-from {name}", script, flags, (f"--restore-from {name}",))


NEVER = {"null": None, "a word": "nonsense", "an empty word": "", "a list": [1, 2], "a mapping": {"a": 1}}
NEVER |= {"not a number": float("nan"), "negative": -1, "huge": HUGE, "an empty list": []}
NETWORK_VALUES = {
    "num_classes": {"zero": 0, "true": True, "a fraction": 19.5, "256": 256, "another number": 16},
    "use_se": {"the other": False, "two": 2},
    "train_bn": {"two": 2},
    "norm_style": {"true": True, "the other": "bn"},
    "droprate": {"one": 1, "true": True},
    "arch": {"true": True, "the other": "resnet101"},
}
CLASSES = {
    **{"a list": ["road"], "a word": "road", "empty": {}, "numbers": {1: [0, 0, 0]}},
    **{"null inside": {"road": None}, "a colour short of blue": {"road": [0, 0]}},
    **{"a colour out of range": {"road": [0, 0, 256]}, "a colour of text": {"road": ["0", "0", "0"]}},
    "more than the network has": {f"class {n}": [0, 0, 0] for n in range(300)},
}
CONFIG_VALUES: dict[str, Spoil] = {
    "a folder of 10^30 words": yaml_value("set", "*a29", laughs()),
    "a size of mappings": yaml_value("input_size", "[{a: 1}, 2]"),
    "a rate of text": yaml_value("learning_rate", "high"),
    "a mapping": yaml_value("batch_size", "{a: 1}"),
    "a date": yaml_value("batch_size", "2020-01-01"),
    "not a number": yaml_value("learning_rate", ".nan"),
    "a batch of 0": yaml_value("batch_size", "0"),
    "an unknown precision": yaml_value("precision", "fp8"),
}


def _with(key: str, value: object) -> Spoil:
    return yaml_edited(lambda options: options.update({key: value}))


def options_cases() -> Iterator[Case]:
    """`opts.yaml` that is missing, no YAML, carries code, grows without end, or holds wrong values."""
    values = {}
    for number, (key, more) in enumerate(NETWORK_VALUES.items()):
        never = more | {what: NEVER[what] for what in list(NEVER)[number % 2 :: 2]}
        values |= {f"{key}: {what}": _with(key, value) for what, value in never.items()}
        if key != "arch":  # which the published code did not write down
            values[f"{key}: missing"] = yaml_edited(lambda options, key=key: options.pop(key))
    values |= {f"classes: {what}": _with("classes", value) for what, value in CLASSES.items()}
    for key in ("num_classes", "norm_style", "classes"):
        values[f"{key}: 10^30 words"] = yaml_value(key, "*a29", laughs())
    readers = {script: Reader(script, GOOD[script], OPTIONS) for script in PREDICTING}
    yield from spread(files.YAML | {"missing": Path.unlink}, readers, times=2)
    # An option that is valid but of another network shows in the snapshot beside it.
    beside = {s: Reader(s, GOOD[s], OPTIONS, named=(str(Path(OPTIONS).parent),)) for s in PREDICTING}
    yield from spread(values, beside, times=1)
    config = Reader("train_ms", (*TRAINING, "--config", OPTIONS), OPTIONS)
    for what, spoil in (CONFIG_VALUES | files.YAML).items():
        if what != "empty":
            yield config.case(f"--config: {what}", spoil)
    # A training keeps a folder from being used by two networks.
    into = Reader("train_ms", (*TRAINING, "--snapshot-dir", str(Path(OPTIONS).parent)), OPTIONS, named=())
    for what in ("text", "a number", "code: apply"):
        yield into.case(f"--snapshot-dir: {what}", files.YAML[what])


BAD_CLASSES = {
    **{"none": {}, "null": None, "a list": ["road"], "a word": "road", "nothing in one": {"road": None}},
    **{"a number for one": {"road": 7}, "an unknown key": {"road": {"id": 7}}},
    "no ids": {"road": {"color": [0, 0, 0]}},
    **{
        f"ids {ids!r}": {"road": {"ids": ids}}
        for ids in (-1, 65536, HUGE, "7", 7.5, True, [], [7, 7], [[7]], {"a": 7}, None)
    },
    "an id of two classes": {"road": {"ids": 7}, "car": {"ids": [8, 7]}},
    "a colour of two classes": {n: {"ids": i, "color": [1, 2, 3]} for i, n in enumerate("ab")},
    **{
        f"colour {color!r}": {"road": {"ids": 7, "color": color}}
        for color in ([0, 0], [0, 0, 256], [0.5, 0, 0], "red", "#gggggg", 7, True)
    },
    "300 classes": {f"class {n}": {"ids": n} for n in range(300)},
}
BAD_KEYS: dict[str, tuple[object, ...]] = {
    "name": ("a/b", "..", ".a", "a b", "a\0b", [1], 7),
    "root": ("nowhere", "a\0b", "r" * 5000, [1], True),
    "images": ("nowhere", "dataset.yaml", "a\0b", {"a": 1}),
    "labels": ("a\0b", "l" * 5000, 7),
    "image-suffix": (".xyz", "\0.png", [1]),
    "label-suffix": ("\0.png", "/../../../outside/image.png", {"a": 1}),
    "label-format": ("rgb", "colors", 7),
    "size": ("100", "1,2,3", "0,0", "-8,8", "a,b", f"{HUGE},8", "8.5,8", [[8], 8], [], True),
    "ignore": ("all", 7, [7], {"id": 7}, {"ids": "x"}, {"ids": 7}, {"others": "yes"}, {"ids": HUGE}),
    "unknown": (1,),
}


SURVEY_OWN = Reader("check_data", ("own", "--num-workers", "0"), DESCRIPTION, named=("own",))


def described(**changed: object) -> Spoil:
    """The world's own data with some keys of the description changed."""
    return write(yaml.safe_dump({"classes": OWN_CLASSES, "ignore": {"ids": 0}} | changed))


def description_cases() -> Iterator[Case]:
    """Descriptions of own data: no YAML, carrying code, growing without end, mistaken, of folders outside."""
    broken = {what: spoil for what, spoil in files.YAML.items() if what != "a folder"}
    broken |= {f"classes: {what}": described(classes=value) for what, value in BAD_CLASSES.items()}
    for key, values in BAD_KEYS.items():
        broken |= {f"{key}: {str(value)[:20]!r}": described(**{key: value}) for value in values}
    broken |= {
        "a key twice": write("classes: {road: {ids: 7}}\nclasses: {car: {ids: 7}}\n"),
        "a class twice": write("classes:\n  road: {ids: 7}\n  road: {ids: 8}\n"),
        "ids of 10^30 words": write(f"{laughs()}classes: {{road: {{ids: *a29}}}}\n"),
        "a size of 10^30 words": write(f"{laughs()}size: [*a29, 1]\n"),
        "an id in base 60": write(f"classes: {{road: {{ids: {':'.join(['1'] * 5000)}}}}}\n"),
        "code as a class": write(f"classes: {{road: {files.YAML_CODE['apply']}}}\n"),
        "a class with control codes": write('classes: {"a\\e[2J\\nb": {ids: -1}}\n'),
    }
    yield from spread(broken, {"check_data": SURVEY_OWN}, times=1)
    some = dict(list(broken.items())[::4])
    some.pop("root: 'nowhere'", None)  # --data-dir names another
    training = Reader("train_ms", (*TRAIN, *OWN), DESCRIPTION, named=("own",))
    yield from spread(some, {"train_ms": training}, times=1)


RESUME = (*TRAINING, "--snapshot-dir", RUN, "--num-steps", "4", "--num-steps-stop", "4", "--resume")
STATE_KEYS = ("format", "stage", "iteration", "trainer", "processes", "options", "images")
OTHER_RUNS = {
    "another number of classes": ("--num-classes", "20"),
    "another network": ("--norm-style", "gn"),
    "another batch": ("--batch-size", "1"),
    "another seed": ("--random-seed", "7"),
    "another source": OWN,
}


def state_cases() -> Iterator[Case]:
    """States to resume from: none, damaged, carrying code, incomplete, of another run."""
    spoiled = dict(list(files.NO_CHECKPOINTS.items())[::2])
    for number, key in enumerate(STATE_KEYS):
        spoiled[f"no {key}"] = files.tensors_edited(lambda state, key=key: state.pop(key))
        for value in (None, "x", -1, [], torch.zeros(1))[number % 2 :: 2]:
            change = partial(lambda state, key, value: state.update({key: value}), key=key, value=value)
            spoiled[f"{key}: {value!r}"] = files.tensors_edited(change)
    spoiled |= {
        "a snapshot": lambda path: path.write_bytes((path.parent / "GTA5_2.pth").read_bytes()),
        "code beside the entries": files.tensors_edited(lambda state: state.update(code=files.Code())),
        "a later version": files.tensors_edited(lambda state: state.update(format=99)),
        "the other stage": files.tensors_edited(lambda state: state.update(stage="trainer_ms_variance")),
        "no networks": files.tensors_edited(lambda state: state["trainer"].pop("networks")),
        "no optimiser": files.tensors_edited(lambda state: state["trainer"].pop("gen_opt")),
        "a tensor less": files.tensors_edited(lambda s: s["trainer"]["networks"].pop("often_weight")),
        "a tensor of another shape": files.tensors_edited(
            lambda state: state["trainer"]["networks"].update(often_weight=torch.zeros(3))
        ),
        "no groups": files.tensors_edited(lambda s: s["trainer"]["gen_opt"].update(param_groups=[])),
        "no processes": files.tensors_edited(lambda state: state.update(processes=[])),
    }
    for what, spoil in spoiled.items():
        yield Reader("train_ms", RESUME, STATE).case(what, spoil)
    for what, flags in OTHER_RUNS.items():
        yield Case(what, "train_ms", (*RESUME, *flags), (RUN,))
    yield Case("Stage II", "train_ft", RESUME)


METRICS = ("means", "confusion", "void_predictions", "data", "colors", "classifiers")
NOT_METRICS = {"null": None, "text": "x", "a number": -1, "a list": [1], "a mapping": {"a": 1}}
MAPS = [f"{RESULT}/{Path(NAMES[0]).with_suffix('')}{end}" for end in (".png", "_heatmap.png", "_score.png")]


def json_edited(change) -> Spoil:
    return edited(
        *(change, lambda path: json.loads(path.read_text())),
        lambda content, path: path.write_text(json.dumps(content)),
    )


def csv_edited(change) -> Spoil:
    def dump(rows: list, path: Path) -> None:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    return edited(change, lambda path: list(csv.reader(path.read_text().splitlines())), dump)


def result_cases() -> Iterator[Case]:
    """Results for pages: parts missing, damaged, of other classes or sizes, names that climb out."""
    metrics = {what: files.YAML[what] for what in (*files.NO_FILES, "a list", "a number", "JSON cut short")}
    for number, key in enumerate(METRICS):
        metrics[f"no {key}"] = json_edited(lambda m, key=key: m.pop(key))
        for what, value in list(NOT_METRICS.items())[number % 2 :: 2]:
            change = partial(lambda m, key, value: m.update({key: value}), key=key, value=value)
            metrics[f"{key}: {what}"] = json_edited(change)
    metrics |= {
        "a class's score of text": json_edited(
            lambda m: m["classifiers"]["1:0.5"]["iou"].update({next(iter(m["iou"])): "high"})
        ),
        "a confusion of another size": json_edited(lambda m: m["confusion"].pop()),
        "a confusion of text": json_edited(lambda m: m["confusion"][0].__setitem__(0, "many")),
        "a colour of a script": json_edited(lambda m: m["colors"].update({next(iter(m["colors"])): "red;}"})),
        "data that are elsewhere": json_edited(lambda m: m["data"].update(data_dir="/nowhere")),
        "data of an unknown set": json_edited(lambda m: m["data"].update(target="nowhere")),
        "a split that climbs out": json_edited(lambda m: m["data"].update(set="../../../../outside")),
    }
    images = files.NO_FILES | {
        "no rows": csv_edited(lambda rows: rows.__delitem__(slice(1, None))),
        "no head": csv_edited(lambda rows: rows.pop(0)),
        "a row cut short": csv_edited(lambda rows: rows[1].__delitem__(slice(1, None))),
    }
    for column, cell in ((1, "many"), (2, "right"), (0, "nowhere.png"), (0, "/etc/hosts")):
        images[f"column {column}: {cell}"] = csv_edited(lambda r, c=column, v=cell: r[1].__setitem__(c, v))
    for file, spoiled in (("metrics.json", metrics), ("images.csv", images)):
        for what, spoil in spoiled.items():
            yield Reader("report", GOOD["report"], f"{RESULT}/{file}").case(f"{file}: {what}", spoil, ())
    # What is no file counts as removed.
    not_maps = ("a folder", "a named pipe", "a link", "cut to 99")
    maps = {what: spoil for what, spoil in files.IMAGES.items() if not what.startswith(not_maps)}
    yield from spread(maps, {name: Reader("report", GOOD["report"], name) for name in MAPS}, times=1)
    outdated = at(f"{RESULT}/run.yaml", lambda path: path.write_text("- flags: {threshold: 0.9}\n"))
    yield Case("labels made there since", "report", GOOD["report"], (RESULT, "evaluate anew"), outdated)


# Places


def _file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file\n")


def _read_only(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o500)


def _loop(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.name)


def _elsewhere(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


WRITERS = {
    "snapshots": ("train_ms", TRAINING, "--snapshot-dir"),
    "TensorBoard": ("train_ms", TRAINING, "--log-dir"),
    "pseudo labels": ("generate_plabel_cityscapes", PREDICT, "--save"),
    "an evaluation": ("evaluate_cityscapes", EVALUATE, "--save"),
    "scores": ("evaluate_cityscapes", SCORING, "--save"),
    "pictures": ("segment", GOOD["segment"], "--save"),
}
READ = {
    "source": ("train_ms", TRAIN, GTA5),
    "target's images": ("train_ms", TRAIN, f"{CITYSCAPES}/leftImg8bit"),
    "pseudo labels": ("train_ft", GOOD["train_ft"], f"{CITYSCAPES}/pseudo_FULL"),
    "images to predict": ("generate_plabel_cityscapes", PREDICT, CITYSCAPES),
    "labels to evaluate": ("evaluate_cityscapes", EVALUATE, f"{CITYSCAPES}/gtFine"),
    "predictions": ("evaluate_cityscapes", SCORING, "predictions"),
    "a set": ("check_data", GOOD["check_data"], GTA5),
    "a snapshot": ("segment", GOOD["segment"], str(Path(SNAPSHOT).parent)),
    "a result": ("report", GOOD["report"], RESULT),
}
GONE: dict[str, Spoil] = {
    "elsewhere": _elsewhere,
    "a file": lambda path: (_elsewhere(path), _file(path)),
    "without rights": closed,
    "a link to itself": lambda path: (_elsewhere(path), _loop(path)),
}
IN_THE_WAY = {"a file": _file, "without rights": _read_only, "a loop": _loop}
FULL = {  # bytes at which the disk is full: at the flags, in a snapshot, in a state
    1000: ("train_ms", "train_ft", "generate_plabel_cityscapes", "evaluate_cityscapes", "segment", "report"),
    100_000: ("train_ms", "export_onnx"),
    300_000: ("train_ms",),
}


@contextmanager
def vanishing(path: str) -> Iterator[None]:
    """The file exists while the set is checked, and is gone when it is read."""
    check = SegmentationDataset.check

    def check_and_remove(self, *args, **options):
        found = check(self, *args, **options)
        Path(path).unlink(missing_ok=True)
        return found

    with mock.patch.object(SegmentationDataset, "check", check_and_remove):
        yield


def place_cases() -> Iterator[Case]:
    """Files where folders belong, missing rights, full disks, files that vanish while a script runs."""
    for writer, (script, good, flag) in WRITERS.items():
        place = f"places/{writer}/new"
        for number, (what, make) in enumerate(IN_THE_WAY.items()):
            for where in (place, str(Path(place).parent))[number % 2 :]:
                yield Case(
                    *(f"{writer}: {what} at {where}", script, (*good, flag, place), (f"places/{writer}",)),
                    at(where, make),
                    adds=(*RUN_FILES, *PREDICTED),
                )
    for script in ("report", "export_onnx"):
        for what, make in {"a folder": Path.mkdir, "a folder without rights": _read_only}.items():
            flags = (*GOOD[script], "--save", "written")
            yield Case(f"{script}: {what}", script, flags, ("written",), at("written", make))
        flags = (*GOOD[script], "--save", "street.png/written")
        yield Case(f"{script}: below a file", script, flags, ("street.png",))
    for number, (reader, (script, flags, place)) in enumerate(READ.items()):
        for what, spoil in list(GONE.items())[number % 2 :: 2]:
            yield Case(f"{reader}: {what}", script, flags, (), at(place, spoil), adds=PREDICTED)
    for limit, scripts in FULL.items():
        for script in scripts:
            full = partial(full_disk, limit)
            title = f"{script}: a disk full at {limit} bytes"
            yield Case(title, script, GOOD[script], within=full, adds=(*RUN_FILES, *PREDICTED))
    for reader in ("source", "target", "predicted"):
        script, flags, place, adds, _ = IMAGE_READERS[reader]
        yield Case(
            *(f"{reader}: an image that vanishes", script, flags, (Path(place).name,)),
            within=partial(vanishing, place),
            adds=adds,
            takes=(place,),
        )


def replacing_cases() -> Iterator[Case]:
    """`--save` names a file or picture of another kind, which would be lost."""
    exported = (*GOOD["export_onnx"], "--save")
    yield Case("export over the snapshot", "export_onnx", (*exported, SNAPSHOT), (SNAPSHOT, ".onnx"))
    page = f"{RESULT}/metrics.json"
    yield Case("page over the numbers", "report", (RESULT, "--save", page), (page, ".html"))
    other = files.saved_image(files.np.zeros((4, 4, 3), files.np.uint8))
    segmented = ("street.png", "other.jpg", *GOOD["segment"][1:], "--save", ".")
    both = at("other.jpg", other)
    yield Case("segment over an input", "segment", segmented, ("street.png",), both)
    labels = ("own/images/train", *GOOD["segment"][1:], "--save", "own/labels/train")
    for more in ((), ("--label-ids",)):
        yield Case(f"segment over labels {more}", "segment", (*labels, *more), ("own/labels/train/0.png",))


def label_ids_cases() -> Iterator[Case]:
    """`--label-ids` where it would spoil pseudo labels, mix files or have no effect."""
    maps = at(RESULT, lambda path: path.rename(path.with_name("out")))
    for script in ("generate_plabel_cityscapes", "evaluate_cityscapes", "segment"):
        flags = (*GOOD[script], "--label-ids")
        yield Case(
            f"{script}: other predictions there", script, flags, ("--label-ids", "--save", "out"), maps
        )
    named = ("--label-ids", "train_ft.py", "--save")
    yield Case("no folder", "generate_plabel_cityscapes", (*PREDICT[:-2], "--label-ids"), named)
    evaluated = ("evaluate_cityscapes", (*EVALUATE, "--label-ids", "--report"), ("--label-ids", "--report"))
    yield Case("a page of them", *evaluated)
    yield Case(
        "files scored", "evaluate_cityscapes", (*SCORING, "--label-ids"), ("--label-ids", "--predictions")
    )


KINDS = {
    "label ids": label_ids_cases,
    "flags": lambda: list(flag_cases())[::FLAGS_STEP],
    "images": image_cases,
    "labels": label_cases,
    "lists": list_cases,
    "checkpoints": checkpoint_cases,
    "opts.yaml": options_cases,
    "descriptions": description_cases,
    "states": state_cases,
    "results": result_cases,
    "places": place_cases,
    "replacing": replacing_cases,
}


def accepted_cases() -> Iterator[Case]:
    """The good runs, and unusual input that is fine."""
    for script, good in GOOD.items():
        if script not in ("demo", "export_onnx"):  # tests of their own run these
            yield Case(script, script, good)
    yield Case("files to score", "evaluate_cityscapes", SCORING)
    yield from spread(files.UNUSUAL_IMAGES, IMAGE_READERS, times=1)
    for what, ids in {"16 bits": files.grey(7, kind=files.np.uint16), "one class": files.grey(7)}.items():
        yield LABEL_READERS["source"].case(f"labels: {what}", files.saved_image(ids))
    yield Reader("train_ms", TRAIN, _label_of("train")).case("target without labels", Path.unlink)
    for who, (script, flags, name) in LIST_READERS.items():
        content = f"\r\n{name}\r\n\r\n" if who in ("source", "evaluated") else f"\ufeff{name}"
        yield Reader(script, flags, LIST).case(f"list, {who}", write(content))
    readers = {script: SNAPSHOT_READERS[script] for script in ("train_ms", "segment")}
    yield from spread(files.UNUSUAL_CHECKPOINTS, readers, times=1)
    options = {
        "segment": Reader("segment", GOOD["segment"], OPTIONS),
        "--config": Reader("train_ms", (*TRAINING, "--config", OPTIONS), OPTIONS),
    }
    good_options = {
        "the published spelling of tuples": files.append("extra: !!python/tuple [1, 2]\n"),
        "flags that no longer exist": files.append("on_damaged: skip\nmax_damaged: 10\n"),
    }
    yield from spread(good_options, options, times=1)
    size = yaml_value("input_size_target", f"'{HUGE},8'")  # --input-size is given
    yield options["segment"].case("opts.yaml: a size of no image", size)
    same = {
        "a byte order mark": write("\ufeff" + yaml.safe_dump({"classes": OWN_CLASSES, "ignore": "others"})),
        "a reference": write(
            "classes:\n  road: {ids: &seven 7}\n  car: {ids: [26, 27]}\n"
            "  person: {ids: 24}\nignore: {ids: [0, 0x1]}\n"
        ),
        "folders by name": described(root=".", images="images/{split}", size=[96, 48]),
    }
    yield from spread(same, {"own": SURVEY_OWN}, times=1)
    yield Case("a state to resume from", "train_ms", RESUME)
    yield Case("a run to start", "train_ms", (*TRAIN, "--resume"))
    for name in MAPS:
        yield Reader("report", GOOD["report"], name).case(f"no {name}", Path.unlink)
