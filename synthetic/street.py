"""A random street: which objects stand where."""

import numpy as np

from synthetic import objects
from synthetic.ids import FENCE, ROAD, SIDEWALK, TERRAIN, WALL
from synthetic.objects import FAR, NEAR, Range, Shape, ribbon, strip
from synthetic.styles import Style

LANE, PARKING, KERB = 3.3, 2.2, 0.15  # metres
TRAFFIC_END, FURNITURE_END = 60.0, 70.0  # metres; houses and their plots go on to the end of the street
FURNITURE = (
    *("street lamp", "street lamp", "round sign", "square sign", "warning sign"),
    *("red light", "green light", "lights on an arm", "bin"),
)


class Street:
    """A random street: `ground`, flat shapes in painting order, and `things`, pairs (depth, shapes)."""

    def __init__(self, style: Style, rng: np.random.Generator):
        self.style, self.rng = style, rng
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
        """Shapes of all things, far to near."""
        return [shape for _, shapes in sorted(self.things, key=lambda thing: -thing[0]) for shape in shapes]

    def at(self, distances: np.ndarray, side: int, outward: float = 0.0) -> float:
        """x at `outward` metres beyond one of the distances (left, right) of a side, which is -1 or 1."""
        return side * (distances[int(side > 0)] + outward)

    def crosses(self, z0: float, z1: float) -> bool:
        """Whether the crossing road touches the range."""
        return z0 < self.crossing[1] and z1 > self.crossing[0]

    def add(self, shapes: list[Shape], x: float, z: float, depth: float | None = None, **turn: float) -> None:
        """Place an object as `place` does; `depth` overrides z in the painting order."""
        self.things.append((z if depth is None else depth, objects.place(shapes, x, z, **turn)))

    def lay(self, points: np.ndarray, label: int | None, material: str, pick=0.0, tone=1.0) -> None:
        """Lay a shape on top of the ground."""
        self.ground.append(Shape(points, label, material, pick, tone))

    def pave(self) -> None:
        """Lay grass, sidewalks with kerbs, the road with markings, the crossing road with zebra stripes."""
        grass, stone, asphalt, paint = self.rng.random(4)
        self.lay(ribbon((-90, 0), (90, 0)), TERRAIN, "grass", grass)
        for side in (-1, 1):
            kerb, outer = self.at(self.road, side), self.at(self.walk, side)
            self.lay(ribbon((kerb, KERB), (outer, KERB)), SIDEWALK, "sidewalk", stone)
            self.lay(ribbon((kerb, KERB), (kerb + 0.2 * side, KERB)), None, "sidewalk", stone, 1.12)
            self.lay(ribbon((kerb, 0), (kerb, KERB)), SIDEWALK, "sidewalk", stone, 0.8)
        left, right = self.at(self.road, -1), self.at(self.road, 1)
        self.lay(ribbon((left, 0), (right, 0)), ROAD, "road", asphalt)
        for x in np.arange(1 - self.lanes, self.lanes) * LANE:
            dashes = [strip(x - 0.08, x + 0.08, z, z + 3) for z in np.arange(NEAR, FURNITURE_END, 8)]
            self.lay(np.concatenate(dashes), None, "marking", paint)
        for x in (-self.lanes * LANE, self.lanes * LANE):
            self.lay(ribbon((x - 0.07, 0), (x + 0.07, 0)), None, "marking", paint, 0.9)
        start, end = self.crossing
        if start < FAR:
            self.lay(strip(-90, 90, start, end), ROAD, "road", asphalt)
            bars = [
                strip(x, x + 0.55, start - 3.6, start - 0.8) for x in np.arange(left + 0.5, right - 0.5, 1.1)
            ]
            self.lay(np.concatenate(bars), None, "marking", paint)

    def line_with_plots(self, side: int) -> None:
        """Line one side with plots from behind the camera to the far end, except on the crossing road."""
        kinds, weights = list(self.style.plots), np.array(list(self.style.plots.values()))
        z = -4.0
        while z < FAR - 8:
            end = z + self.rng.uniform(9, 19)
            cut = self.crosses(z, end)
            end = self.crossing[0] if cut else end
            if end > max(z, NEAR) + 3:
                self.plot(self.rng.choice(kinds, p=weights / weights.sum()), side, (z, end))
            z = self.crossing[1] if cut else end
        if self.crossing[0] < FAR:  # ends the view along the crossing road
            self.house(side, self.crossing, setback=38)

    def plot(self, kind: str, side: int, z: Range) -> None:
        """Add a house, or trees behind a hedge, a wall or a fence, often with a house at the back.

        Everything gets the depth of the plot's far end, so that objects at the kerb hide it.
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
                self.add(objects.crown(rng, self.style.leaf, 0.7, 3.6, 1.7), x + side, row)
        else:
            self.things.append((z[1], objects.barrier(rng, WALL if kind == "wall" else FENCE, x, side, z)))

    def house(self, side: int, z: Range, setback: float) -> None:
        """Add a building `setback` metres behind the front of a plot."""
        x = self.at(self.front, side, setback)
        self.things.append((z[1], objects.building(self.rng, self.style, x, side, z)))

    def plant(self, x: float, z: float, size: float = 1.0, depth: float | None = None) -> None:
        """Add a tree of `size` times 6 to 9.5 m."""
        height, width = self.rng.uniform(6.0, 9.5) * size, self.rng.uniform(3.6, 6.0) * size
        self.add(objects.tree(self.rng, self.style.leaf, height, width), x, z, depth)

    def close_far_end(self) -> None:
        """Hide the horizon with houses and trees across the end of the street."""
        for x in np.arange(-36, 36, 9.0):
            if self.rng.random() < 0.5:
                self.things.append((FAR, objects.building(self.rng, self.style, x, 1, (FAR - 2, FAR))))
            else:
                self.plant(x + 4, FAR - 3, 1.6)

    def furnish(self, side: int) -> None:
        """Add trees, lamps, signs, traffic lights and bins near the kerb and lights at the crossing."""
        rng, x, turn = self.rng, self.at(self.road, side, 0.6), 0.0 if side > 0 else np.pi
        alley = 0.35 * (rng.random() < 0.5)  # share of trees
        z = rng.uniform(5, 11)
        while z < FURNITURE_END:
            if not self.crosses(z - 2, z + 2):
                if rng.random() < alley:
                    self.plant(x, z, 0.85)
                else:
                    self.add(objects.figure(rng, rng.choice(FURNITURE)), x, z, heading=turn, y=KERB)
            z += rng.uniform(5, 11)
        if self.crossing[0] < FAR:
            self.add(objects.figure(rng, "lights on an arm"), x, self.crossing[0] - 0.6, heading=turn, y=KERB)

    def drive(self) -> None:
        """Add vehicles in the lanes, at the kerbs and on the crossing; sometimes a truck, a bus or a tram."""
        rng, style = self.rng, self.style
        centres = (np.arange(self.lanes) + 0.5) * LANE
        lanes = [(x, 0.0, style.traffic) for x in centres] + [(-x, np.pi, style.traffic) for x in centres]
        for side in np.flatnonzero(self.parking) * 2 - 1:
            lanes.append((self.at(self.road, side, -PARKING / 2), rng.choice([0.0, np.pi]), style.parked))
        rng.shuffle(lanes)
        heavy = [name for name, chance in style.heavy.items() if rng.random() < chance]
        for index, (x, heading, share) in enumerate(lanes):
            self.fill_lane(x, heading, share, heavy[index] if index < len(heavy) else None)
        if self.crossing[0] < FAR and rng.random() < 0.5:
            heading = rng.choice([-1, 1]) * np.pi / 2
            self.put_vehicle("car", rng.uniform(-9, 9), sum(self.crossing) / 2, heading)

    def fill_lane(self, x: float, heading: float, share: float, first: str | None) -> None:
        """Queue vehicles in a share of the places of a lane; `first` is the kind of the first one."""
        rng = self.rng
        z = rng.uniform(8, 14) if first or abs(x) < LANE else rng.uniform(4, 9)
        while z < TRAFFIC_END:
            name = first or rng.choice(["car", "van"], p=(0.75, 0.25))
            length = objects.vehicle_length(name)
            if first or (rng.random() < share and not self.crosses(z, z + length)):
                self.put_vehicle(name, x + rng.uniform(-0.2, 0.2), z + length / 2, heading)
            first = None
            z += length + rng.uniform(1.0, 5.0)

    def put_vehicle(self, name: str, x: float, z: float, heading: float) -> None:
        """Add a vehicle centred at (x, z); a tram comes with rails."""
        paint = self.rng.random()
        shapes = [shape._replace(pick=paint) for shape in objects.vehicle(name)]
        depth = z - abs(np.cos(heading)) * objects.vehicle_length(name) / 2
        self.add(shapes, x, z, depth, heading=heading)
        if name == "train":
            rails = [ribbon((x + u, 0), (x + u + 0.12, 0)) for u in (-0.8, 0.7)]
            self.lay(np.concatenate(rails), None, "trim")

    def walkers(self) -> None:
        """Add people alone or in pairs on the sidewalks, some on the zebra stripes."""
        rng = self.rng
        for _ in range(rng.poisson(self.style.people)):
            side, z = rng.choice([-1, 1]), rng.uniform(5, 28)
            x = rng.uniform(*sorted((self.at(self.road, side, 0.6), self.at(self.walk, side, -1.0))))
            if self.crossing[0] < FAR and rng.random() < 0.3:
                x, z = rng.uniform(-self.road[0], self.road[1]), self.crossing[0] - 2
            for step in range(rng.integers(1, 3)):
                turn, size = rng.uniform(-0.4, 0.4), rng.uniform(0.92, 1.06)
                self.add(objects.figure(rng, "person"), x + 0.75 * step, z, heading=turn, size=size, y=KERB)

    def cyclists(self) -> None:
        """Add two-wheelers riding near the kerb or parked on the sidewalk."""
        rng = self.rng
        for _ in range(rng.poisson(self.style.cycles)):
            side, z = rng.choice([-1, 1]), rng.uniform(5, 24)
            shapes = objects.figure(rng, rng.choice(["bicycle", "motorcycle"]))
            if rng.random() < 0.3:
                x, turn = self.at(self.road, side, rng.uniform(0.8, 1.6)), rng.uniform(-0.6, 0.6)
            else:
                x, turn = side * (self.lanes * LANE - rng.uniform(0.4, 1.2)), rng.uniform(-0.8, 0.8)
                shapes += objects.figure(rng, "rider")
            self.add(shapes, x, z, heading=turn, size=1.08)
