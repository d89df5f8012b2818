"""Reading at indices that come from data: each is checked, and the first bad one is reported in the fault word."""

import triton
import triton.language as tl


@triton.jit
def checked(at, size, inside, fault, code, WRAP: tl.constexpr):
    """Indices as places in [0, size); with WRAP, negative ones count from the end. Where `inside` holds, one that is out of
    range is noted in the fault word as `code`; it counts as 0, so that nothing outside is read."""
    place = at
    if WRAP:
        place = tl.where(at < 0, at + size, at)
    good = (place >= 0) & (place < size)
    bad = tl.max((inside & (good == 0)).to(tl.int32), 0)
    tl.atomic_max(fault, bad * code)
    return tl.where(good, place, 0)
