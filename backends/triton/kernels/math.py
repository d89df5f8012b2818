"""Functions of one or two numbers that the language lacks, with torch's results for NaN, infinities and signed zeros.

Accurate to a few units in the last place of float32; they rely on products and sums not being fused.
"""

import triton
import triton.language as tl

ALL = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def maximum(a, b):
    """The larger; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    """The smaller; NaN if either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def is_inf(x):
    return (x == float("inf")) | (x == -float("inf"))


@triton.jit
def is_finite(x):
    return (x - x) == 0


@triton.jit
def trunc(x):
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))


@triton.jit
def round_even(x):
    """To the nearest whole number, halves to even. What is 2**23 or more is whole already."""
    magnitude = tl.abs(x)
    low = tl.floor(magnitude)
    rest = magnitude - low
    odd = low - 2.0 * tl.floor(low * 0.5)
    up = (rest > 0.5) | ((rest == 0.5) & (odd == 1.0))
    whole = tl.where(magnitude < 8388608.0, low + tl.where(up, 1.0, 0.0), magnitude)
    return tl.where(x < 0, -whole, whole)


@triton.jit
def expm1(x):
    """exp(x) - 1 by Kahan's correction of what rounding of exp(x) loses (Higham, Accuracy and Stability, 1.14.1)."""
    u = tl.exp(x)
    v = u - 1.0
    safe = tl.where((v == 0) | (v == -1.0) | (u == float("inf")), 2.0, u)
    corrected = v * (x / tl.log(safe))
    small = tl.where(v == 0, x, corrected)
    return tl.where((v == -1.0) | (u == float("inf")), v, small)


@triton.jit
def log1p(x):
    """log(1 + x) by Kahan's correction."""
    u = 1.0 + x
    d = u - 1.0
    safe = tl.where((d == 0) | (u == float("inf")), 1.0, d)
    return tl.where(d == 0, x, tl.where(u == float("inf"), u, tl.log(u) * (x / safe)))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    e = expm1(-2.0 * tl.abs(x))
    t = -e / (e + 2.0)
    return tl.where(x < 0, -t, t)


@triton.jit
def sinh(x):
    a = tl.abs(x)
    e = expm1(a)
    small = 0.5 * (e + e / (e + 1.0))
    half = tl.exp(0.5 * a)
    s = tl.where(a > 80.0, (0.5 * half) * half, small)
    return tl.where(x < 0, -s, s)


@triton.jit
def cosh(x):
    half = tl.exp(0.5 * tl.abs(x))
    e = half * half
    return tl.where(tl.abs(x) > 80.0, (0.5 * half) * half, 0.5 * (e + 1.0 / e))


@triton.jit
def asinh(x):
    a = tl.abs(x)
    small = log1p(a + a * a / (1.0 + tl.sqrt(a * a + 1.0)))
    s = tl.where(a > 1e9, tl.log(a) + 0.6931471805599453, small)
    return tl.where(x < 0, -s, s)


@triton.jit
def acosh(x):
    t = x - 1.0
    small = log1p(t + tl.sqrt(2.0 * t + t * t))
    return tl.where(x > 1e9, tl.log(x) + 0.6931471805599453, tl.where(x < 1.0, float("nan"), small))


@triton.jit
def atanh(x):
    a = tl.abs(x)
    s = 0.5 * log1p(2.0 * a / (1.0 - a))
    return tl.where(x < 0, -s, s)


@triton.jit
def atan(x):
    """By reduction to [-tan(pi/8), tan(pi/8)] and a polynomial (Cephes, atanf.c)."""
    a = tl.abs(x)
    far = a > 2.414213562373095
    middle = (a > 0.4142135623730951) & (a <= 2.414213562373095)
    t = tl.where(far, -1.0 / tl.where(a == 0, 1.0, a), tl.where(middle, (a - 1.0) / (a + 1.0), a))
    base = tl.where(far, 1.5707963267948966, tl.where(middle, 0.7853981633974483, 0.0))
    z = t * t
    p = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1
    y = base + (p * z * t + t)
    return tl.where(x < 0, -y, tl.where(x == 0, x, y))


@triton.jit
def asin(x):
    """By a polynomial on [0, 1/2] and asin(a) = pi/2 - 2 asin(sqrt((1 - a)/2)) above (Cephes, asinf.c)."""
    a = tl.abs(x)
    big = a > 0.5
    z = tl.where(big, 0.5 * (1.0 - a), a * a)
    s = tl.where(big, tl.sqrt(z), a)
    p = ((((4.2163199048e-2 * z + 2.4181311049e-2) * z + 4.5470025998e-2) * z + 7.4953002686e-2) * z
         + 1.6666752422e-1) * z * s + s
    y = tl.where(big, 1.5707963267948966 - (p + p), p)
    return tl.where(a > 1.0, float("nan"), tl.where(x < 0, -y, y))


@triton.jit
def acos(x):
    a = tl.abs(x)
    half = 2.0 * asin(tl.sqrt(0.5 * (1.0 - a)))
    near = tl.where(x < 0, 3.141592653589793 - half, half)
    return tl.where(a > 0.5, near, 1.5707963267948966 - asin(x))


