"""YAML files from anywhere: reading one executes nothing and takes bounded time and memory."""

import reprlib
from pathlib import Path

import yaml
from yaml.constructor import ConstructorError

MAX_BYTES = 2**22  # the flags of a training take a few thousand
MAX_DIGITS = 100
MAX_REASON = 200  # characters
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 4, 4
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without merges, which multiply, and repeated keys, of which the last would win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = {"<<"}
        for key, _ in node.value:
            if key.value in seen:
                raise ConstructorError(None, None, f"{key.value!r} is repeated or a merge", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise ConstructorError(None, None, "a number is too long", node.start_mark)
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
# The published code wrote tuples.
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _Loader.construct_yaml_seq)


def load_yaml(path: Path) -> object:
    """The content of a YAML file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not such YAML; the message is short.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    try:
        return yaml.load(data.decode("utf-8-sig"), _Loader)
    except Exception as error:  # a value that does not fit its tag can fail in any way
        raise ValueError(" ".join(str(error).split())[:MAX_REASON]) from error


def shorten(value: object) -> str:
    """A value for a message: with references, a small YAML file can hold a list of 10^30 words."""
    return _SHORT.repr(value)
