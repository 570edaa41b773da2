"""A procedural two-domain street data set, so that the demo needs no download.

One scene model (`Street`: labelled polygons in metres) feeds one renderer (`Renderer`) that is driven by the
parameters of a domain. `GAME`, a sunny and saturated computer game, plays GTA5; `CAMERA`, an overcast and
noisy real camera behind a bonnet, plays Cityscapes. Both show the same classes in the same shapes; colors,
texture, light, lens and sensor differ, and `DOMAIN_GAP` says by how much.

World coordinates are metres: x to the right, y up, z forward; the camera stands at z = 0.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dataset.labels import CITYSCAPES_COLORS, CITYSCAPES_IDS

DOMAIN_GAP = 1.0
"""How far the target is from GAME: 0 = rendered with GAME's parameters, 1 = with CAMERA's, linear between.

A small network trained on GAME alone keeps about 55 % of its mIoU at 1, and 70 % at 0.8.
"""

GAME_SIZE = (320, 180)  # width, height in pixels
CAMERA_SIZE = (320, 160)
SUPERSAMPLE = 2  # images are drawn this much larger and reduced: smooth edges
CITIES = {"train": ("eastport", "millbrook", "northhaven"), "val": ("lakeside", "oldbridge")}
PNG_COMPRESSION = 1  # noisy images hardly shrink further, and are written several times faster

# Cityscapes label ids, which GTA5 uses too.
EGO, OUT_OF_ROI, DYNAMIC = 1, 3, 5  # not evaluated
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN = 7, 8, 11, 12, 13, 17, 19, 20
VEGETATION, TERRAIN, SKY, PERSON, RIDER = 21, 22, 23, 24, 25
CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = 26, 27, 28, 31, 32, 33

# ------------------------------------------------------------------------------------------------ domains


@dataclass(frozen=True)
class Domain:
    """What a domain's images look like. Pairs (low, high) are ranges to draw from; colors are RGB."""

    # lens and its place
    focal: tuple[float, float]  # share of the image width
    eye_height: tuple[float, float]  # metres
    horizon: tuple[float, float]  # share of the image height, from the top
    bonnet: float  # height of the ego vehicle's bonnet, share of the image height
    # light and air
    sun_elevation: tuple[float, float]  # degrees
    ambient: float  # light on a face turned away from the sun, 1 = facing it
    shadow: float  # share of the light that a cast shadow takes
    shadow_blur: float  # pixels
    shadow_reach: float  # length of a cast shadow, 1 = geometrically right
    haze: tuple[float, float]  # per metre
    sky: tuple[tuple[float, ...], tuple[float, ...]]  # color at the top and at the horizon
    cloud: float  # contrast of clouds
    # surfaces
    texture: dict[int, float]  # label id -> contrast of its texture
    grain: float  # texture cells per metre of ground
    leaf: float  # radius of a clump of leaves, metres
    window: tuple[float, float]  # share of a bay's width and of a storey's height
    storey: float  # metres
    colors: dict[str, tuple[tuple[float, ...], ...]]  # material -> colors that an instance picks from
    # sensor
    exposure: tuple[float, float]
    white_balance: tuple[float, float, float]  # gains of R, G, B
    saturation: float
    gamma: float
    vignette: float  # share of light lost in the corners
    blur: float  # pixels
    noise: float  # grey levels
    # how often things occur
    plots: dict[str, float]  # weights of what lines the street
    pitched_roofs: float  # share
    traffic: float  # share of the places in a lane that are taken
    parked: float  # share of the places along the kerb that are taken
    people: float  # mean number of groups of walkers
    cycles: float  # mean number of two-wheelers
    heavy: dict[str, float]  # probability of one in the image


# fmt: off
GAME = Domain(
    focal=(0.72, 0.84), eye_height=(1.5, 2.0), horizon=(0.44, 0.50), bonnet=0.0, sun_elevation=(32, 60),
    ambient=0.62, shadow=0.42, shadow_blur=0.8, shadow_reach=1.0, haze=(0.001, 0.004),
    sky=((92, 152, 228), (206, 226, 242)), cloud=0.10,
    texture={ROAD: 0.03, SIDEWALK: 0.03, TERRAIN: 0.12, VEGETATION: 0.16, BUILDING: 0.02, WALL: 0.04},
    grain=24, leaf=0.90, window=(0.62, 0.50), storey=3.4,
    colors={
        "road": ((122, 118, 116), (134, 128, 122), (112, 112, 114)),
        "marking": ((238, 214, 120), (240, 236, 224)),
        "sidewalk": ((188, 176, 158), (176, 168, 156), (196, 184, 170)),
        "grass": ((150, 164, 78), (136, 158, 70), (166, 168, 90)),
        "facade": ((226, 196, 150), (214, 150, 116), (236, 220, 190), (170, 190, 196), (204, 120, 96)),
        "roof": ((170, 92, 70), (128, 112, 104)), "glass": ((78, 112, 148), (92, 128, 156)),
        "frame": ((244, 238, 226), (150, 110, 84)),
        "wall": ((206, 180, 148), (186, 128, 102), (196, 190, 180)),
        "fence": ((132, 104, 78), (90, 96, 92), (214, 208, 196)), "pole": ((112, 118, 122), (96, 88, 82)),
        "housing": ((58, 60, 52), (212, 170, 52)),
        "red": ((250, 60, 46),), "amber": ((252, 190, 60),), "green": ((84, 238, 130),),
        "sign": ((44, 110, 208), (222, 52, 44), (242, 190, 48), (44, 150, 84)),
        "trunk": ((124, 92, 64), (108, 84, 62)),
        "leaf": ((112, 152, 52), (134, 160, 60), (92, 138, 56), (128, 142, 48)),
        "skin": ((232, 188, 152), (190, 136, 100), (128, 86, 62)), "hair": ((70, 48, 34), (150, 110, 60)),
        "shirt": ((226, 84, 64), (70, 130, 206), (246, 236, 214), (240, 186, 66), (104, 172, 110)),
        "trousers": ((62, 84, 132), (170, 150, 116), (76, 72, 74)),
        "car": ((206, 50, 44), (238, 236, 228), (48, 96, 180), (240, 184, 50), (70, 74, 80), (80, 160, 140)),
        "cargo": ((240, 236, 224), (216, 196, 150), (200, 84, 64)),
        "truck": ((238, 232, 220), (218, 132, 58), (84, 132, 190)), "bus": ((240, 196, 70), (214, 74, 58)),
        "train": ((222, 222, 216), (196, 60, 60)), "stripe": ((60, 92, 150), (250, 248, 240)),
        "tyre": ((40, 38, 38),), "hub": ((176, 174, 170),), "trim": ((66, 64, 64),),
        "head": ((255, 250, 224),),
    },
    exposure=(0.94, 1.06), white_balance=(1.04, 1.0, 0.93), saturation=1.12, gamma=0.95,
    vignette=0.0, blur=0.0, noise=1.0, pitched_roofs=0.2, traffic=0.5, parked=0.45, people=4.5, cycles=2.4,
    plots={"houses": 0.50, "park": 0.16, "wall": 0.17, "fence": 0.17},
    heavy={"truck": 0.26, "bus": 0.22, "train": 0.16},
)

