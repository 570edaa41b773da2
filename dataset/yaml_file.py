"""Reading YAML that came from anywhere: nothing in it is executed, and nothing in it grows without end."""

import reprlib
from pathlib import Path

import yaml

MAX_BYTES = 2**22  # a training's flags take some thousand
LONGEST_NUMBER = 100  # characters
LONGEST_REASON = 200  # characters
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 4, 4
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


class _Loader(yaml.SafeLoader):
    """Safe, and refuses merges, which can multiply."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "<< is not supported", node.start_mark)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(None, None, "a number is too long", node.start_mark)
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class _UniqueKeys(_Loader):
    """Refuses a key that stands twice too, of which YAML's loader would let the last one win."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Tuples(_Loader):
    """Reads the tuples that the published code wrote too."""


_Tuples.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node)
)


def load_yaml(path: Path, unique_keys: bool = False) -> object:
    """What a YAML file holds.

    Args:
        unique_keys: for a file that people write: refuse keys that stand twice, and Python's own tags.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no such YAML; in a few words.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    try:
        return yaml.load(data.decode("utf-8-sig"), _UniqueKeys if unique_keys else _Tuples)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except Exception as error:  # a value that does not fit its tag can fail in any way
        raise ValueError(" ".join(str(error).split())[:LONGEST_REASON]) from error


def shorten(value: object) -> str:
    """A value of a YAML file in a message: by reference it can be 10^30 words long."""
    return _SHORT.repr(value)
