"""Objects of a street: labelled polygons in metres.

x runs to the right, y up, z forward; the camera stands at z = 0.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from synthetic import ids
from synthetic.styles import Style

NEAR, FAR = 1.2, 90.0  # metres: nearest depth drawn, and the end of the street

Range = tuple[float, float]


class Shape(NamedTuple):
    """Polygons of one material in painting order: points (k, n, 3) for k polygons of n corners, in metres.

    A solid shape is shaded by the sun and hidden from behind: seen from outside, the corners of its polygons
    run bottom left, bottom right, top right, top left.
    """

    points: np.ndarray
    label: int | None  # None: a detail that keeps the label beneath it
    material: str | None  # None: drawn in the labels only
    pick: float = 0.0  # in [0, 1): which of the material's colors
    tone: float = 1.0  # brightness
    solid: bool = False


def rectangle(x0: float, x1: float, z0: float, z1: float) -> np.ndarray:
    """Footprint (4, 2) of (x, z), counterclockwise from above."""
    return np.array([(x0, z0), (x1, z0), (x1, z1), (x0, z1)], dtype=float)


def strip(x0: float, x1: float, z0: float, z1: float) -> np.ndarray:
    """Rectangle (1, 4, 3) on the ground."""
    return np.insert(rectangle(x0, x1, z0, z1), 1, 0.0, axis=-1)[None]


def ribbon(start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """Band (1, 28, 3) along the whole street from (x, y) = start to end, with corners to follow its bend."""
    z = np.geomspace(NEAR, FAR, 14)
    first, second = (np.stack([np.full_like(z, x), np.full_like(z, y), z], axis=1) for x, y in (start, end))
    return np.concatenate([first, second[::-1]])[None]


def frustum(base: np.ndarray, top: np.ndarray, y0: float, y1: float) -> np.ndarray:
    """Faces (5, 4, 3) between two footprints: rear (towards -z), right, front, left, top."""
    low, high = np.insert(base, 1, y0, axis=-1), np.insert(top, 1, y1, axis=-1)
    sides = np.stack([low, np.roll(low, -1, axis=0), np.roll(high, -1, axis=0), high], axis=1)
    return np.concatenate([sides, high[None]])


def cells(count: int, fill: float, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Intervals (count, 2): the share `fill` of each of `count` equal cells between low and high, centred."""
    centres = low + (np.arange(count) + 0.5) * (high - low) / count
    return centres[:, None] + np.array([-0.5, 0.5]) * fill * (high - low) / count