CAMERA = Domain(
    focal=(0.86, 0.98), eye_height=(1.2, 1.4), horizon=(0.40, 0.46), bonnet=0.09, sun_elevation=(50, 75),
    ambient=0.80, shadow=0.40, shadow_blur=3.0, shadow_reach=0.25, haze=(0.003, 0.008),
    sky=((164, 188, 214), (222, 230, 234)), cloud=0.20,
    texture={ROAD: 0.045, SIDEWALK: 0.055, TERRAIN: 0.16, VEGETATION: 0.22, BUILDING: 0.04, WALL: 0.06},
    grain=36, leaf=0.65, window=(0.44, 0.62), storey=3.1,
    colors={
        "road": ((97, 97, 98), (108, 106, 105), (88, 91, 95)),
        "marking": ((214, 212, 204), (228, 226, 219)),
        "sidewalk": ((164, 156, 147), (166, 157, 149), (158, 152, 147)),
        "grass": ((110, 130, 65), (109, 130, 66), (110, 124, 66)),
        "facade": ((202, 185, 155), (167, 112, 91), (218, 209, 191), (164, 171, 164), (152, 105, 89)),
        "roof": ((124, 74, 61), (95, 88, 89)), "glass": ((62, 79, 98), (83, 102, 118)),
        "frame": ((220, 217, 210), (117, 98, 87)),
        "wall": ((172, 158, 141), (146, 106, 90), (154, 150, 146)),
        "fence": ((99, 86, 73), (75, 83, 80), (174, 172, 166)), "pole": ((100, 106, 109), (105, 103, 100)),
        "housing": ((45, 48, 45), (111, 100, 51)),
        "red": ((235, 57, 49),), "amber": ((247, 181, 66),), "green": ((91, 231, 155),),
        "sign": ((38, 89, 176), (198, 45, 44), (227, 181, 55), (70, 142, 100)),
        "trunk": ((93, 74, 58), (80, 68, 56)),
        "leaf": ((79, 112, 51), (97, 122, 55), (66, 101, 55), (101, 114, 48)),
        "skin": ((216, 176, 148), (181, 133, 105), (118, 83, 65)), "hair": ((58, 44, 37), (124, 97, 64)),
        "shirt": ((167, 66, 59), (64, 94, 139), (203, 198, 187), (135, 117, 70), (74, 99, 78)),
        "trousers": ((55, 66, 98), (122, 110, 92), (57, 54, 58)),
        "car": ((104, 45, 45), (213, 215, 213), (52, 78, 125), (175, 156, 106), (77, 81, 86), (110, 89, 81)),
        "cargo": ((213, 212, 206), (185, 174, 149), (135, 96, 96)),
        "truck": ((219, 216, 209), (176, 110, 59), (80, 114, 152)), "bus": ((209, 190, 137), (188, 67, 57)),
        "train": ((206, 203, 189), (172, 56, 57)), "stripe": ((115, 67, 89), (151, 156, 161)),
        "tyre": ((33, 32, 33),), "hub": ((149, 149, 149),), "trim": ((54, 54, 55),),
        "head": ((241, 241, 229),),
    },
    exposure=(0.95, 1.10), white_balance=(0.98, 1.02, 0.96), saturation=0.96, gamma=1.06,
    vignette=0.20, blur=0.5, noise=2.5, pitched_roofs=0.7, traffic=0.5, parked=0.55, people=5.0, cycles=3.0,
    plots={"houses": 0.54, "park": 0.16, "wall": 0.14, "fence": 0.16},
    heavy={"truck": 0.20, "bus": 0.24, "train": 0.20},
)
# fmt: on


def interpolate(a: Any, b: Any, share: float) -> Any:
    """a + share (b - a), through tuples and dicts of one structure."""
    if isinstance(a, dict):
        return {key: interpolate(a[key], b[key], share) for key in a}
    if isinstance(a, tuple):
        return tuple(interpolate(x, y, share) for x, y in zip(a, b, strict=True))
    return a + share * (b - a)


@cache
def target_domain(gap: float) -> Domain:
    """The target's parameters: GAME moved towards CAMERA by `gap`."""
    return Domain(**interpolate(vars(GAME), vars(CAMERA), gap))


# ----------------------------------------------------------------------------------------------- geometry

NEAR, FAR = 1.2, 90.0  # metres: nearest depth drawn, and the end of the street

Range = tuple[float, float]


class Shape(NamedTuple):
    """Polygons of one material in painting order: points (k, n, 3), k polygons of n corners, in metres.

    A solid shape is lit by the sun and not seen from behind: from outside, the corners of its polygons run
    bottom left, bottom right, top right, top left.
    """

    points: np.ndarray
    label: int | None  # None: a detail, which leaves the label beneath it
    material: str | None  # None: in the labels alone
    pick: float = 0.0  # in [0, 1): which of the material's colors
    tone: float = 1.0  # brightness
    solid: bool = False


def lift(points: np.ndarray, axis: int, value: float) -> np.ndarray:
    """(..., 2) -> (..., 3): a coordinate of one value goes in before `axis`."""
    columns = [points[..., 0], points[..., 1]]
    columns.insert(axis, np.full(points.shape[:-1], value))
    return np.stack(columns, axis=-1)


def rectangle(x0: float, x1: float, z0: float, z1: float) -> np.ndarray:
    """(4, 2) footprint (x, z), counterclockwise from above."""
    return np.array([(x0, z0), (x1, z0), (x1, z1), (x0, z1)], dtype=float)


def strip(x0: float, x1: float, z0: float, z1: float) -> np.ndarray:
    """(1, 4, 3) rectangle on the ground."""
    return lift(rectangle(x0, x1, z0, z1), 1, 0.0)[None]


def ribbon(start: tuple[float, float], end: tuple[float, float], z0: float, z1: float) -> np.ndarray:
    """(1, 2m, 3) band along the street between the lines (x, y) = start and end; follows a bend."""
    z = np.geomspace(max(z0, NEAR), max(z1, NEAR), 14)
    first, second = (np.stack([np.full_like(z, x), np.full_like(z, y), z], axis=1) for x, y in (start, end))
    return np.concatenate([first, second[::-1]])[None]


def frustum(base: np.ndarray, top: np.ndarray, y0: float, y1: float) -> np.ndarray:
    """(5, 4, 3) faces between two footprints: rear (towards -z), right, front, left, top."""
    low, high = lift(base, 1, y0), lift(top, 1, y1)
    sides = np.stack([low, np.roll(low, -1, axis=0), np.roll(high, -1, axis=0), high], axis=1)
    return np.concatenate([sides, high[None]])


