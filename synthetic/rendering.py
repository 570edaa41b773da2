"""Draw a street as an image and its label ids, in a given style."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from synthetic.ids import EGO, ROAD, SIDEWALK, SKY, TERRAIN
from synthetic.objects import NEAR, Shape
from synthetic.street import Street
from synthetic.styles import Style

SUPERSAMPLE = 2  # images are drawn larger by this factor and reduced, for smooth edges
SPECKLE = {"leaf": 0.10, "glass": 0.16}  # standard deviation of brightness among the polygons of a shape
INSTANCE_SPREAD = 0.16  # range of brightness among instances of one color
GROUND_LABELS = (ROAD, SIDEWALK, TERRAIN)
SMALLEST_DETAIL = 1.5  # pixels of the large drawing
TEXTURE_RANGE = 14.0  # metres beyond which the texture of the ground fades
SHADOW_RANGE = 45.0  # metres beyond which nothing casts a shadow
NOISE_SIDE = 512  # pixels; side of the noise tile that textures are cut from, doubled until an image fits


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cell: tuple[int, int]) -> np.ndarray:
    """Noise (height, width), float32, with features of `cell` = (width, height) pixels."""
    coarse = rng.standard_normal((size[1] // cell[1] + 2, size[0] // cell[0] + 2), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


@cache
def noise_tile(side: int) -> np.ndarray:
    """Noise (side, side), float32, of unit standard deviation with fine and coarse grain; always the same."""
    rng, size = np.random.default_rng(0), (side, side)
    octaves = ((1, 1.0), (2, 0.9), (4, 0.6), (16, 0.4))
    tile = sum(weight * smooth_noise(rng, size, (cell, cell)) for cell, weight in octaves)
    return tile / tile.std()


class Camera:
    """A pinhole camera, sampled from the ranges of a style; in pixels of the supersampled drawing."""

    def __init__(self, style: Style, size: tuple[int, int], rng: np.random.Generator):
        self.size = width, height = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
        self.focal = rng.uniform(*style.focal) * width
        self.centre = rng.uniform(0.42, 0.58) * width
        self.horizon = rng.uniform(*style.horizon) * height
        self.eye = np.array([rng.uniform(0.6, 2.2), rng.uniform(*style.eye_height), 0.0])
        self.bend = np.array([rng.normal(0, 5e-4), 0, 0])  # of the street, 1 / metres

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (n, 3) -> pixels (n, 2).

        Only shapes along the street reach behind the camera, so clamping z clips them.
        """
        scale = self.focal / np.maximum(points[:, 2], NEAR)
        u = self.centre + (points[:, 0] - self.eye[0]) * scale
        return np.stack([u, self.horizon + (self.eye[1] - points[:, 1]) * scale], axis=1)

    def ground(self) -> tuple[np.ndarray, np.ndarray]:
        """World x (rows, width) and z (rows, 1) of the ground at the pixels below the horizon."""
        width, height = self.size
        rows = np.arange(int(self.horizon) + 1, height)[:, None] + 0.5
        z = self.focal * self.eye[1] / (rows - self.horizon)
        return self.eye[0] + (np.arange(width) - self.centre) * z / self.focal - self.bend[0] * z**2, z


class Polygons:
    """Shapes as arrays: corners (n, 3); for each polygon its shape, first corner and number of corners."""

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
        """Outward unit normals (polygons, 3)."""
        first = self.points[self.starts]
        last, second = self.points[self.starts + self.sizes - 1], self.points[self.starts + 1]
        normals = np.cross(last - first, second - first)
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)

    def outlines(self, pixels: np.ndarray, chosen: np.ndarray) -> list[tuple[int, list[float]]]:
        """(index, [x, y, x, y, ...]) of each chosen polygon, given the pixel (n, 2) of each corner."""
        flat_pixels = pixels.ravel().tolist()
        starts, ends = (2 * self.starts).tolist(), (2 * (self.starts + self.sizes)).tolist()
        return [(i, flat_pixels[starts[i] : ends[i]]) for i in np.flatnonzero(chosen).tolist()]


