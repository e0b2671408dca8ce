"""Ways in which a file goes bad, drawn at random."""

import random
from collections.abc import Iterator


def damaged(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """So many versions of a file that differ from it: flipped bits above all, also cut, longer and rearranged ones."""
    draw = random.Random(seed)
    while count > 0:
        changed = draw.choices((flipped, cut, extended, rearranged), (7, 1, 1, 1))[0](content, draw)
        if changed != content:
            count -= 1
            yield changed


def flipped(content: bytes, draw: random.Random) -> bytes:
    """One to eight bits changed; every other time near the end, where an archive has its directory."""
    changed = bytearray(content)
    first = draw.choice((0, max(0, len(content) - 600)))
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(first, len(content))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.choice((draw.randrange(len(content)), len(content) - draw.randint(1, 99)))]


def extended(content: bytes, draw: random.Random) -> bytes:
    return content + draw.choice((draw.randbytes(draw.randint(1, 200)), bytes(4096), content[-22:], content))


def rearranged(content: bytes, draw: random.Random) -> bytes:
    """Two blocks swapped."""
    size = draw.choice((1, 16, 64, 512))
    first, second = sorted(draw.sample(range(0, len(content) - size, size), 2))
    blocks = content[first : first + size], content[second : second + size]
    return content[:first] + blocks[1] + content[first + size : second] + blocks[0] + content[second + size :]