def cells(count: int, fill: float, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """(count, 2) intervals that fill this share of equal cells between low and high."""
    centres = low + (np.arange(count) + 0.5) * (high - low) / count
    return centres[:, None] + np.array([-0.5, 0.5]) * fill * (high - low) / count


def panels(face: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(c * r, 4, 3) parts of a face (4, 3): the intervals columns (c, 2) by rows (r, 2), as shares of it."""
    u = np.tile(columns, (len(rows), 1))[:, [0, 1, 1, 0], None]
    v = np.repeat(rows, len(columns), axis=0)[:, [0, 0, 1, 1], None]
    return (face[0] * (1 - u) + face[1] * u) * (1 - v) + (face[3] * (1 - u) + face[2] * u) * v


def flat(*corners: tuple[float, float]) -> np.ndarray:
    """(1, n, 3) polygon of (x, y) corners, facing the camera."""
    return lift(np.array(corners, dtype=float), 2, 0.0)[None]


def limb(start: tuple[float, float], end: tuple[float, float], width: float) -> np.ndarray:
    """(1, 4, 3) thick line, facing the camera."""
    (x0, y0), (x1, y1) = start, end
    scale = width / (2 * np.hypot(x1 - x0, y1 - y0))
    dx, dy = (y0 - y1) * scale, (x1 - x0) * scale
    return flat((x0 - dx, y0 - dy), (x1 - dx, y1 - dy), (x1 + dx, y1 + dy), (x0 + dx, y0 + dy))


def disc(x: float, y: float, radius: float, hole: float = 0.0) -> np.ndarray:
    """(1, n, 3) disc or ring, facing the camera."""
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=hole > 0)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    outline = np.concatenate([radius * circle, hole * circle[::-1]]) if hole else radius * circle
    return lift(outline + (x, y), 2, 0.0)[None]


def place(
    shapes: list[Shape], x: float, z: float, heading: float = 0.0, y: float = 0.0, size: float = 1.0
) -> list[Shape]:
    """Scales shapes, turns them by `heading` (radians, 0 = forward, positive to the right) and moves them."""
    cos, sin = size * np.cos(heading), size * np.sin(heading)
    turn = np.array([(cos, 0, -sin), (0, size, 0), (sin, 0, cos)])
    return [shape._replace(points=shape.points @ turn + (x, y, z)) for shape in shapes]


# ------------------------------------------------------------------------------------- objects of a street

FULL = np.array([[0.0, 1.0]])
REAR, FRONT, SIDES, ENDS, ROUND = (0,), (2,), (1, 3), (0, 2), (0, 1, 2, 3)  # faces of a frustum
INWARD = {-1: 1, 1: 3}  # the face towards the street of what stands on the left, on the right
TREAD = 0.24  # metres, width of a wheel


class Part(NamedTuple):
    """A block of a vehicle, in metres; taper narrows its top at the rear, at the front and on both sides."""

    rear: float
    front: float
    half_width: float
    bottom: float
    top: float
    taper: tuple[float, float, float]
    material: str
    panels: tuple[tuple[str, tuple[int, ...], int, float, float, float, float], ...]
    """(material, faces, columns, from u0 to u1, from v0 to v1): details, in shares of their face."""


def lamps(low: float, high: float) -> tuple:
    """Panels at both ends: tail lights and headlights near the sides, a number plate between."""
    spans, kinds = ((0.03, 0.21), (0.79, 0.97)), (("red", REAR), ("head", FRONT))
    pairs = ((material, face, 1, *span, low, high) for material, face in kinds for span in spans)
    return (*pairs, ("marking", ENDS, 1, 0.38, 0.62, low - 0.18, low))


# fmt: off
BODY = (*lamps(0.52, 0.86), ("trim", ENDS, 1, 0, 1, 0, 0.24), ("trim", SIDES, 1, 0, 1, 0, 0.12))
CABIN = (("glass", ENDS, 1, 0.06, 0.94, 0.12, 0.86), ("glass", SIDES, 2, 0.05, 0.95, 0.14, 0.86))
VEHICLES = {  # name: label, radius of the wheels and their z, blocks from the ground up
    "car": (CAR, 0.34, (-1.35, 1.35), (
        Part(-2.15, 2.15, 0.90, 0.24, 0.88, (0.06, 0.12, 0.04), "car", BODY),
        Part(-2.00, 1.05, 0.84, 0.88, 1.47, (0.40, 0.75, 0.15), "car", CABIN))),
    "van": (CAR, 0.36, (-1.4, 1.4), (
        Part(-2.30, 2.30, 0.95, 0.26, 0.95, (0.03, 0.10, 0.03), "car", BODY),
        Part(-2.27, 1.50, 0.92, 0.95, 1.85, (0.15, 0.70, 0.12), "car", CABIN))),
    "truck": (TRUCK, 0.5, (-2.9, -1.8, 2.5), (
        Part(-3.9, 3.5, 1.15, 0.45, 0.95, (0, 0, 0), "trim", lamps(0.3, 0.8)),
        Part(1.7, 3.6, 1.20, 0.60, 2.75, (0, 0.25, 0.05), "truck", (
            ("glass", FRONT, 1, 0.06, 0.94, 0.52, 0.92), ("glass", SIDES, 1, 0.35, 0.90, 0.52, 0.90))),
        Part(-4.0, 1.5, 1.27, 0.95, 3.50, (0, 0, 0), "cargo", (
            ("trim", REAR, 1, 0.49, 0.51, 0, 1), ("trim", (0, 1, 3), 1, 0, 1, 0, 0.05))))),
    "bus": (BUS, 0.5, (-3.2, 3.4), (
        Part(-5.2, 5.2, 1.27, 0.35, 3.15, (0.04, 0.08, 0.04), "bus", (
            ("glass", REAR, 1, 0.10, 0.90, 0.52, 0.88), ("glass", FRONT, 1, 0.04, 0.96, 0.34, 0.90),
            ("glass", SIDES, 6, 0.02, 0.98, 0.46, 0.88), ("trim", ROUND, 1, 0, 1, 0, 0.07),
            *lamps(0.22, 0.36))),)),
    "train": (TRAIN, 0.0, (), (
        Part(-8.0, 8.0, 1.30, 0.15, 3.35, (0.5, 0.5, 0.05), "train", (
            ("stripe", ROUND, 1, 0, 1, 0.10, 0.40), ("glass", ENDS, 1, 0.12, 0.88, 0.50, 0.88),
            ("glass", SIDES, 8, 0.02, 0.98, 0.50, 0.82), ("trim", ROUND, 1, 0, 1, 0, 0.10),
            *lamps(0.22, 0.32))),
        Part(-5.5, 5.5, 0.80, 3.35, 3.75, (0.2, 0.2, 0.1), "trim", ()))),
}
# fmt: on


def vehicle_length(name: str) -> float:
    """Metres."""
    return 2 * max(max(-part.rear, part.front) for part in VEHICLES[name][3])


@cache
def vehicle(name: str) -> tuple[Shape, ...]:
    """At the origin, heading along +z."""
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
    """Discs on both sides of a part, and the treads that show below its rear and front."""
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
    """Rows of FIGURES for the head of a traffic light, its lower edge at (x, y), one of three lamps on."""
    bulbs = enumerate((("red", 1.04), ("amber", 0.63), ("green", 0.21)))
    housing = (limb((x, y), (x, y + 1.25), 0.58), LIGHT, "housing", 1.0)
    return (
        housing,
        *((disc(x, y + up, 0.18), None, name, 1.0 if i == lit else 0.3) for i, (name, up) in bulbs),
    )


def plate(*outline: tuple[float, float]) -> tuple:
    """Rows of FIGURES for a traffic sign: a plate with a pale middle on a post."""
    corners = np.array(outline) * 0.5 + (0, 2.5)
    middle = corners.mean(axis=0) + 0.55 * (corners - corners.mean(axis=0))
    post = (limb((0, 0), (0, 2.5), 0.16), POLE, "pole", 1.0)
    return (post, (flat(*corners), SIGN, "sign", 1.0), (flat(*middle), None, "marking", 1.0))


# fmt: off
FIGURES = {  # rows of outline, label, material, tone; face the camera, two-wheelers head to the right
    "person": (
        (limb((-0.08, 0.9), (-0.18, 0.03), 0.19), PERSON, "trousers", 0.85),
        (limb((0.08, 0.9), (0.18, 0.03), 0.19), PERSON, "trousers", 1.0),
        (limb((-0.22, 1.4), (-0.36, 0.88), 0.12), PERSON, "shirt", 0.85),
        (limb((0.22, 1.4), (0.36, 0.88), 0.12), PERSON, "shirt", 0.85),
        (flat((-0.18, 0.82), (0.18, 0.82), (0.25, 1.44), (-0.25, 1.44)), PERSON, "shirt", 1.0),
        (disc(0, 1.62, 0.15), PERSON, "skin", 1.0),
        (flat((-0.15, 1.64), (0.15, 1.64), (0.10, 1.77), (-0.10, 1.77)), PERSON, "hair", 1.0)),
    "rider": (
        (limb((-0.15, 1.0), (0.22, 0.62), 0.20), RIDER, "trousers", 1.0),
        (limb((0.22, 0.68), (0.05, 0.18), 0.16), RIDER, "trousers", 0.85),
        (limb((-0.16, 0.88), (0.20, 1.5), 0.38), RIDER, "shirt", 1.0),
        (limb((0.18, 1.38), (0.52, 1.02), 0.13), RIDER, "shirt", 0.85),
        (disc(0.30, 1.67, 0.15), RIDER, "skin", 1.0),
        (flat((0.12, 1.66), (0.44, 1.72), (0.38, 1.86), (0.18, 1.84)), RIDER, "hair", 1.0)),
    "bicycle": (
        *((disc(x, 0.36, 0.36), BICYCLE, None, 1.0) for x in (-0.55, 0.55)),
        *((disc(x, 0.36, 0.36, hole=0.27), None, "tyre", 1.0) for x in (-0.55, 0.55)),
        *((limb(*tube, 0.08), BICYCLE, "car", 1.0) for tube in (
            ((-0.55, 0.36), (-0.14, 0.90)), ((-0.55, 0.36), (-0.02, 0.34)), ((-0.02, 0.34), (-0.14, 0.90)),
            ((-0.02, 0.34), (0.36, 0.88)), ((-0.14, 0.90), (0.36, 0.88)), ((0.55, 0.36), (0.32, 1.08))))),
    "motorcycle": (
        *((disc(x, 0.34, 0.34), MOTORCYCLE, "tyre", 1.0) for x in (-0.65, 0.68)),
        *((disc(x, 0.34, 0.16), None, "hub", 1.0) for x in (-0.65, 0.68)),
        (limb((0.68, 0.34), (0.40, 1.12), 0.13), MOTORCYCLE, "trim", 1.0),
        (flat((-0.75, 0.78), (-0.35, 0.42), (0.40, 0.36), (0.62, 0.88), (0.36, 1.02), (0.02, 0.82),
              (-0.70, 0.92)), MOTORCYCLE, "car", 1.0),
        (limb((-0.45, 0.36), (0.30, 0.30), 0.16), MOTORCYCLE, "hub", 0.8),
        (limb((-0.62, 0.94), (0.0, 0.88), 0.13), MOTORCYCLE, "trim", 1.0),
        (disc(0.62, 0.92, 0.09), None, "head", 1.0)),
    "round sign": plate(*disc(0, 0, 1)[0, :, :2]),
    "square sign": plate((-1, -0.8), (1, -0.8), (1, 0.8), (-1, 0.8)),
    "warning sign": plate((-1, -0.7), (1, -0.7), (0, 1)),
    "red light": ((limb((0, 0), (0, 2.3), 0.2), POLE, "pole", 1.0), *signal(0, 2.2, lit=0)),
    "green light": ((limb((0, 0), (0, 2.3), 0.2), POLE, "pole", 1.0), *signal(0, 2.2, lit=2)),
    "lights on an arm": (
        (limb((0, 0), (0, 5.6), 0.26), POLE, "pole", 1.0),
        (limb((0, 5.5), (-4, 5.6), 0.2), POLE, "pole", 1.0),
        *signal(-4, 4.4, lit=0), *signal(0, 2.2, lit=0)),
    "street lamp": (
        (limb((0, 0), (0, 7), 0.24), POLE, "pole", 1.0),
        (limb((0, 6.9), (-1.8, 7.3), 0.16), POLE, "pole", 1.0),
        (limb((-1.4, 7.2), (-2.2, 7.32), 0.26), POLE, "marking", 0.85)),
    "bin": (
        (flat((-0.32, 0), (0.32, 0), (0.40, 0.95), (-0.40, 0.95)), DYNAMIC, "fence", 1.0),
        (limb((-0.44, 1.0), (0.44, 1.0), 0.16), DYNAMIC, "trim", 1.0)),
}
# fmt: on


def figure(rng: np.random.Generator, name: str) -> list[Shape]:
    """One of FIGURES in colors of its own, standing at the origin."""
    picks = {material: rng.random() for _, _, material, _ in FIGURES[name]}
    return [Shape(outline, label, paint, picks[paint], tone) for outline, label, paint, tone in FIGURES[name]]


def crown(rng: np.random.Generator, leaf: float, y: float, width: float, height: float) -> list[Shape]:
    """Clumps of leaves of radius `leaf` fill an ellipse around (0, y), the upper ones brighter."""
    pick, count = rng.random(), int(np.clip(1.6 * width * height / leaf**2, 20, 44))
    around, out = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
    centres = np.stack([out * np.cos(around) * width / 2, y + out * np.sin(around) * height / 2], axis=1)
    centres = centres[np.argsort(centres[:, 1])]
    angle = np.arange(7) * 2 * np.pi / 7
    outline = np.stack([np.cos(angle), np.sin(angle)], axis=1) * leaf * rng.uniform(0.6, 1.3, (count, 7, 1))
    tones = np.linspace(0.72, 1.16, 4)
    layers = np.array_split(lift(centres[:, None] + outline, 2, 0.0), len(tones))
    return [Shape(layer, VEGETATION, "leaf", pick, tone) for layer, tone in zip(layers, tones, strict=True)]


def tree(rng: np.random.Generator, leaf: float, height: float, width: float) -> list[Shape]:
    """A trunk, which counts as vegetation, and a crown."""
    stem = limb((0, 0), (rng.uniform(-0.2, 0.2), height * 0.6), 0.34)
    trunk = Shape(stem, VEGETATION, "trunk", rng.random())
    return [trunk, *crown(rng, leaf, height * 0.66, width, height * 0.62)]


def building(rng: np.random.Generator, domain: Domain, x: float, side: int, z: Range) -> list[Shape]:
    """A house that stands back from the plane x on this side of the street."""
    depth, detail_range = 11.0, 55.0  # metres; beyond, the street front is seen too obliquely for windows
    pick, storeys = rng.random(), int(rng.integers(3, 7))
    left, right = sorted((x, x + side * depth))
    base, height = rectangle(left, right, *z), storeys * domain.storey
    walls = frustum(base, base, 0, height)
    shapes = [Shape(walls, BUILDING, "facade", pick, solid=True)]
    for face in (0, INWARD[side]) if z[0] < detail_range else (0,):
        shapes += facade(domain.window, walls[face], storeys, pick)
    if rng.random() < domain.pitched_roofs:
        roof = frustum(base, rectangle((left + right) / 2, (left + right) / 2, *z), height, height + 3.5)
        shapes.append(Shape(roof[list(SIDES)], BUILDING, "roof", pick, solid=True))
        shapes.append(Shape(roof[list(REAR)], BUILDING, "facade", pick, solid=True))
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
    """A wall with pilasters and a coping, or a fence of posts and rails whose label covers the gaps too."""
    pick, length, (left, right) = rng.random(), z[1] - z[0], sorted((x, x + side * 0.3))
    low, high = (1.8, 3.0) if label == WALL else (1.5, 2.2)
    base = rectangle(left, right, *z)
    faces = frustum(base, base, 0, rng.uniform(low, high))
    front = faces[INWARD[side]]
    if label == FENCE:
        posts = panels(front, cells(max(2, round(length / 0.5)), 0.25), FULL)
        rails = panels(front, FULL, np.array([[0.25, 0.33], [0.85, 0.93]]))
        bars = Shape(np.concatenate([posts, rails]), None, "fence", pick, solid=True)
        return [Shape(front[None], FENCE, None), bars]
    pilasters = panels(front, cells(max(2, round(length / 3)), 0.14), FULL)
    coping = panels(front, FULL, np.array([[0.92, 1.0]]))
    details = [Shape(pilasters, None, "wall", pick, 0.9, True), Shape(coping, None, "wall", pick, 1.12, True)]
    return [Shape(faces, WALL, "wall", pick, solid=True), *details]


# ------------------------------------------------------------------------------------------ street layout

LANE, PARKING, KERB = 3.3, 2.2, 0.15  # metres
TRAFFIC_END, FURNITURE_END = 60.0, 70.0  # metres: what is smaller than houses ends before the street does
FURNITURE = (
    *("street lamp", "street lamp", "round sign", "square sign", "warning sign"),
    *("red light", "green light", "lights on an arm", "bin"),
)


class Street:
    """A random street: `ground`, flat shapes in painting order, and `things`, (depth, shapes)."""

    def __init__(self, domain: Domain, rng: np.random.Generator):
        self.domain, self.rng = domain, rng
        self.ground: list[Shape] = []
        self.things: list[tuple[float, list[Shape]]] = []
        self.lanes = 1 + int(rng.random() < 0.4)  # in each direction
        self.parking = rng.random(2) < 0.5  # on the left, on the right
        self.road = self.lanes * LANE + PARKING * self.parking  # metres from the middle to the kerbs
        self.walk = self.road + rng.uniform(2.5, 5.0, 2)  # ... to the outer edges of the sidewalks
        self.front = self.walk + rng.uniform(1.5, 5.0, 2) * (rng.random(2) < 0.7)  # ... to the plots
        start = rng.uniform(16, 45)
        self.crossing = (start, start + rng.uniform(7, 10)) if rng.random() < 0.5 else (FAR, FAR)
        self.pave()
        for side in (-1, 1):
            self.line_with_plots(side)
            self.furnish(side)
        self.close_far_end()
        self.drive()
        self.walkers()
        self.cyclists()

    def shapes(self) -> list[Shape]:
        """Those of all things, far to near."""
        return [shape for _, shapes in sorted(self.things, key=lambda thing: -thing[0]) for shape in shapes]

    def at(self, distances: np.ndarray, side: int, outward: float = 0.0) -> float:
        """x of a place beyond one of the distances (left, right) from the middle; side is -1 or 1."""
        return side * (distances[int(side > 0)] + outward)

    def crosses(self, z0: float, z1: float) -> bool:
        """Does the crossing road touch the range?"""
        return z0 < self.crossing[1] and z1 > self.crossing[0]

    def add(self, shapes: list[Shape], x: float, z: float, depth: float | None = None, **turn: float) -> None:
        """Places an object, see place(); `depth` ranks it where z does not say what it hides."""
        self.things.append((z if depth is None else depth, place(shapes, x, z, **turn)))

    def lay(self, points: np.ndarray, label: int | None, material: str, pick=0.0, tone=1.0) -> None:
        """Puts a shape on top of the ground."""
        self.ground.append(Shape(points, label, material, pick, tone))

    def pave(self) -> None:
        """Grass, sidewalks with kerbs, the road and its markings, the crossing road and its zebra stripes."""
        grass, stone, asphalt, paint = self.rng.random(4)
        self.lay(ribbon((-90, 0), (90, 0), NEAR, FAR), TERRAIN, "grass", grass)
        for side in (-1, 1):
            kerb, outer = self.at(self.road, side), self.at(self.walk, side)
            self.lay(ribbon((kerb, KERB), (outer, KERB), NEAR, FAR), SIDEWALK, "sidewalk", stone)
            self.lay(
                ribbon((kerb, KERB), (kerb + 0.2 * side, KERB), NEAR, FAR), None, "sidewalk", stone, 1.12
            )
            self.lay(ribbon((kerb, 0), (kerb, KERB), NEAR, FAR), SIDEWALK, "sidewalk", stone, 0.8)
        left, right = self.at(self.road, -1), self.at(self.road, 1)
        self.lay(ribbon((left, 0), (right, 0), NEAR, FAR), ROAD, "road", asphalt)
        for x in np.arange(1 - self.lanes, self.lanes) * LANE:
            dashes = [strip(x - 0.08, x + 0.08, z, z + 3) for z in np.arange(NEAR, FURNITURE_END, 8)]
            self.lay(np.concatenate(dashes), None, "marking", paint)
        for x in (-self.lanes * LANE, self.lanes * LANE):
            self.lay(ribbon((x - 0.07, 0), (x + 0.07, 0), NEAR, FAR), None, "marking", paint, 0.9)
        start, end = self.crossing
        if start < FAR:
            self.lay(strip(-90, 90, start, end), ROAD, "road", asphalt)
            bars = [
                strip(x, x + 0.55, start - 3.6, start - 0.8) for x in np.arange(left + 0.5, right - 0.5, 1.1)
            ]
            self.lay(np.concatenate(bars), None, "marking", paint)

    def line_with_plots(self, side: int) -> None:
        """Plots from behind the camera to the far end, except on the crossing road."""
        kinds, weights = list(self.domain.plots), np.array(list(self.domain.plots.values()))
        z = -4.0
        while z < FAR - 8:
            end = z + self.rng.uniform(9, 19)
            cut = self.crosses(z, end)
            end = self.crossing[0] if cut else end
            if end > max(z, NEAR) + 3:
                self.plot(self.rng.choice(kinds, p=weights / weights.sum()), side, (z, end))
            z = self.crossing[1] if cut else end
        if self.crossing[0] < FAR:  # closes the view along the crossing road
            self.house(side, self.crossing, setback=38)

    def plot(self, kind: str, side: int, z: Range) -> None:
        """Houses; or trees behind a hedge, a wall or a fence, often with a house at the back.

        All of it ranks as deep as the far end of the plot: what stands at the kerb hides it.
        """
        rng, x = self.rng, self.at(self.front, side)
        if kind == "houses":
            return self.house(side, z, setback=0.3)
        if rng.random() < 0.6:
            self.house(side, z, setback=rng.uniform(6, 12))
        for row in np.arange(z[1] - 1.5, max(z[0], NEAR) + 2, -4.5):
            self.plant(x + side * rng.uniform(2.2, 5.0), row, 0.85, depth=z[1])
        if kind == "park":
            for row in np.arange(z[1], max(z[0], NEAR) + 2, -3.0):
                self.add(crown(rng, self.domain.leaf, 0.7, 3.6, 1.7), x + side, row)
        else:
            self.things.append((z[1], barrier(rng, WALL if kind == "wall" else FENCE, x, side, z)))

    def house(self, side: int, z: Range, setback: float) -> None:
        """A building at `setback` metres behind the front of a plot."""
        x = self.at(self.front, side, setback)
        self.things.append((z[1], building(self.rng, self.domain, x, side, z)))

    def plant(self, x: float, z: float, size: float = 1.0, depth: float | None = None) -> None:
        """A tree of at most `size` times 9.5 m."""
        height, width = self.rng.uniform(6.0, 9.5) * size, self.rng.uniform(3.6, 6.0) * size
        self.add(tree(self.rng, self.domain.leaf, height, width), x, z, depth)

    def close_far_end(self) -> None:
        """Houses and trees across the end of the street hide the horizon."""
        for x in np.arange(-36, 36, 9.0):
            if self.rng.random() < 0.5:
                self.things.append((FAR, building(self.rng, self.domain, x, 1, (FAR - 2, FAR))))
            else:
                self.plant(x + 4, FAR - 3, 1.6)

    def furnish(self, side: int) -> None:
        """Trees, lamps, signs, traffic lights and bins near the kerb; traffic lights at the crossing too."""
        rng, x, turn = self.rng, self.at(self.road, side, 0.6), 0.0 if side > 0 else np.pi
        alley = 0.35 * (rng.random() < 0.5)  # share of trees
        z = rng.uniform(5, 11)
        while z < FURNITURE_END:
            if not self.crosses(z - 2, z + 2):
                if rng.random() < alley:
                    self.plant(x, z, 0.85)
                else:
                    self.add(figure(rng, rng.choice(FURNITURE)), x, z, heading=turn, y=KERB)
            z += rng.uniform(5, 11)
        if self.crossing[0] < FAR:
            self.add(figure(rng, "lights on an arm"), x, self.crossing[0] - 0.6, heading=turn, y=KERB)

    def drive(self) -> None:
        """Vehicles in the lanes, along the kerbs and across; now and then a truck, a bus, a tram."""
        rng, domain = self.rng, self.domain
        centres = (np.arange(self.lanes) + 0.5) * LANE
        lanes = [(x, 0.0, domain.traffic) for x in centres] + [(-x, np.pi, domain.traffic) for x in centres]
        for side in np.flatnonzero(self.parking) * 2 - 1:
            lanes.append((self.at(self.road, side, -PARKING / 2), rng.choice([0.0, np.pi]), domain.parked))
        rng.shuffle(lanes)
        heavy = [name for name, chance in domain.heavy.items() if rng.random() < chance]
        for index, (x, heading, share) in enumerate(lanes):
            self.fill_lane(x, heading, share, heavy[index] if index < len(heavy) else None)
        if self.crossing[0] < FAR and rng.random() < 0.5:
            heading = rng.choice([-1, 1]) * np.pi / 2
            self.put_vehicle("car", rng.uniform(-9, 9), sum(self.crossing) / 2, heading)

    def fill_lane(self, x: float, heading: float, share: float, first: str | None) -> None:
        """Vehicles one behind the other, in a share of the places; `first` names the first one."""
        rng = self.rng
        z = rng.uniform(8, 14) if first or abs(x) < LANE else rng.uniform(4, 9)
        while z < TRAFFIC_END:
            name = first or rng.choice(["car", "van"], p=(0.75, 0.25))
            length = vehicle_length(name)
            if first or (rng.random() < share and not self.crosses(z, z + length)):
                self.put_vehicle(name, x + rng.uniform(-0.2, 0.2), z + length / 2, heading)
            first = None
            z += length + rng.uniform(1.0, 5.0)

    def put_vehicle(self, name: str, x: float, z: float, heading: float) -> None:
        """Centred at (x, z); a tram brings its rails."""
        paint = self.rng.random()
        shapes = [shape._replace(pick=paint) for shape in vehicle(name)]
        self.add(shapes, x, z, depth=z - abs(np.cos(heading)) * vehicle_length(name) / 2, heading=heading)
        if name == "train":
            rails = [ribbon((x + u, 0), (x + u + 0.12, 0), NEAR, FAR) for u in (-0.8, 0.7)]
            self.lay(np.concatenate(rails), None, "trim")

    def walkers(self) -> None:
        """Groups of one or two on the sidewalks, some on the zebra stripes."""
        rng = self.rng
        for _ in range(rng.poisson(self.domain.people)):
            side, z = rng.choice([-1, 1]), rng.uniform(5, 28)
            x = rng.uniform(*sorted((self.at(self.road, side, 0.6), self.at(self.walk, side, -1.0))))
            if self.crossing[0] < FAR and rng.random() < 0.3:
                x, z = rng.uniform(-self.road[0], self.road[1]), self.crossing[0] - 2
            for step in range(rng.integers(1, 3)):
                turn, size = rng.uniform(-0.4, 0.4), rng.uniform(0.92, 1.06)
                self.add(figure(rng, "person"), x + 0.75 * step, z, heading=turn, size=size, y=KERB)

    def cyclists(self) -> None:
        """Two-wheelers riding near the kerb at any angle, or parked on the sidewalk."""
        rng = self.rng
        for _ in range(rng.poisson(self.domain.cycles)):
            side, z = rng.choice([-1, 1]), rng.uniform(5, 24)
            shapes = figure(rng, rng.choice(["bicycle", "motorcycle"]))
            if rng.random() < 0.3:
                x, turn = self.at(self.road, side, rng.uniform(0.8, 1.6)), rng.uniform(-0.6, 0.6)
            else:
                x, turn = side * (self.lanes * LANE - rng.uniform(0.4, 1.2)), rng.uniform(-0.8, 0.8)
                shapes += figure(rng, "rider")
            self.add(shapes, x, z, heading=turn, size=1.08)


# ---------------------------------------------------------------------------------------------- rendering

SPECKLE = {"leaf": 0.10, "glass": 0.16}  # spread of brightness among the polygons of a shape
INSTANCE_SPREAD = 0.16  # range of brightness among instances of one color
GROUND_LABELS = (ROAD, SIDEWALK, TERRAIN)
SMALLEST_DETAIL = 1.5  # pixels of the large drawing
TEXTURE_RANGE = 14.0  # metres from which on the ground's texture fades
SHADOW_RANGE = 45.0  # metres beyond which nothing casts a shadow
NOISE_SIDE = 512


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cell: tuple[int, int]) -> np.ndarray:
    """(height, width) float32 noise with features of `cell` = (width, height) pixels."""
    coarse = rng.standard_normal((size[1] // cell[1] + 2, size[0] // cell[0] + 2), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


@cache
def noise_tile() -> np.ndarray:
    """(NOISE_SIDE, NOISE_SIDE) float32 noise of unit spread with fine and coarse grain, always the same."""
    rng, size = np.random.default_rng(0), (NOISE_SIDE, NOISE_SIDE)
    octaves = ((1, 1.0), (2, 0.9), (4, 0.6), (16, 0.4))
    tile = sum(weight * smooth_noise(rng, size, (cell, cell)) for cell, weight in octaves)
    return tile / tile.std()


class Camera:
    """A pinhole camera, drawn from a domain's ranges; pixels are those of the large drawing."""

    def __init__(self, domain: Domain, size: tuple[int, int], rng: np.random.Generator):
        self.size = width, height = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
        self.focal = rng.uniform(*domain.focal) * width
        self.centre = rng.uniform(0.42, 0.58) * width
        self.horizon = rng.uniform(*domain.horizon) * height
        self.eye = np.array([rng.uniform(0.6, 2.2), rng.uniform(*domain.eye_height), 0.0])
        self.bend = np.array([rng.normal(0, 5e-4), 0, 0])  # of the street, 1 / metres

    def project(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) -> (n, 2). What reaches behind the camera runs along the street: clamping z clips it."""
        scale = self.focal / np.maximum(points[:, 2], NEAR)
        u = self.centre + (points[:, 0] - self.eye[0]) * scale
        return np.stack([u, self.horizon + (self.eye[1] - points[:, 1]) * scale], axis=1)

    def ground(self) -> tuple[np.ndarray, np.ndarray]:
        """World x (rows, width) and z (rows, 1) of the ground in the pixels below the horizon."""
        width, height = self.size
        rows = np.arange(int(self.horizon) + 1, height)[:, None] + 0.5
        z = self.focal * self.eye[1] / (rows - self.horizon)
        return self.eye[0] + (np.arange(width) - self.centre) * z / self.focal - self.bend[0] * z**2, z


class Polygons:
    """Shapes as arrays: corners (n, 3), and for each polygon its shape, its first corner and their number."""

    def __init__(self, shapes: list[Shape], camera: Camera):
        counts = [len(shape.points) for shape in shapes]
        points = np.concatenate([shape.points.reshape(-1, 3) for shape in shapes])
        self.shapes, self.points = shapes, points + camera.bend * points[:, 2:] ** 2
        self.owner = np.repeat(np.arange(len(shapes)), counts)
        self.sizes = np.repeat([shape.points.shape[1] for shape in shapes], counts)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.labelled = np.array([shape.label is not None for shape in shapes])[self.owner]
        self.solid = np.array([shape.solid for shape in shapes])[self.owner]
        self.depth = np.maximum.reduceat(self.points[:, 2], self.starts)

    def normals(self) -> np.ndarray:
        """(polygons, 3) outward unit normals."""
        first = self.points[self.starts]
        last, second = self.points[self.starts + self.sizes - 1], self.points[self.starts + 1]
        normals = np.cross(last - first, second - first)
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)

    def outlines(self, pixels: np.ndarray, chosen: np.ndarray) -> list[tuple[int, list[float]]]:
        """(index, [x, y, x, y, ...]) of the chosen polygons, given the pixel (n, 2) of each corner."""
        flat_pixels = pixels.ravel().tolist()
        starts, ends = (2 * self.starts).tolist(), (2 * (self.starts + self.sizes)).tolist()
        return [(i, flat_pixels[starts[i] : ends[i]]) for i in np.flatnonzero(chosen).tolist()]


class Renderer:
    """Paints one street as one domain shows it."""

    def __init__(self, domain: Domain, size: tuple[int, int], rng: np.random.Generator):
        self.domain, self.rng = domain, rng
        self.camera = Camera(domain, size, rng)
        # The sun stands behind the camera, well to one side: faces differ, and flat figures cast shadows.
        elevation = np.radians(rng.uniform(*domain.sun_elevation))
        azimuth = np.radians(rng.choice([-1, 1]) * rng.uniform(115, 150))
        level = np.cos(elevation)
        self.sun = np.array([level * np.sin(azimuth), np.sin(elevation), level * np.cos(azimuth)])
        self.haze = rng.uniform(*domain.haze)
        self.colors = {name: np.array(choices) for name, choices in domain.colors.items()}
        self.canvas = self.sky()
        self.labels = Image.new("L", self.canvas.size, SKY)

    def render(self, street: Street) -> tuple[np.ndarray, np.ndarray]:
        """(height, width, 3) image and (height, width) label ids, uint8."""
        things = Polygons(street.shapes(), self.camera)
        self.paint(Polygons(street.ground, self.camera))
        self.cast_shadows(things)
        self.paint(things)
        self.add_bonnet()
        labels = np.asarray(self.labels)[::SUPERSAMPLE, ::SUPERSAMPLE]
        return self.expose(self.textured(labels)), labels

    def sky(self) -> Image.Image:
        """Gradient with flat clouds; smooth, so computed small and enlarged."""
        width, height = self.camera.size[0] // 4, self.camera.size[1] // 4
        top, low = (np.array(color, dtype=np.float32) for color in self.domain.sky)
        share = np.clip(4 * np.arange(height, dtype=np.float32) / self.camera.horizon, 0, 1)[:, None, None]
        clouds = smooth_noise(self.rng, (width, height), (width // 6, height // 20))[..., None]
        clouds = np.clip(clouds, -0.5, 1.5) * self.domain.cloud * (1 - 0.6 * share)
        color = top + (low - top) * share
        color = np.clip(color + (255 - color) * clouds, 0, 255).astype(np.uint8)
        return Image.fromarray(color).resize(self.camera.size, Image.Resampling.BILINEAR)

    def paint(self, polygons: Polygons) -> None:
        """Draws the visible polygons, one over the other, on canvas and labels."""
        pixels, normals = self.camera.project(polygons.points), polygons.normals()
        facing = ((self.camera.eye - polygons.points[polygons.starts]) * normals).sum(axis=1) > 0
        low, high = (f.reduceat(pixels, polygons.starts) for f in (np.minimum, np.maximum))
        inside = ((high > 0) & (low < self.camera.size)).all(axis=1) & (polygons.depth > NEAR)
        large = ((high - low) > SMALLEST_DETAIL).all(axis=1) | polygons.labelled
        colors = self.shade(polygons, normals)
        image, labels = ImageDraw.Draw(self.canvas), ImageDraw.Draw(self.labels)
        for i, outline in polygons.outlines(pixels, inside & large & (facing | ~polygons.solid)):
            shape = polygons.shapes[polygons.owner[i]]
            if shape.material is not None:
                image.polygon(outline, fill=colors[i])
            if shape.label is not None:
                labels.polygon(outline, fill=shape.label)

    def shade(self, polygons: Polygons, normals: np.ndarray) -> list[tuple[int, ...]]:
        """Color of each polygon: its paint in the light of sun and sky, behind haze."""
        paint = np.array([self.paint_of(shape) for shape in polygons.shapes])[polygons.owner]
        spread = np.array([SPECKLE.get(shape.material, 0.0) for shape in polygons.shapes])[polygons.owner]
        sunlit = np.where(polygons.solid, np.clip(normals @ self.sun, 0, 1), 1.0)
        light = self.domain.ambient + (1 - self.domain.ambient) * sunlit
        light *= 1 + spread * self.rng.standard_normal(len(spread))
        haze = 1 - np.exp(-self.haze * polygons.depth.clip(NEAR))[:, None]
        colors = paint * light[:, None] * (1 - haze) + np.array(self.domain.sky[1]) * haze
        return list(map(tuple, colors.clip(0, 255).astype(int).tolist()))

    def paint_of(self, shape: Shape) -> np.ndarray:
        """(3,) color of a shape: one of its material's, a little brighter or darker in each instance."""
        choices = self.colors.get(shape.material, np.zeros((1, 3)))
        position = shape.pick * len(choices)
        return choices[int(position)] * shape.tone * (1 + INSTANCE_SPREAD * (position % 1 - 0.5))

    def cast_shadows(self, polygons: Polygons) -> None:
        """Darkens the ground where a labelled polygon keeps the sun off."""
        shift = self.domain.shadow_reach / self.sun[1] * self.sun * (1, 0, 1)
        ground = polygons.points * (1, 0, 1) - polygons.points[:, 1:2] * shift
        width, height = self.canvas.size
        mask = Image.new("L", (width // SUPERSAMPLE, height // SUPERSAMPLE))
        draw = ImageDraw.Draw(mask)
        casting = polygons.labelled & (polygons.depth > NEAR) & (polygons.depth < SHADOW_RANGE)
        for _, outline in polygons.outlines(self.camera.project(ground) / SUPERSAMPLE, casting):
            draw.polygon(outline, fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(self.domain.shadow_blur)).resize(self.canvas.size)
        light = 1 - self.domain.shadow
        self.canvas = Image.composite(self.canvas.point(lambda level: level * light), self.canvas, mask)

    def add_bonnet(self) -> None:
        """The front of the ego vehicle at the lower edge, with a bright rim."""
        width, height = self.camera.size
        rise = self.domain.bonnet * height
        for tone, drop in ((1.5, 0.0), (1.15, 0.22), (1.0, 0.44), (0.85, 0.66)) if rise > 0 else ():
            top = height - rise * (1 - drop)
            box = (-0.15 * width, top, 1.15 * width, top + 4 * rise)
            ImageDraw.Draw(self.canvas).ellipse(box, fill=tuple((self.colors["trim"][0] * tone).astype(int)))
            ImageDraw.Draw(self.labels).ellipse(box, fill=EGO)

    def textured(self, labels: np.ndarray) -> np.ndarray:
        """(height, width, 3) float32 in 0...255: the drawing at its final size times noise.

        The noise lies on the ground in world coordinates, on everything else in the image's.
        """
        height, width = labels.shape
        contrast = np.zeros(256, dtype=np.float32)
        contrast[list(self.domain.texture)] = list(self.domain.texture.values())
        dx, dy = self.rng.integers(0, NOISE_SIDE - max(width, height), 2)
        noise = noise_tile()[dy : dy + height, dx : dx + width].copy()
        x, z = (metres[::SUPERSAMPLE, ::SUPERSAMPLE] for metres in self.camera.ground())
        columns, rows = ((metres * self.domain.grain).astype(int) % NOISE_SIDE for metres in (x, z))
        fading = np.clip(TEXTURE_RANGE / z, 0, 1).astype(np.float32)
        lies_flat = np.isin(labels[-len(z) :], GROUND_LABELS)
        np.copyto(noise[-len(z) :], noise_tile()[rows, columns] * fading, where=lies_flat)
        pixels = np.asarray(self.canvas.reduce(SUPERSAMPLE), dtype=np.float32)
        return pixels * (1 + noise * contrast[labels])[..., None]

    def expose(self, pixels: np.ndarray) -> np.ndarray:
        """(height, width, 3) float32 in 0...255 -> uint8, through lens and sensor."""
        domain, rng = self.domain, self.rng
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        light = np.asarray(image.filter(ImageFilter.GaussianBlur(domain.blur)), dtype=np.float32) / 255
        light *= np.array(domain.white_balance, dtype=np.float32) * rng.uniform(*domain.exposure)
        grey = light.mean(axis=2, keepdims=True)
        light = np.clip(grey + (light - grey) * domain.saturation, 0, None) ** domain.gamma
        y, x = (np.linspace(-1, 1, length, dtype=np.float32) ** 2 / 2 for length in light.shape[:2])
        light *= (1 - domain.vignette * (y[:, None] + x))[..., None]
        light += rng.standard_normal(light.shape, dtype=np.float32) * (domain.noise / 255)
        return (light.clip(0, 1) * 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------- writing

GTA5_TRAIN, CITYSCAPES_TRAIN, CITYSCAPES_VAL = range(3)  # part of an image's seed


def make_image(seed: int, split: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """(height, width, 3) image and (height, width) label ids, uint8, the same for the same arguments."""
    rng = np.random.default_rng((seed, split, index))
    domain, size = (GAME, GAME_SIZE) if split == GTA5_TRAIN else (target_domain(DOMAIN_GAP), CAMERA_SIZE)
    image, labels = Renderer(domain, size, rng).render(Street(domain, rng))
    if split != GTA5_TRAIN:  # rectification leaves a margin without labels
        labels = np.pad(labels[1:-1, 1:-1], 1, constant_values=OUT_OF_ROI)
    return image, labels


def image_paths(root: Path, split: int, index: int) -> tuple[Path, Path]:
    """Where the data set's real counterpart has image and labels."""
    if split == GTA5_TRAIN:
        name = f"{index + 1:05d}.png"
        return root / "GTA5" / "images" / name, root / "GTA5" / "labels" / name
    part = "train" if split == CITYSCAPES_TRAIN else "val"
    number, choice = divmod(index, len(CITIES[part]))
    city, data = CITIES[part][choice], root / "Cityscapes" / "data"
    stem = f"{city}_{number:06d}_000019"
    labels = data / "gtFine" / part / city / f"{stem}_gtFine_labelIds.png"
    return data / "leftImg8bit" / part / city / f"{stem}_leftImg8bit.png", labels


def label_palette() -> list[int]:
    """256 RGB triples: the Cityscapes color of each label id, black for the others."""
    palette, colors = np.zeros((256, 3), dtype=int), list(CITYSCAPES_COLORS.values())
    for label, train_id in CITYSCAPES_IDS.items():
        palette[label] = colors[train_id]
    return palette.ravel().tolist()


def write_image(root: Path, seed: int, job: tuple[int, int]) -> None:
    """Writes image and labels of job = (split, index)."""
    image, labels = (Image.fromarray(array) for array in make_image(seed, *job))
    if job[0] == GTA5_TRAIN:
        labels.putpalette(label_palette())
    for picture, path in zip((image, labels), image_paths(root, *job), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, compress_level=PNG_COMPRESSION)


def make_embedded_data(
    root: Path,
    *,
    source_images: int = 240,
    target_images: int = 240,
    val_images: int = 60,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Writes the data set in the layouts of GTA5 (`root/GTA5`) and Cityscapes (`root/Cityscapes/data`).

    source_images go to GTA5, target_images and val_images to the two splits of Cityscapes. The files depend
    on the seed alone, not on workers: the number of processes, None for one a CPU, 1 for the caller's own.
    """
    counts = {GTA5_TRAIN: source_images, CITYSCAPES_TRAIN: target_images, CITYSCAPES_VAL: val_images}
    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    write = partial(write_image, Path(root), seed)
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        for job in jobs:
            write(job)
        return
    with ProcessPoolExecutor(workers) as pool:
        for _ in pool.map(write, jobs, chunksize=8):  # passes on a worker's error
            pass
