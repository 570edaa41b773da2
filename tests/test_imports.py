"""Imports run one way, from the scripts down to `model` and `dataset`."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = {"model": 0, "dataset": 0, "synthetic": 0}  # these import nothing of the project outside themselves
FLOORS = OWN | {"utils": 1, "engine": 2, "trainer_ms": 2, "trainer_ms_variance": 2}
FLOORS |= {"report": 3, "experiments": 3, "deploy": 3}
SCRIPT = 4
SCRIPTS = {path.stem for path in ROOT.glob("*.py")} - set(FLOORS)


def imports(path: Path) -> set[str]:
    """Modules of the project that a file imports, at its top or within a function."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] in {*FLOORS, *SCRIPTS}}


def wrong_imports(root: Path) -> list[str]:
    """`file imports module` for each import against the rule."""
    wrong = []
    for path in sorted([*root.glob("*.py"), *(p for room in FLOORS for p in (root / room).rglob("*.py"))]):
        room = path.relative_to(root).parts[0].removesuffix(".py")
        floor = FLOORS.get(room, SCRIPT)
        for name in sorted(imports(path)):
            other = name.partition(".")[0]
            below = FLOORS.get(other, SCRIPT) <= floor if floor else False
            if other != room and not below:
                wrong.append(f"{path.relative_to(root)} imports {name}")
    return wrong