def panels(face: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Parts (c * r, 4, 3) of a face (4, 3): its intervals `columns` (c, 2) by `rows` (r, 2), in shares."""
    u = np.tile(columns, (len(rows), 1))[:, [0, 1, 1, 0], None]
    v = np.repeat(rows, len(columns), axis=0)[:, [0, 0, 1, 1], None]
    return (face[0] * (1 - u) + face[1] * u) * (1 - v) + (face[3] * (1 - u) + face[2] * u) * v


def flat(*corners: tuple[float, float]) -> np.ndarray:
    """Polygon (1, n, 3) of (x, y) corners, facing the camera."""
    return np.insert(np.array(corners, dtype=float), 2, 0.0, axis=-1)[None]


def limb(start: tuple[float, float], end: tuple[float, float], width: float) -> np.ndarray:
    """Thick line (1, 4, 3), facing the camera."""
    (x0, y0), (x1, y1) = start, end
    scale = width / (2 * np.hypot(x1 - x0, y1 - y0))
    dx, dy = (y0 - y1) * scale, (x1 - x0) * scale
    return flat((x0 - dx, y0 - dy), (x1 - dx, y1 - dy), (x1 + dx, y1 + dy), (x0 + dx, y0 + dy))


def disc(x: float, y: float, radius: float, hole: float = 0.0) -> np.ndarray:
    """Disc or ring (1, n, 3), facing the camera."""
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=hole > 0)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    outline = np.concatenate([radius * circle, hole * circle[::-1]]) if hole else radius * circle
    return np.insert(outline + (x, y), 2, 0.0, axis=-1)[None]


def place(
    shapes: list[Shape], x: float, z: float, heading: float = 0.0, y: float = 0.0, size: float = 1.0
) -> list[Shape]:
    """Scale shapes, turn them by `heading` (radians, 0 = forward, positive to the right) and move them."""
    cos, sin = size * np.cos(heading), size * np.sin(heading)
    turn = np.array([(cos, 0, -sin), (0, size, 0), (sin, 0, cos)])
    return [shape._replace(points=shape.points @ turn + (x, y, z)) for shape in shapes]


# ------------------------------------------------------------------------------------- objects of a street

FULL = np.array([[0.0, 1.0]])
REAR, FRONT, SIDES, ENDS, ROUND = (0,), (2,), (1, 3), (0, 2), (0, 1, 2, 3)  # faces of a frustum
INWARD = {-1: 1, 1: 3}  # side of the street -> the face towards it
TREAD = 0.24  # metres, width of a wheel


class Part(NamedTuple):
    """A block of a vehicle, in metres; `taper` narrows its top at the rear, at the front and on the sides."""

    rear: float
    front: float
    half_width: float
    bottom: float
    top: float
    taper: tuple[float, float, float]
    material: str
    panels: tuple[tuple[str, tuple[int, ...], int, float, float, float, float], ...]
    """Details: (material, faces, columns, u0, u1, v0, v1), the extents in shares of the face."""


def lamps(low: float, high: float) -> tuple:
    """Panels at both ends: lights near the sides and a number plate between them."""
    spans, kinds = ((0.03, 0.21), (0.79, 0.97)), (("red", REAR), ("head", FRONT))
    pairs = ((material, face, 1, *span, low, high) for material, face in kinds for span in spans)
    return (*pairs, ("marking", ENDS, 1, 0.38, 0.62, low - 0.18, low))


# fmt: off
BODY = (*lamps(0.52, 0.86), ("trim", ENDS, 1, 0, 1, 0, 0.24), ("trim", SIDES, 1, 0, 1, 0, 0.12))
CABIN = (("glass", ENDS, 1, 0.06, 0.94, 0.12, 0.86), ("glass", SIDES, 2, 0.05, 0.95, 0.14, 0.86))
VEHICLES = {  # name: label, radius of the wheels and their z, blocks from the ground up
    "car": (ids.CAR, 0.34, (-1.35, 1.35), (
        Part(-2.15, 2.15, 0.90, 0.24, 0.88, (0.06, 0.12, 0.04), "car", BODY),
        Part(-2.00, 1.05, 0.84, 0.88, 1.47, (0.40, 0.75, 0.15), "car", CABIN))),
    "van": (ids.CAR, 0.36, (-1.4, 1.4), (
        Part(-2.30, 2.30, 0.95, 0.26, 0.95, (0.03, 0.10, 0.03), "car", BODY),
        Part(-2.27, 1.50, 0.92, 0.95, 1.85, (0.15, 0.70, 0.12), "car", CABIN))),
    "truck": (ids.TRUCK, 0.5, (-2.9, -1.8, 2.5), (
        Part(-3.9, 3.5, 1.15, 0.45, 0.95, (0, 0, 0), "trim", lamps(0.3, 0.8)),
        Part(1.7, 3.6, 1.20, 0.60, 2.75, (0, 0.25, 0.05), "truck", (
            ("glass", FRONT, 1, 0.06, 0.94, 0.52, 0.92), ("glass", SIDES, 1, 0.35, 0.90, 0.52, 0.90))),
        Part(-4.0, 1.5, 1.27, 0.95, 3.50, (0, 0, 0), "cargo", (
            ("trim", REAR, 1, 0.49, 0.51, 0, 1), ("trim", (0, 1, 3), 1, 0, 1, 0, 0.05))))),
    "bus": (ids.BUS, 0.5, (-3.2, 3.4), (
        Part(-5.2, 5.2, 1.27, 0.35, 3.15, (0.04, 0.08, 0.04), "bus", (
            ("glass", REAR, 1, 0.10, 0.90, 0.52, 0.88), ("glass", FRONT, 1, 0.04, 0.96, 0.34, 0.90),
            ("glass", SIDES, 6, 0.02, 0.98, 0.46, 0.88), ("trim", ROUND, 1, 0, 1, 0, 0.07),
            *lamps(0.22, 0.36))),)),
    "train": (ids.TRAIN, 0.0, (), (
        Part(-8.0, 8.0, 1.30, 0.15, 3.35, (0.5, 0.5, 0.05), "train", (
            ("stripe", ROUND, 1, 0, 1, 0.10, 0.40), ("glass", ENDS, 1, 0.12, 0.88, 0.50, 0.88),
            ("glass", SIDES, 8, 0.02, 0.98, 0.50, 0.82), ("trim", ROUND, 1, 0, 1, 0, 0.10),
            *lamps(0.22, 0.32))),
        Part(-5.5, 5.5, 0.80, 3.35, 3.75, (0.2, 0.2, 0.1), "trim", ()))),
}
# fmt: on


def vehicle_length(name: str) -> float:
    """Length of a vehicle in metres."""
    return 2 * max(max(-part.rear, part.front) for part in VEHICLES[name][3])


@cache
def vehicle(name: str) -> tuple[Shape, ...]:
    """Shapes of a vehicle at the origin, heading along +z."""
    label, radius, positions, parts = VEHICLES[name]
    shapes = wheels(label, radius, positions, parts[0])
    for part in parts:
        (rear, front, side), w = part.taper, part.half_width
        base = rectangle(-w, w, part.rear, part.front)
        top = rectangle(side - w, w - side, part.rear + rear, part.front - front)
        faces = frustum(base, top, part.bottom, part.top)
        shapes.append(Shape(faces, label, part.material, solid=True))
        for material, chosen, columns, u0, u1, v0, v1 in part.panels:
            spans = cells(columns, 0.86 if columns > 1 else 1.0, u0, u1)
            points = [panels(faces[face], spans, np.array([[v0, v1]])) for face in chosen]
            shapes.append(Shape(np.concatenate(points), None, material, solid=True))
    return tuple(shapes)


def wheels(label: int, radius: float, positions: tuple[float, ...], part: Part) -> list[Shape]:
    """Discs on both sides of a block, and the treads visible below its rear and front."""
    shapes, w = [], part.half_width
    tyre = Shape(disc(0, radius, radius), label, "tyre", solid=True)
    hub = Shape(disc(0, radius, radius / 2), None, "hub", solid=True)
    for z in positions:
        shapes += place([tyre, hub], w, z, -np.pi / 2) + place([tyre, hub], -w, z, np.pi / 2)
    for x in (-w, w - TREAD) if positions else ():
        base = rectangle(x, x + TREAD, part.rear + 0.1, part.front - 0.1)
        shapes.append(Shape(frustum(base, base, 0, radius)[list(ENDS)], label, "tyre", solid=True))
    return shapes


def signal(x: float, y: float, lit: int) -> tuple:
    """Rows of FIGURES for the head of a traffic light with its lower edge at (x, y) and lamp `lit` on."""
    bulbs = enumerate((("red", 1.04), ("amber", 0.63), ("green", 0.21)))
    housing = (limb((x, y), (x, y + 1.25), 0.58), ids.LIGHT, "housing", 1.0)
    return (
        housing,
        *((disc(x, y + up, 0.18), None, name, 1.0 if i == lit else 0.3) for i, (name, up) in bulbs),
    )


def plate(*outline: tuple[float, float]) -> tuple:
    """Rows of FIGURES for a traffic sign: a plate with a pale centre on a post."""
    corners = np.array(outline) * 0.5 + (0, 2.5)
    middle = corners.mean(axis=0) + 0.55 * (corners - corners.mean(axis=0))
    post = (limb((0, 0), (0, 2.5), 0.16), ids.POLE, "pole", 1.0)
    return (post, (flat(*corners), ids.SIGN, "sign", 1.0), (flat(*middle), None, "marking", 1.0))


# fmt: off
FIGURES = {  # rows of outline, label, material, tone; they face the camera, two-wheelers head to the right
    "person": (
        (limb((-0.08, 0.9), (-0.18, 0.03), 0.19), ids.PERSON, "trousers", 0.85),
        (limb((0.08, 0.9), (0.18, 0.03), 0.19), ids.PERSON, "trousers", 1.0),
        (limb((-0.22, 1.4), (-0.36, 0.88), 0.12), ids.PERSON, "shirt", 0.85),
        (limb((0.22, 1.4), (0.36, 0.88), 0.12), ids.PERSON, "shirt", 0.85),
        (flat((-0.18, 0.82), (0.18, 0.82), (0.25, 1.44), (-0.25, 1.44)), ids.PERSON, "shirt", 1.0),
        (disc(0, 1.62, 0.15), ids.PERSON, "skin", 1.0),
        (flat((-0.15, 1.64), (0.15, 1.64), (0.10, 1.77), (-0.10, 1.77)), ids.PERSON, "hair", 1.0)),
    "rider": (
        (limb((-0.15, 1.0), (0.22, 0.62), 0.20), ids.RIDER, "trousers", 1.0),
        (limb((0.22, 0.68), (0.05, 0.18), 0.16), ids.RIDER, "trousers", 0.85),
        (limb((-0.16, 0.88), (0.20, 1.5), 0.38), ids.RIDER, "shirt", 1.0),
        (limb((0.18, 1.38), (0.52, 1.02), 0.13), ids.RIDER, "shirt", 0.85),
        (disc(0.30, 1.67, 0.15), ids.RIDER, "skin", 1.0),
        (flat((0.12, 1.66), (0.44, 1.72), (0.38, 1.86), (0.18, 1.84)), ids.RIDER, "hair", 1.0)),
    "bicycle": (
        *((disc(x, 0.36, 0.36), ids.BICYCLE, None, 1.0) for x in (-0.55, 0.55)),
        *((disc(x, 0.36, 0.36, hole=0.27), None, "tyre", 1.0) for x in (-0.55, 0.55)),
        *((limb(*tube, 0.08), ids.BICYCLE, "car", 1.0) for tube in (
            ((-0.55, 0.36), (-0.14, 0.90)), ((-0.55, 0.36), (-0.02, 0.34)), ((-0.02, 0.34), (-0.14, 0.90)),
            ((-0.02, 0.34), (0.36, 0.88)), ((-0.14, 0.90), (0.36, 0.88)), ((0.55, 0.36), (0.32, 1.08))))),
    "motorcycle": (
        *((disc(x, 0.34, 0.34), ids.MOTORCYCLE, "tyre", 1.0) for x in (-0.65, 0.68)),
        *((disc(x, 0.34, 0.16), None, "hub", 1.0) for x in (-0.65, 0.68)),
        (limb((0.68, 0.34), (0.40, 1.12), 0.13), ids.MOTORCYCLE, "trim", 1.0),
        (flat((-0.75, 0.78), (-0.35, 0.42), (0.40, 0.36), (0.62, 0.88), (0.36, 1.02), (0.02, 0.82),
              (-0.70, 0.92)), ids.MOTORCYCLE, "car", 1.0),
        (limb((-0.45, 0.36), (0.30, 0.30), 0.16), ids.MOTORCYCLE, "hub", 0.8),
        (limb((-0.62, 0.94), (0.0, 0.88), 0.13), ids.MOTORCYCLE, "trim", 1.0),
        (disc(0.62, 0.92, 0.09), None, "head", 1.0)),
    "round sign": plate(*disc(0, 0, 1)[0, :, :2]),
    "square sign": plate((-1, -0.8), (1, -0.8), (1, 0.8), (-1, 0.8)),
    "warning sign": plate((-1, -0.7), (1, -0.7), (0, 1)),
    "red light": ((limb((0, 0), (0, 2.3), 0.2), ids.POLE, "pole", 1.0), *signal(0, 2.2, lit=0)),
    "green light": ((limb((0, 0), (0, 2.3), 0.2), ids.POLE, "pole", 1.0), *signal(0, 2.2, lit=2)),
    "lights on an arm": (
        (limb((0, 0), (0, 5.6), 0.26), ids.POLE, "pole", 1.0),
        (limb((0, 5.5), (-4, 5.6), 0.2), ids.POLE, "pole", 1.0),
        *signal(-4, 4.4, lit=0), *signal(0, 2.2, lit=0)),
    "street lamp": (
        (limb((0, 0), (0, 7), 0.24), ids.POLE, "pole", 1.0),
        (limb((0, 6.9), (-1.8, 7.3), 0.16), ids.POLE, "pole", 1.0),
        (limb((-1.4, 7.2), (-2.2, 7.32), 0.26), ids.POLE, "marking", 0.85)),
    "bin": (
        (flat((-0.32, 0), (0.32, 0), (0.40, 0.95), (-0.40, 0.95)), ids.DYNAMIC, "fence", 1.0),
        (limb((-0.44, 1.0), (0.44, 1.0), 0.16), ids.DYNAMIC, "trim", 1.0)),
}
# fmt: on


def figure(rng: np.random.Generator, name: str) -> list[Shape]:
    """One of FIGURES in random colors, standing at the origin."""
    picks = {material: rng.random() for _, _, material, _ in FIGURES[name]}
    return [Shape(outline, label, paint, picks[paint], tone) for outline, label, paint, tone in FIGURES[name]]


def crown(rng: np.random.Generator, leaf: float, y: float, width: float, height: float) -> list[Shape]:
    """Clumps of leaves with radius `leaf` that fill an ellipse around (0, y), brighter towards the top."""
    pick, count = rng.random(), int(np.clip(1.6 * width * height / leaf**2, 20, 44))
    around, out = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
    centres = np.stack([out * np.cos(around) * width / 2, y + out * np.sin(around) * height / 2], axis=1)
    centres = centres[np.argsort(centres[:, 1])]
    angle = np.arange(7) * 2 * np.pi / 7
    outline = np.stack([np.cos(angle), np.sin(angle)], axis=1) * leaf * rng.uniform(0.6, 1.3, (count, 7, 1))
    tones = np.linspace(0.72, 1.16, 4)
    clumps = np.array_split(np.insert(centres[:, None] + outline, 2, 0.0, axis=-1), len(tones))
    layers = zip(clumps, tones, strict=True)
    return [Shape(points, ids.VEGETATION, "leaf", pick, tone) for points, tone in layers]


def tree(rng: np.random.Generator, leaf: float, height: float, width: float) -> list[Shape]:
    """A trunk, which counts as vegetation, and a crown."""
    stem = limb((0, 0), (rng.uniform(-0.2, 0.2), height * 0.6), 0.34)
    trunk = Shape(stem, ids.VEGETATION, "trunk", rng.random())
    return [trunk, *crown(rng, leaf, height * 0.66, width, height * 0.62)]


def building(rng: np.random.Generator, style: Style, x: float, side: int, z: Range) -> list[Shape]:
    """A house behind the plane x, on one side of the street."""
    depth, detail_range = 11.0, 55.0  # metres; farther away the front is too oblique for windows
    pick, storeys = rng.random(), int(rng.integers(3, 7))
    left, right = sorted((x, x + side * depth))
    base, height = rectangle(left, right, *z), storeys * style.storey
    walls = frustum(base, base, 0, height)
    shapes = [Shape(walls, ids.BUILDING, "facade", pick, solid=True)]
    for face in (0, INWARD[side]) if z[0] < detail_range else (0,):
        shapes += facade(style.window, walls[face], storeys, pick)
    if rng.random() < style.pitched_roofs:
        roof = frustum(base, rectangle((left + right) / 2, (left + right) / 2, *z), height, height + 3.5)
        shapes.append(Shape(roof[list(SIDES)], ids.BUILDING, "roof", pick, solid=True))
        shapes.append(Shape(roof[list(REAR)], ids.BUILDING, "facade", pick, solid=True))
    return shapes


def facade(window: tuple[float, float], face: np.ndarray, storeys: int, pick: float) -> list[Shape]:
    """Shop fronts, windows in frames and a cornice on one face (4, 3) of a building."""
    bay = 2.8  # metres
    columns = max(1, round(np.linalg.norm(face[1] - face[0]) / bay))
    ground, wide = 1 / storeys, cells(max(1, columns // 2), 0.84)
    details = [
        ("frame", FULL, np.array([[0.97, 1.0]])),
        ("roof", FULL, np.array([[0.84, 0.97]]) * ground),
        ("glass", wide, np.array([[0.06, 0.78]]) * ground),
    ]
    for margin, material in ((0.10, "frame"), (0.0, "glass")):
        rows = cells(storeys - 1, window[1] + margin, ground, 0.97)
        details.append((material, cells(columns, window[0] + margin), rows))
    return [Shape(panels(face, u, v), None, material, pick, solid=True) for material, u, v in details]


def barrier(rng: np.random.Generator, label: int, x: float, side: int, z: Range) -> list[Shape]:
    """A wall with pilasters and a coping, or a fence of posts and rails whose label also covers the gaps."""
    pick, length, (left, right) = rng.random(), z[1] - z[0], sorted((x, x + side * 0.3))
    low, high = (1.8, 3.0) if label == ids.WALL else (1.5, 2.2)
    base = rectangle(left, right, *z)
    faces = frustum(base, base, 0, rng.uniform(low, high))
    front = faces[INWARD[side]]
    if label == ids.FENCE:
        posts = panels(front, cells(max(2, round(length / 0.5)), 0.25), FULL)
        rails = panels(front, FULL, np.array([[0.25, 0.33], [0.85, 0.93]]))
        bars = Shape(np.concatenate([posts, rails]), None, "fence", pick, solid=True)
        return [Shape(front[None], ids.FENCE, None), bars]
    pilasters = panels(front, cells(max(2, round(length / 3)), 0.14), FULL)
    coping = panels(front, FULL, np.array([[0.92, 1.0]]))
    details = [Shape(pilasters, None, "wall", pick, 0.9, True), Shape(coping, None, "wall", pick, 1.12, True)]
    return [Shape(faces, ids.WALL, "wall", pick, solid=True), *details]