class Renderer:
    """Paints a street in a style."""

    def __init__(self, style: Style, size: tuple[int, int], rng: np.random.Generator):
        self.style, self.rng = style, rng
        self.camera = Camera(style, size, rng)
        # With the sun behind the camera and well to one side, faces differ and flat figures cast shadows.
        elevation = np.radians(rng.uniform(*style.sun_elevation))
        azimuth = np.radians(rng.choice([-1, 1]) * rng.uniform(115, 150))
        level = np.cos(elevation)
        self.sun = np.array([level * np.sin(azimuth), np.sin(elevation), level * np.cos(azimuth)])
        self.haze = rng.uniform(*style.haze)
        self.colors = {name: np.array(choices) for name, choices in style.colors.items()}
        self.canvas = self.sky()
        self.labels = Image.new("L", self.canvas.size, SKY)

    def render(self, street: Street) -> tuple[np.ndarray, np.ndarray]:
        """Image (height, width, 3) and label ids (height, width), uint8."""
        things = Polygons(street.shapes(), self.camera)
        self.paint(Polygons(street.ground, self.camera))
        self.cast_shadows(things)
        self.paint(things)
        self.add_bonnet()
        labels = np.asarray(self.labels)[::SUPERSAMPLE, ::SUPERSAMPLE]
        return self.expose(self.textured(labels)), labels

    def sky(self) -> Image.Image:
        """A gradient with flat clouds, computed at a quarter of the size because it is smooth."""
        width, height = self.camera.size[0] // 4, self.camera.size[1] // 4
        top, low = (np.array(color, dtype=np.float32) for color in self.style.sky)
        share = np.clip(4 * np.arange(height, dtype=np.float32) / self.camera.horizon, 0, 1)[:, None, None]
        clouds = smooth_noise(self.rng, (width, height), (width // 6, height // 20))[..., None]
        clouds = np.clip(clouds, -0.5, 1.5) * self.style.cloud * (1 - 0.6 * share)
        color = top + (low - top) * share
        color = np.clip(color + (255 - color) * clouds, 0, 255).astype(np.uint8)
        return Image.fromarray(color).resize(self.camera.size, Image.Resampling.BILINEAR)

    def paint(self, polygons: Polygons) -> None:
        """Draw the visible polygons over each other, on the canvas and the labels."""
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
        """Color of each polygon: its paint lit by sun and sky, behind haze."""
        paint = np.array([self.paint_of(shape) for shape in polygons.shapes])[polygons.owner]
        spread = np.array([SPECKLE.get(shape.material, 0.0) for shape in polygons.shapes])[polygons.owner]
        sunlit = np.where(polygons.solid, np.clip(normals @ self.sun, 0, 1), 1.0)
        light = self.style.ambient + (1 - self.style.ambient) * sunlit
        light *= 1 + spread * self.rng.standard_normal(len(spread))
        haze = 1 - np.exp(-self.haze * polygons.depth.clip(NEAR))[:, None]
        colors = paint * light[:, None] * (1 - haze) + np.array(self.style.sky[1]) * haze
        return list(map(tuple, colors.clip(0, 255).astype(int).tolist()))

    def paint_of(self, shape: Shape) -> np.ndarray:
        """Color (3,) of a shape: one of its material's colors, slightly brighter or darker per instance."""
        choices = self.colors.get(shape.material, np.zeros((1, 3)))
        position = shape.pick * len(choices)
        return choices[int(position)] * shape.tone * (1 + INSTANCE_SPREAD * (position % 1 - 0.5))

    def cast_shadows(self, polygons: Polygons) -> None:
        """Darken the ground in the shadow of labelled polygons."""
        shift = self.style.shadow_reach / self.sun[1] * self.sun * (1, 0, 1)
        ground = polygons.points * (1, 0, 1) - polygons.points[:, 1:2] * shift
        width, height = self.canvas.size
        mask = Image.new("L", (width // SUPERSAMPLE, height // SUPERSAMPLE))
        draw = ImageDraw.Draw(mask)
        casting = polygons.labelled & (polygons.depth > NEAR) & (polygons.depth < SHADOW_RANGE)
        for _, outline in polygons.outlines(self.camera.project(ground) / SUPERSAMPLE, casting):
            draw.polygon(outline, fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(self.style.shadow_blur)).resize(self.canvas.size)
        light = 1 - self.style.shadow
        self.canvas = Image.composite(self.canvas.point(lambda level: level * light), self.canvas, mask)

    def add_bonnet(self) -> None:
        """Draw the bonnet of the ego vehicle at the lower edge, with a bright rim."""
        width, height = self.camera.size
        rise = self.style.bonnet * height
        for tone, drop in ((1.5, 0.0), (1.15, 0.22), (1.0, 0.44), (0.85, 0.66)) if rise > 0 else ():
            top = height - rise * (1 - drop)
            box = (-0.15 * width, top, 1.15 * width, top + 4 * rise)
            ImageDraw.Draw(self.canvas).ellipse(box, fill=tuple((self.colors["trim"][0] * tone).astype(int)))
            ImageDraw.Draw(self.labels).ellipse(box, fill=EGO)

    def textured(self, labels: np.ndarray) -> np.ndarray:
        """The drawing at its final size times noise: (height, width, 3) float32 from 0 to 255.

        On the ground the noise follows world coordinates, elsewhere image coordinates.
        """
        height, width = labels.shape
        contrast = np.zeros(256, dtype=np.float32)
        contrast[list(self.style.texture)] = list(self.style.texture.values())
        longest = max(width, height)
        side = NOISE_SIDE if longest < NOISE_SIDE else 1 << longest.bit_length()
        dx, dy = self.rng.integers(0, side - longest, 2)
        noise = noise_tile(side)[dy : dy + height, dx : dx + width].copy()
        x, z = (metres[::SUPERSAMPLE, ::SUPERSAMPLE] for metres in self.camera.ground())
        columns, rows = ((metres * self.style.grain).astype(int) % side for metres in (x, z))
        fading = np.clip(TEXTURE_RANGE / z, 0, 1).astype(np.float32)
        lies_flat = np.isin(labels[-len(z) :], GROUND_LABELS)
        np.copyto(noise[-len(z) :], noise_tile(side)[rows, columns] * fading, where=lies_flat)
        pixels = np.asarray(self.canvas.reduce(SUPERSAMPLE), dtype=np.float32)
        return pixels * (1 + noise * contrast[labels])[..., None]

    def expose(self, pixels: np.ndarray) -> np.ndarray:
        """Apply lens and sensor: (height, width, 3) float32 from 0 to 255 -> uint8."""
        style, rng = self.style, self.rng
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        light = np.asarray(image.filter(ImageFilter.GaussianBlur(style.blur)), dtype=np.float32) / 255
        light *= np.array(style.white_balance, dtype=np.float32) * rng.uniform(*style.exposure)
        grey = light.mean(axis=2, keepdims=True)
        light = np.clip(grey + (light - grey) * style.saturation, 0, None) ** style.gamma
        y, x = (np.linspace(-1, 1, length, dtype=np.float32) ** 2 / 2 for length in light.shape[:2])
        light *= (1 - style.vignette * (y[:, None] + x))[..., None]
        light += rng.standard_normal(light.shape, dtype=np.float32) * (style.noise / 255)
        return (light.clip(0, 1) * 255).astype(np.uint8)
