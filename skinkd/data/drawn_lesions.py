"""Stylised dermoscopy: one lesion, and photographs of it, as pure functions of a look and a numpy Generator.

Ours. A lesion is painted once on a canvas wider than any photograph of it: skin times the pigment's
transmittance, then the structures that dermoscopy names (network, globules, milia-like cysts, ovoid nests or
lacunae, vessels, scale, scar, streaks). Each photograph shows that canvas with another zoom, rotation,
lighting, hair, ruler and vignette. So two photographs of a lesion share details that a network could memorise,
as in HAM10000 (Tschandl et al., 2018).
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from skinkd.data.drawn_looks import Look

Array = NDArray[Any]  # float32; the stubs of OpenCV and numpy are less precise

ZOOM = (0.82, 1.2)  # of a photograph, relative to the lesion's own size
SHIFT = 0.14  # largest displacement of the lesion from the centre, in image heights
HAIR_COVER = 0.3  # a pixel counts as hair from this share of hair on
PATCH_RADIUS = (0.10, 0.13)  # in sides of the central square
PATCH_COLOURS = ((40, 110, 200), (60, 160, 80), (235, 190, 40), (150, 60, 170))
REACH = 2.0  # the pigment is painted within this many radii


class Lesion(NamedTuple):
    """A painted lesion: ``canvas`` (S, S, 3) float32 RGB in [0, 1], ``mask`` (S, S) float32, 0 or 1."""

    canvas: Array
    mask: Array
    hair: float
    hair_colour: Array


def _noise(rng: Generator, size: int, cells: float) -> Array:
    """Smooth noise (size, size), about standard normal, with ``cells`` grains along a side."""
    grid = rng.standard_normal((max(2, round(cells)) + 3,) * 2).astype(np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * 1.3


def _smoothstep(x: Array) -> Array:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _dots(rng: Generator, shape: Array, radius: float, count: int, sizes: tuple[float, float]) -> Array:
    """Coverage (n, n) of ``count`` ovals, ``sizes`` in lesion radii, centred where ``shape`` is positive."""
    layer = np.zeros(shape.shape, np.uint8)
    inside = np.argwhere(shape > 0)
    if count and len(inside):
        for y, x in inside[rng.integers(len(inside), size=count)]:
            long = max(0.7, rng.uniform(*sizes) * radius)
            axes = (round(long * 16), round(long * rng.uniform(0.6, 1) * 16))
            angle = rng.uniform(0, 180)
            cv2.ellipse(layer, (int(x) * 16, int(y) * 16), axes, angle, 0, 360, 255, -1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(layer, (3, 3), 0).astype(np.float32) / 255


def _vessels(rng: Generator, size: int, radius: float, count: int) -> Array:
    """Coverage (size, size) of ``count`` vessels: random walks from the lesion, with side branches."""
    layer = np.zeros((size, size), np.uint8)
    width = max(1, round(radius / 40))
    for _ in range(count):
        start = size / 2 + rng.uniform(-0.9, 0.9, 2) * radius
        heading = rng.uniform(0, 2 * np.pi)
        for branch in range(3):
            turns = heading + np.cumsum(rng.normal(0, 0.35, 14))
            steps = np.stack([np.cos(turns), np.sin(turns)], 1) * radius * 0.09
            path = start + np.cumsum(steps, 0)
            cv2.polylines(
                layer, [np.round(path * 16).astype(np.int32)], False, 230 - 65 * branch, width, cv2.LINE_AA, 4
            )
            start, heading = path[rng.integers(4, 10)], turns[5] + rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
    return layer.astype(np.float32) / 255


def _skin(rng: Generator, size: int, height: int) -> Array:
    """Skin (size, size, 3): a tone, furrows, mottling, a few freckles."""
    light, pink, yellow = rng.uniform(0.72, 0.95), rng.uniform(0.04, 0.24), rng.uniform(-0.06, 0.07)
    tone = np.array([light + 0.04, light * (0.92 - pink), light * (0.88 - pink * 0.6 - yellow)], np.float32)
    mottle = _noise(rng, size, 9) * rng.uniform(0.005, 0.022)
    grain = _noise(rng, size, 75 * size / height / 2.7) * rng.uniform(0.008, 0.022)
    furrows = -np.abs(_noise(rng, size, 22)) * rng.uniform(0.0, 0.03)
    redness = np.array([0.15, -1, -0.8], np.float32) * rng.uniform(0.3, 1.4)
    skin = tone * (1 + (grain + furrows)[..., None]) + mottle[..., None] * redness
    if rng.random() < 0.3:
        freckles = cv2.GaussianBlur(
            _dots(rng, np.ones((size, size), np.float32), height, int(rng.integers(4, 25)), (0.01, 0.03)),
            (0, 0),
            1.5,
        )
        skin *= 1 - freckles[..., None] * np.array([0.15, 0.28, 0.32], np.float32)
    return skin


def _outline(rng: Generator, look: Look, theta: Array) -> Array:
    """Border radius over the angle, 1 on average: harmonics 2 to 9, scaled by ``irregularity``."""
    border = np.ones_like(theta)
    for k in range(2, 10):
        amplitude = look.irregularity * rng.normal(0, 0.75) / k**0.9
        border += amplitude * np.cos(k * theta + rng.uniform(0, 2 * np.pi)).astype(np.float32)
    return np.clip(border, 0.35, 1.75)


def _paint(rng: Generator, look: Look, skin: Array, radius: float) -> tuple[Array, Array]:
    """Paint the lesion over ``skin`` (n, n, 3), centred; return the picture and the mask (n, n)."""
    size = skin.shape[0]
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / radius
    x, y = np.meshgrid(axis, axis)
    stretch = 1 + look.elongation * float(rng.uniform(0.3, 1.4))
    u, v = x * np.sqrt(stretch), y / np.sqrt(stretch)
    rough = _noise(rng, size, 2 * REACH * 4) * 0.3 * look.irregularity
    inwards = 1 - np.hypot(u, v) / _outline(rng, look, np.arctan2(v, u)) + rough  # > 0 inside, 1 at the centre
    mask = (inwards > 0).astype(np.float32)
    ragged = inwards
    if look.streaks > 0.05:
        rays = np.cos(np.arctan2(v, u) * int(rng.integers(14, 26)) + _noise(rng, size, 6))
        ragged = inwards + look.streaks * 0.06 * rays * (inwards < 0.35)
    softness = look.softness * float(rng.uniform(0.7, 1.4)) + 0.02
    pigment = _smoothstep(0.5 + ragged / (2 * softness)) * np.clip(1 + _noise(rng, size, 14) * 0.12, 0.5, 1)

    lean = rng.uniform(0, 2 * np.pi)
    gradient = (np.cos(lean) * u + np.sin(lean) * v) * look.asymmetry * 0.7
    clouds = _noise(rng, size, 2 * REACH * 2)
    depth = _smoothstep(0.15 + inwards * 0.9 + gradient + clouds * (0.1 + 0.25 * look.asymmetry))[..., None]
    colour = look.rim * (1 - depth) + look.core * depth
    threshold = 1.6 - 2.2 * look.patches
    cloud = _smoothstep((_noise(rng, size, 2 * REACH * 2.2) + gradient - threshold) * 0.7 + 0.5)[..., None]
    colour = colour * (1 - cloud * 0.8) + look.patch * cloud * 0.8

    if look.network > 0.05:
        turn, warp = rng.uniform(0, np.pi), _noise(rng, size, 9) * 0.9
        waves = [
            np.cos((np.cos(turn + a) * u + np.sin(turn + a) * v) * 2 * np.pi / 0.24 + warp)
            for a in (0, np.pi / 3, 2 * np.pi / 3)
        ]
        mesh = np.clip(0.55 - sum(waves) / 2.2, 0, 1) * np.clip(1.1 - inwards, 0.2, 1)
        colour = colour * (1 - 0.38 * look.network * mesh[..., None])
    within = (inwards > 0.1).astype(np.float32)
    count = rng.poisson(26 * look.globules)
    colour = colour * (1 - 0.42 * _dots(rng, within, radius, count, (0.035, 0.075))[..., None])
    nests = _dots(rng, within, radius, rng.poisson(9 * look.nests), (0.10, 0.27))
    nests = cv2.GaussianBlur(nests, (0, 0), 0.04 * radius)[..., None]
    colour = colour * (1 - 0.65 * nests) + look.patch * 0.65 * nests

    picture = skin * (1 - pigment[..., None] * (1 - colour))
    spread = _smoothstep(0.9 + inwards)
    vessels = _vessels(rng, size, radius, rng.poisson(5.5 * look.vessels)) * spread
    picture = picture * (1 - vessels[..., None] * np.array([0.12, 0.45, 0.38], np.float32))
    cysts = _dots(rng, within, radius, rng.poisson(16 * look.cysts), (0.04, 0.08))
    flakes = _smoothstep(_noise(rng, size, 2 * REACH * 13) - 0.5) * pigment * look.scale * 0.4
    middle = np.exp(-((np.hypot(u, v) / rng.uniform(0.3, 0.55)) ** 2)) * (1 + 0.25 * clouds) * look.scar * 0.75
    white = np.clip(0.6 * cysts + flakes + middle, 0, 0.85)[..., None]
    return picture * (1 - white) + np.array([0.97, 0.91, 0.88], np.float32) * white, mask


def draw_lesion(look: Look, *, image_size: tuple[int, int], rng: Generator) -> Lesion:
    """Paint one lesion large enough for every photograph ``photograph`` can take of it at ``image_size``.

    Args:
        look: what the lesion looks like on average; each lesion varies its colours, size and strengths.
        image_size: (height, width) of the photographs, in pixels.
        rng: the only source of randomness.
    """
    height, width = image_size
    size = 2 * int(np.ceil((np.hypot(height, width) / 2 + SHIFT * height) * ZOOM[1] / ZOOM[0])) + 4
    tint = rng.normal(1, 0.05) * rng.normal(1, 0.025, 3)
    radius_share = float(np.clip(look.size * rng.lognormal(0, 0.25), 0.11, 0.42))
    strengths = {
        name: getattr(look, name) * float(rng.lognormal(-0.06, 0.35)) for name in Look._fields[3:] if name != "size"
    }
    look = look._replace(
        rim=np.clip(look.rim * tint, 0.02, 1).astype(np.float32),
        core=np.clip(look.core * tint * rng.normal(1, 0.08), 0.02, 1).astype(np.float32),
        size=radius_share,
        **strengths,
    )
    canvas = _skin(rng, size, height)
    radius = radius_share * height * ZOOM[1]
    half = min(size // 2, int(np.ceil(radius * REACH)))
    box = slice(size // 2 - half, size // 2 + half)
    mask = np.zeros((size, size), np.float32)
    canvas[box, box], mask[box, box] = _paint(rng, look, canvas[box, box], radius)
    hair = float(rng.uniform(0.2, 1)) if rng.random() < 0.4 else 0.0
    hair_colour = np.array([0.16, 0.11, 0.10], np.float32) + float(rng.uniform(0, 0.3)) * np.array([1, 0.75, 0.55])
    return Lesion(np.clip(canvas, 0, 1).astype(np.float32), mask, hair, hair_colour.astype(np.float32))


class Photograph(NamedTuple):
    """A photograph of a lesion, and where in it things were drawn.

    Attributes:
        image: uint8 RGB (H, W, 3).
        mask: of the lesion, uint8 0 or 255 (H, W).
        hair: of the hairs, as ``mask``; all 0 without hair.
        ruler: of the ruler's ticks, as ``mask``; all 0 without a ruler.
    """

    image: NDArray
    mask: NDArray
    hair: NDArray
    ruler: NDArray


def _hair(rng: Generator, image_size: tuple[int, int], amount: float) -> Array:
    """Coverage (H, W) of hairs roughly in one direction, drawn at twice the size to be finer than a pixel."""
    height, width = image_size
    layer = np.zeros((2 * height, 2 * width), np.uint8)
    direction, t = rng.uniform(0, np.pi), np.linspace(0, 1, 14)[:, None]
    for _ in range(round(amount * rng.uniform(4, 26))):
        start = rng.uniform(-0.1, 1.1, 2) * (2 * width, 2 * height)
        angle = direction + rng.normal(0, 0.35)
        along = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.3, 1.3) * 2 * height
        across = np.array([-along[1], along[0]]) * rng.normal(0, 0.18)
        path = start + along * t + across * 4 * t * (1 - t)
        thick = max(1, round(height * rng.uniform(0.006, 0.016)))
        cv2.polylines(layer, [np.round(path * 16).astype(np.int32)], False, 255, thick, cv2.LINE_AA, 4)
    return cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _ruler(rng: Generator, image: Array) -> NDArray:
    """Draw a ruler's ticks along one edge of ``image`` (H, W, 3), in place; return their mask (H, W)."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    spacing, near = height * float(rng.uniform(0.06, 0.11)), int(height * rng.uniform(0.88, 0.97))
    ink = (float(rng.uniform(0.05, 0.2)),) * 3
    flip = rng.random() < 0.5
    layer = image[::-1] if flip else image
    drawn = np.ascontiguousarray(layer)
    for i in range(int(width / spacing) + 1):
        length = int(height * (0.09 if i % 5 == 0 else 0.05))
        for canvas, colour in ((drawn, ink), (mask, (255.0,))):
            cv2.line(canvas, (int(i * spacing), near), (int(i * spacing), near - length), colour, max(1, height // 130))
    layer[:] = drawn
    return mask[::-1] if flip else mask


def add_patch(image: NDArray, rng: Generator) -> tuple[NDArray, NDArray]:
    """Stick a coloured disc near a corner of the photograph's central square, as dermatoscopists do beside a lesion.

    Args:
        image: uint8 RGB (H, W, 3); it stays as it is.
        rng: the only source of randomness.

    Returns:
        The photograph with the disc, and the disc's mask, uint8 0 or 255 (H, W).
    """
    height, width = image.shape[:2]
    side = min(height, width)
    radius = side * float(rng.uniform(*PATCH_RADIUS))
    corner = rng.choice([-1, 1], 2) * (0.5 - PATCH_RADIUS[1] - 0.02) * side
    x, y = np.array([width - 1, height - 1]) / 2 + corner
    colour = PATCH_COLOURS[rng.integers(len(PATCH_COLOURS))]
    cover = np.zeros((height, width), np.uint8)
    cv2.circle(cover, (round(x * 16), round(y * 16)), round(radius * 16), 255, -1, cv2.LINE_AA, 4)
    share = cover[..., None].astype(np.float32) / 255
    painted = np.round(image * (1 - share) + np.array(colour, np.float32) * share).astype(np.uint8)
    return painted, np.where(cover > 127, 255, 0).astype(np.uint8)


def photograph(lesion: Lesion, *, image_size: tuple[int, int], rng: Generator) -> Photograph:
    """Photograph a painted lesion, with zoom, rotation, place, light, cast, hair, ruler, vignette and noise.

    Args:
        lesion: from ``draw_lesion`` with the same ``image_size``.
        image_size: (height, width), in pixels.
        rng: the only source of randomness.
    """
    height, width = image_size
    hair = ruler = np.zeros((height, width), np.uint8)
    zoom, turn = rng.uniform(*ZOOM) / ZOOM[1], rng.uniform(0, 360)
    centre = (lesion.canvas.shape[1] - 1) / 2
    matrix: Array = cv2.getRotationMatrix2D((centre, centre), turn, zoom)
    matrix[:, 2] += np.array([width - 1, height - 1]) / 2 - centre
    matrix[:, 2] += rng.uniform(-SHIFT, SHIFT, 2) * height
    image = cv2.warpAffine(lesion.canvas, matrix, (width, height), flags=cv2.INTER_LINEAR)
    mask = cv2.warpAffine(lesion.mask, matrix, (width, height), flags=cv2.INTER_LINEAR)
    mask = np.where(mask > 0.5, 255, 0).astype(np.uint8)

    if lesion.hair:
        cover = _hair(rng, image_size, lesion.hair)[..., None] * 0.85
        image = image * (1 - cover) + lesion.hair_colour * cover
        hair = np.where(cover[..., 0] > HAIR_COVER, 255, 0).astype(np.uint8)
    if rng.random() < 0.08:
        ruler = _ruler(rng, image)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    fall = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.1) * (np.cos(fall) * x + np.sin(fall) * y)
    edge = np.hypot(x * width / height, y)
    light -= rng.uniform(0, 0.22) * np.clip(edge - 0.5, 0, 1.2) ** 2
    if rng.random() < 0.12:  # the tube of the dermatoscope in view
        light *= _smoothstep((rng.uniform(1.1, 1.4) - edge) / 0.06) * 0.94 + 0.06
    cast = rng.normal(1, 0.035, 3) * rng.normal(1, 0.06)
    image = np.clip(image * light[..., None] * cast.astype(np.float32), 0, 1) ** rng.uniform(0.88, 1.15)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), rng.uniform(0.3, 0.9) * height / 96)
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.004, 0.02)
    return Photograph(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), mask, hair, ruler)
