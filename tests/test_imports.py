"""Imports run one way, down the floors below; folders of one floor do not import each other."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOORS = (
    ("model", "dataset", "synthetic"),
    ("utils",),
    ("engine", "trainer_ms"),
    ("trainer_ms_variance", "trainer_st"),
    ("report", "experiments", "deploy"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}  # scripts stand above


def imported_modules(path: Path, names: set[str]) -> set[str]:
    """The modules among `names` that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= members & names or {node.module}
    return found & names


def project_imports(root: Path) -> dict[str, set[str]]:
    """Module -> the modules of the project that it imports."""
    modules = {}
    for path in (*(path for room in FLOOR for path in (root / room).glob("*.py")), *root.glob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        modules[f"script {name}" if name in modules else name] = path  # report.py beside report/
    return {name: imported_modules(path, set(modules)) - {name} for name, path in modules.items()}


def wrong_imports(root: Path) -> list[str]:
    """`a imports b` for each import of another folder or script that is not on a lower floor."""
    wrong = []
    for module, others in project_imports(root).items():
        for other in others:
            room, target = module.partition(".")[0], other.partition(".")[0]
            floor, below = FLOOR.get(room, len(FLOORS)), FLOOR.get(target, len(FLOORS))
            if room != target and below >= floor:
                wrong.append(f"{module} imports {other}")
    return wrong


def test_imports_run_one_way():
    assert wrong_imports(ROOT) == []


def test_no_circle_even_inside_functions():
    tuple(TopologicalSorter(project_imports(ROOT)).static_order())  # CycleError names the circle


def test_a_wrong_import_is_named(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "losses.py").write_text("")
    (tmp_path / "dataset" / "base.py").write_text("def sample():\n    from utils import losses\n")
    assert wrong_imports(tmp_path) == ["dataset.base imports utils.losses"]


def test_scripts_start_without_the_slow_packages_that_few_of_them_need():
    script = "import sys, train_ms, generate_plabel_cityscapes, evaluate_cityscapes; print(*sys.modules)"
    started = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    loaded = set(started.stdout.split())
    assert "torch" in loaded, started.stderr
    assert not loaded & {"torch._dynamo", "torchvision", "scipy", "matplotlib.figure"}
