"""Reading at indices that come from data: each is checked, and the first bad one is reported in the fault word."""

import triton
import triton.language as tl


@triton.jit
def checked(at, size, inside, fault, code):
    """Indices in [-size, size) as places in [0, size). Where `inside` holds, any other is noted in the fault word as
    `code`; it counts as 0, so that nothing outside is read."""
    place = tl.where(at < 0, at + size, at)
    good = (place >= 0) & (place < size)
    bad = tl.max((inside & (good == 0)).to(tl.int32), 0)
    tl.atomic_max(fault, code, mask=bad != 0)
    return tl.where(good, place, 0)