@triton.jit
def atan2(a, b):
    """The angle of the point (b, a)."""
    both = is_inf(a) & is_inf(b)
    y = tl.where(both, 1.0, tl.abs(a))
    x = tl.where(both, 1.0, tl.abs(b))
    swap = y > x
    low = tl.where(swap, x, y)
    high = tl.where(swap, y, x)
    angle = atan(tl.where(high == 0, 0.0, low / tl.where(high == 0, 1.0, high)))
    angle = tl.where(swap, 1.5707963267948966 - angle, angle)
    angle = tl.where(is_negative(b), 3.141592653589793 - angle, angle)
    angle = tl.where((a != a) | (b != b), float("nan"), angle)
    return tl.where(is_negative(a), -angle, angle)


@triton.jit
def is_negative(x):
    """Whether the sign bit is set; float32 and float64."""
    if x.dtype == tl.float64:
        return x.to(tl.int64, bitcast=True) < 0
    else:
        return x.to(tl.int32, bitcast=True) < 0


@triton.jit
def copysign(a, b):
    magnitude = tl.abs(a)
    return tl.where(is_negative(b), -magnitude, magnitude)


@triton.jit
def hypot(a, b):
    x = tl.abs(a)
    y = tl.abs(b)
    high = tl.maximum(x, y)
    low = tl.minimum(x, y)
    safe = tl.where((high == 0) | is_inf(high), 1.0, high)
    q = low / safe
    found = high * tl.sqrt(1.0 + q * q)
    found = tl.where((a != a) | (b != b), float("nan"), found)
    return tl.where(is_inf(x) | is_inf(y), float("inf"), found)


@triton.jit
def pow(a, b):
    """a to the power b in float64 inside, with the C library's special cases."""
    x = a.to(tl.float64)
    y = tl.where(a == a, b, b).to(tl.float64)
    magnitude = tl.abs(x)
    safe = tl.where(magnitude == 1.0, 1.0, magnitude)
    found = tl.exp2(y * tl.log2(safe))
    whole = (tl.floor(y) == y) & (y - y == 0)
    odd = whole & (tl.floor(y * 0.5) * 2.0 != y)
    negative = is_negative(x)
    found = tl.where(negative & odd, -found, found)
    finite_base = (x - x) == 0
    found = tl.where((x < 0) & finite_base & (whole == 0) & (y - y == 0), float("nan"), found)
    found = tl.where((magnitude == 1.0) & ((x == 1.0) | is_inf(y)), 1.0, found)
    found = tl.where((x != x) | (y != y), float("nan"), found)
    found = tl.where((y == 0) | (x == 1.0), 1.0, found)
    return found.to(a.dtype)


@triton.jit
def gelu_erf(x):
    return tl.where(x == float("inf"), x, 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476)))


@triton.jit
def gelu_tanh(x):
    """arXiv 1606.08415, with tanh(u) as 2 sigmoid(2u) - 1."""
    u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return tl.where(x == float("inf"), x, x * sigmoid(2.0 * u))


@triton.jit
def softplus(x, beta, threshold):
    scaled = x * beta
    low = tl.where(scaled > threshold, 0.0, scaled)
    return tl.where(scaled > threshold, x, log1p(tl.exp(low)) / beta)


@triton.jit
def log_sigmoid(x):
    return minimum(x, 0.0) - log1p(tl.exp(-tl.abs(x)))


@triton.jit
def logaddexp(a, b):
    high = maximum(a, b)
    low = minimum(a, b)
    same = (a == b) & is_inf(a)
    return tl.where(same, a, high + log1p(tl.exp(tl.where(same, 0.0, low - high))))


@triton.jit
def elu(x, alpha, scale, input_scale):
    return tl.where(x < 0, expm1(x * input_scale) * (alpha * scale), x * scale)


@triton.jit
def floor_div_int(a, b):
    q = a // b
    r = a - q * b
    return q - ((r != 0) & ((r < 0) != (b < 0))).to(q.dtype)


@triton.jit
def trunc_div_int(a, b):
    q = a // b
    r = a - q * b
    return q + ((r != 0) & ((r < 0) != (a < 0))).to(q.dtype)


@triton.jit
def fmod(a, b):
    """a - b * trunc(a / b), exact while the quotient is below 2**24; infinite b gives a."""
    q = trunc(a / b)
    r = a - q * b
    r = tl.where((r != 0) & ((r < 0) != (a < 0)), r + copysign(b, a), r)
    r = tl.where(tl.abs(r) >= tl.abs(b), r - copysign(b, a), r)
    r = tl.where(is_inf(b) & is_finite(a), a, r)
    r = tl.where(r == 0, copysign(r, a), r)
    return tl.where(is_inf(a) | (b == 0), float("nan"), r)


@triton.jit
def remainder(a, b):
    """a - b * floor(a / b)."""
    r = fmod(a, b)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)


@triton.jit
def floor_div(a, b):
    """floor(a / b) as Python and torch have it: from the exact remainder."""
    r = fmod(a, b)
    q = (a - r) / b
    q = tl.where((r != 0) & ((b < 0) != (r < 0)), q - 1.0, q)
    low = tl.floor(q)
    low = tl.where(q - low > 0.5, low + 1.0, low)
    low = tl.where(q == 0, copysign(q * 0.0, a / b), low)
    return tl.where(b == 0, a / b, low)


@triton.jit
def quantized(x, scale, zero, low, high):
    """Integers of a scale: clamp(round(x / scale) + zero); NaN becomes 0."""
    q = round_even(x / scale) + zero
    q = tl.minimum(tl.maximum(q, low), high)
    return tl.where(x != x, 0.0, q)


@triton.jit
def limited(x, largest):
    """Numbers no larger in magnitude than a type can hold; NaN becomes 0."""
    return tl.where(x != x, 0.0, tl.minimum(tl.maximum(x, -largest), largest))
