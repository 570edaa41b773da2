"""Bad `opts.yaml`: missing, no YAML, carrying code, growing without end, of wrong types or networks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from tests.bad_input import hostile
from tests.bad_input.case import Case
from tests.bad_input.images import at
from tests.bad_input.world import GOOD, OPTIONS, SNAPSHOT, TRAINING

KIND = "opts.yaml"
HUGE = 10**30
# What a flag of the network cannot be, whatever it is.
NEVER = {
    **{"null": None, "a word": "nonsense", "an empty word": "", "a list": [19], "a mapping": {"a": 1}},
    **{"infinite": float("inf"), "nan": float("nan"), "negative": -1, "a fraction above 1": 1.5},
    **{"a huge number": HUGE, "an empty list": [], "an empty mapping": {}},
}
ALSO_NEVER = {
    "num_classes": {"zero": 0, "true": True, "a float": 19.0, "text": "19", "256": 256, "another number": 16},
    "use_se": {"text": "true", "one": 1, "the other": False},
    "train_bn": {"text": "false", "zero": 0},
    "norm_style": {"true": True, "the other": "bn"},
    "droprate": {"one": 1, "text": "0.1", "true": True},
    "arch": {"true": True, "the other": "resnet101"},
}
CLASSES = {
    **{
        "a list": ["road"],
        "a word": "road",
        "empty": {},
        "numbers": {1: [0, 0, 0]},
        "null inside": {"road": None},
    },
    "one colour short": {"road": [0, 0]},
    "a colour out of range": {"road": [0, 0, 256]},
    "a colour of text": {"road": ["0", "0", "0"]},
    "more than the network has": {f"class {n}": [0, 0, 0] for n in range(300)},
}


def _write(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def _with(text: str) -> Callable[[Path], object]:
    """One more line at the end."""
    return lambda path: path.write_text(path.read_text() + text)


def _set(key: str, value: object) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {key: value}))

    return spoil


def _written(key: str, text: str, before: str = "") -> Callable[[Path], object]:
    """One key with a value as YAML text."""

    def spoil(path: Path) -> None:
        options = yaml.safe_load(path.read_text())
        del options[key]
        path.write_text(f"{before}{yaml.safe_dump(options)}{key}: {text}\n")

    return spoil


def _without(key: str) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        options = yaml.safe_load(path.read_text())
        del options[key]
        path.write_text(yaml.safe_dump(options))

    return spoil


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": _write(""),
    "remarks alone": _write("# droprate: 0.1\n"),
    "text": _write("This is not the file you are looking for."),
    "a list": _write("- num_classes\n- 19\n"),
    "a number": _write("19"),
    "binary": _write(bytes(range(256)) * 10),
    "zeros": _write(bytes(1000)),
    "UTF-16": _write("num_classes: 19\n".encode("utf-16")),
    "JSON cut short": _write('{"num_classes": 19, "use_se"'),
    "tabs": _write("num_classes:\t19\n\tuse_se: true\n"),
    "an unclosed bracket": _with("extra: [1, 2\n"),
    "an unknown tag": _with("extra: !nobody {a: 1}\n"),
    "an unknown reference": _with("extra: *nobody\n"),
    "two documents": _with("---\nnum_classes: 19\n"),
    "lists within lists": _write("[" * 20000 + "]" * 20000),
    "mappings within mappings": _write("\n".join(" " * n + f"a{n}:" for n in range(3000))),
    "a key that is a list": _with("? [a, b]\n: 1\n"),
    "a date that is none": _with("extra: 2020-13-45\n"),
    "a number of many digits": _with(f"extra: {'9' * 100_000}\n"),
    "a number of many hexadecimal digits": _with(f"extra: 0x{'f' * 5000}\n"),
    "a tag whose value does not fit": _with("extra: !!timestamp nonsense\n"),
    "bytes that are none": _with("extra: !!binary \xff\n"),
    "a set that is none": _with("extra: !!set [1]\n"),
    "an endless file": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a folder": _folder,
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "without rights": lambda path: path.chmod(0),
    "mappings that merge without end": _write(hostile.yaml_merges()),
    **{f"code: {what}": _with(f"extra: {tag}\n") for what, tag in hostile.YAML_CODE.items()},
    **{f"code as a value: {what}": _written("droprate", tag) for what, tag in hostile.YAML_CODE.items()},
    **{
        f"a value of 10^30 words: {key}": _written(key, "*a29", hostile.yaml_laughs())
        for key in ("num_classes", "norm_style", "droprate", "arch", "classes")
    },
}
READERS = {
    **{s: GOOD[s] for s in ("generate_plabel_cityscapes", "evaluate_cityscapes", "segment", "export_onnx")},
    # Before it writes into the folder of another network.
    "train_ms": (*TRAINING, "--snapshot-dir", str(Path(SNAPSHOT).parent)),
}


def spoilt() -> Iterator[tuple[str, Callable[[Path], object], bool]]:
    """What is wrong, how it is made, and whether the values tell it and not the file."""
    for what, spoil in FILES.items():
        yield what, spoil, False
    for key, more in ALSO_NEVER.items():
        for what, value in (NEVER | more).items():
            yield f"{key}: {what}", _set(key, value), True
        if key != "arch":  # which the published code did not write down
            yield f"{key}: missing", _without(key), True
    for what, value in CLASSES.items():
        yield f"classes: {what}", _set("classes", value), True


AS_CONFIG = {
    "a folder of 10^30 words": _written("set", "*a29", hostile.yaml_laughs()),
    "a size of 10^30 words": _written("input_size", "*a29", hostile.yaml_laughs()),
    "a size of mappings": _set("input_size", [{"a": 1}, 2]),
    "a rate of text": _set("learning_rate", "high"),
    "a mapping": _set("batch_size", {"a": 1}),
    "a date": _written("batch_size", "2020-01-01"),
    "not a number": _set("learning_rate", float("nan")),
    "a batch of 0": _set("batch_size", 0),
    "an unknown precision": _set("precision", "fp8"),
}


def cases() -> Iterator[Case]:
    """Every spoilt file in every script that reads one."""
    config = (*TRAINING, "--config", OPTIONS)
    for what, spoil in AS_CONFIG.items():
        yield Case(KIND, f"--config: {what}", "train_ms", config, (OPTIONS,), at(OPTIONS, spoil))
    for script, flags in READERS.items():
        for what, spoil, by_value in spoilt():
            if script == "train_ms":
                # A training reads it to keep a folder from two networks; it needs no classes from it.
                if by_value or "classes" in what or what == "missing":
                    continue
                yield Case(KIND, what, script, flags, (), at(OPTIONS, spoil))
                continue
            named = (str(Path(OPTIONS).parent),) if by_value else (OPTIONS,)
            yield Case(KIND, what, script, flags, named, at(OPTIONS, spoil))


def accepted() -> Iterator[Case]:
    """What nobody asks for may be anything that is read without end or code."""
    for what, spoil in {
        "lists that refer to lists": _with(hostile.yaml_laughs()),
        "data folders of 10^30 words": _written("data_dir", "*a29", hostile.yaml_laughs()),
        "the published spelling of tuples": _with("extra: !!python/tuple [1, 2]\n"),
        "another size": _set("input_size_target", f"{HUGE},{HUGE}"),
    }.items():
        for script in ("evaluate_cityscapes", "segment"):
            yield Case("good input is accepted", what, script, GOOD[script], (), at(OPTIONS, spoil))
