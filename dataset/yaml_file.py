"""YAML files from anywhere: reading one executes nothing and takes bounded time and memory."""

from pathlib import Path

import yaml

MAX_BYTES = 2**22  # a run.yaml of thousands of restarts still fits
MAX_REASON = 200  # characters


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases, which multiply, and without repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError("aliases are not supported", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(f"{key.value!r} is repeated", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


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
        values = yaml.load(data.decode("utf-8-sig"), _Loader)
        repr(values)  # fails for an integer of thousands of digits: better here than in a message
    except Exception as error:  # a value that does not fit its tag can fail in any way
        raise ValueError(" ".join(str(error).split())[:MAX_REASON]) from error
    return values
