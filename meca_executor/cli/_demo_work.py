"""What `meca demo` runs in the workers: rows of a picture, and calls that go wrong on purpose."""

from __future__ import annotations

import cmath
import math
import os
import time
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

# The Julia set of C has no inside, so every pixel escapes and no row is a waste of time.
C = -0.835 - 0.2321j
TURN = cmath.exp(0.16j)  #: the plane is turned a little, to fill the frame
SPAN = 3.08  #: width of the part of the plane that the picture shows
FAR = 60.0  #: |z| from which z is taken to have escaped
MOST_STEPS = 240
LIGHT = cmath.exp(1j * math.radians(125))  #: where the light comes from
SHADES = 1024  #: steps of the palette

# Night, plum, ember, sand, ivory, ice and back: (place on the ring, red, green, blue).
STOPS = (
    (0.00, (7, 8, 26)),
    (0.18, (38, 16, 66)),
    (0.36, (150, 36, 84)),
    (0.52, (244, 120, 64)),
    (0.66, (255, 214, 130)),
    (0.76, (250, 248, 226)),
    (0.86, (90, 186, 200)),
    (0.94, (20, 60, 110)),
    (1.00, (7, 8, 26)),
)


class Row(NamedTuple):
    """One row of pixels, and who computed it when."""

    y: int
    pixels: bytes  #: red, green, blue of each pixel from left to right
    worker: int  #: process id
    began: float  #: seconds since the epoch, by the worker's clock
    ended: float


@lru_cache(maxsize=1)
def palette() -> list[tuple[float, float, float]]:
    """Return the ring of colours, `SHADES` long; made once a process."""
    colours = []
    for (start, dark), (stop, bright) in pairwise(STOPS):
        steps = round(stop * SHADES) - round(start * SHADES)
        for step in range(steps):
            t = step / steps
            t *= t * (3 - 2 * t)  # eased, so that no stop shows as an edge
            red, green, blue = (a + (b - a) * t for a, b in zip(dark, bright, strict=True))
            colours.append((red, green, blue))
    return colours


def render_row(y: int, width: int, height: int) -> Row:
    """Return row `y` of the picture; pure Python, about 5 ms for 900 pixels on a usual core."""
    began = time.time()
    pixel = SPAN / width
    across, down = TURN * pixel, TURN * complex(0, (height - 1) / 2 - y) * pixel
    pixels = bytearray()
    for x in range(width):
        pixels.extend(_colour((x - (width - 1) / 2) * across + down, pixel))
    return Row(y, bytes(pixels), os.getpid(), began, time.time())


def _colour(z: complex, pixel: float) -> tuple[int, int, int]:
    """Return the colour of a point: hue by how fast it escapes, light by the slope of that field there."""
    slope = z  # derivative of z by its start, less the factor 2 of each step
    z = z * z + C
    steps = 1
    while abs(z) < FAR and steps < MOST_STEPS:
        # Three steps a test: z may run past FAR, and the formulas below hold for any z beyond it.
        slope *= z
        z = z * z + C
        slope *= z
        z = z * z + C
        slope *= z
        z = z * z + C
        steps += 3
    if abs(z) < FAR or not slope:
        return 7, 8, 26
    size = math.log(abs(z))
    escape = steps + 1 - math.log2(size)  # continuous: no bands between whole numbers of steps
    normal = z / slope
    steepness = abs(normal)
    distance = steepness * size / 2.0**steps / pixel  # to the set, in pixels
    light = 0.70 + 0.30 * (normal.real * LIGHT.real + normal.imag * LIGHT.imag) / steepness
    if distance < 1:
        light *= 0.25 + 0.75 * math.sqrt(distance)  # darker next to the set, which also softens its jagged edge
    red, green, blue = palette()[int((math.sqrt(max(escape, 0.0)) * 0.19 + 0.73) * SHADES) % SHADES]
    return int(red * light), int(green * light), int(blue * light)


class OutOfPaint(Exception):
    """An exception class of the program's own."""


def paint_wall(colour: str) -> None:
    """Fail the way a user's function does."""
    raise OutOfPaint(colour)


def end_worker() -> None:
    """End this process at once, as a crash or a kill does."""
    os._exit(9)
