// sin, cos and tan for float over the whole range of floats; included by math.hpp.
//
//     for (int64_t i = r.begin; i < r.end; ++i) { c[i] = math::cos(angle[i]); s[i] = math::sin(angle[i]); }
// The argument is written m 2^i with |m| < 2^31 and multiplied by 2^i mod 2 pi from a table, exactly up to 2^-58,
// so that large angles need no branch.
#pragma once

#include "math.hpp"

namespace mcomp {
namespace math {
namespace detail {

// 2^i mod 2 pi for i in [0, 98), as the sum of two arrays; the first has 28 significant bits.
static const double kResidue[98] = {
    0x1.0000000000000p+0,  0x1.0000000000000p+1,  -0x1.243f6a8000000p+1, 0x1.b7812ae000000p+0,  -0x1.6cbe3fa000000p+1,
    0x1.2b0bad6000000p-1,  0x1.2b0bad6000000p+0,  0x1.2b0bad6000000p+1,  -0x1.9c501fc000000p+0, 0x1.87ef4ac000000p+1,
    -0x1.460d4ee000000p-3, -0x1.460d4ee000000p-2, -0x1.460d4ee000000p-1, -0x1.460d4ee000000p+0, -0x1.460d4ee000000p+1,
    0x1.304999c000000p+0,  0x1.304999c000000p+1,  -0x1.87586de000000p+0, -0x1.87586de000000p+1, 0x1.58e8ec2000000p-3,
    0x1.58e8ec2000000p-2,  0x1.58e8ec2000000p-1,  0x1.58e8ec2000000p+0,  0x1.58e8ec2000000p+1,  -0x1.c9b6498000000p-1,
    -0x1.c9b6498000000p+0, 0x1.5a89210000000p+1,  -0x1.bcb4a24000000p-1, -0x1.bcb4a24000000p+0, 0x1.678ac84000000p+1,
    -0x1.54a767e000000p-1, -0x1.54a767e000000p+0, -0x1.54a767e000000p+1, 0x1.ebc26ba000000p-1,  0x1.ebc26ba000000p+0,
    -0x1.387cff0000000p+1, 0x1.668ad94000000p+0,  0x1.668ad94000000p+1,  -0x1.5ca6dfe000000p-1, -0x1.5ca6dfe000000p+0,
    -0x1.5ca6dfe000000p+1, 0x1.abc6aac000000p-1,  0x1.abc6aac000000p+0,  -0x1.7878bfc000000p+1, 0x1.9a6f588000000p-2,
    0x1.9a6f588000000p-1,  0x1.9a6f588000000p+0,  -0x1.89d0120000000p+1, 0x1.09f4684000000p-3,  0x1.09f4684000000p-2,
    0x1.09f4684000000p-1,  0x1.09f4684000000p+0,  0x1.09f4684000000p+1,  -0x1.10569a0000000p+1, 0x1.0392366000000p+1,
    -0x1.1d1afdc000000p+1, 0x1.d412de4000000p+0,  -0x1.502c8c4000000p+1, 0x1.07cca42000000p+0,  0x1.07cca42000000p+1,
    -0x1.14a6222000000p+1, 0x1.f5e64c6000000p+0,  -0x1.2e591e4000000p+1, 0x1.8f1a5c4000000p+0,  0x1.8f1a5c4000000p+1,
    -0x1.82ac838000000p-5, -0x1.82ac838000000p-4, -0x1.82ac838000000p-3, -0x1.82ac838000000p-2, -0x1.82ac838000000p-1,
    -0x1.82ac838000000p+0, -0x1.82ac838000000p+1, 0x1.ee66398000000p-3,  0x1.ee66398000000p-2,  0x1.ee66398000000p-1,
    0x1.ee66398000000p+0,  -0x1.35d9310000000p+1, 0x1.711a112000000p+0,  0x1.711a112000000p+1,  -0x1.082d21a000000p-1,
    -0x1.082d21a000000p+0, -0x1.082d21a000000p+1, 0x1.13e5276000000p+1,  -0x1.f8ea37c000000p+0, 0x1.2b5532c000000p+1,
    -0x1.9b2a0a2000000p+0, 0x1.8915606000000p+1,  -0x1.214a9ba000000p-3, -0x1.214a9ba000000p-2, -0x1.214a9ba000000p-1,
    -0x1.214a9ba000000p+0, -0x1.214a9ba000000p+1, 0x1.c35466c000000p+0,  -0x1.60eb03c000000p+1, 0x1.89a58c4000000p-1,
    0x1.89a58c4000000p+0,  0x1.89a58c4000000p+1,  -0x1.0f45204000000p-3,
};
static const double kResidueLow[98] = {
    0x0.0p+0,
    0x0.0p+0,
    -0x1.10b4611a62633p-28,
    0x1.de973dcb3b39ap-29,
    0x1.9bc5b961b1acep-29,
    -0x1.4e17960fafbfep-30,
    -0x1.4e17960fafbfep-29,
    -0x1.4e17960fafbfep-28,
    0x1.4c71cb18f8747p-30,
    0x1.b6ed46a6de9d7p-28,
    0x1.d262c335ad7a1p-32,
    0x1.d262c335ad7a1p-31,
    0x1.d262c335ad7a1p-30,
    0x1.d262c335ad7a1p-29,
    0x1.d262c335ad7a1p-28,
    0x1.6af3cf0b7aae9p-29,
    0x1.6af3cf0b7aae9p-28,
    -0x1.d666181b68310p-31,
    -0x1.d666181b68310p-30,
    -0x1.a7eaaf351b553p-32,
    -0x1.a7eaaf351b553p-31,
    -0x1.a7eaaf351b553p-30,
    -0x1.a7eaaf351b553p-29,
    -0x1.a7eaaf351b553p-28,
    -0x1.8226fe1264360p-30,
    -0x1.8226fe1264360p-29,
    -0x1.c5ca73e0074b5p-30,
    0x1.8ccc9eb33ee4bp-33,
    0x1.8ccc9eb33ee4bp-32,
    0x1.424df4f0ca3fdp-28,
    0x1.cf9e231cc8718p-30,
    0x1.cf9e231cc8718p-29,
    0x1.cf9e231cc8718p-28,
    -0x1.403d62b032e76p-30,
    -0x1.403d62b032e76p-29,
    0x1.af0e3c356ab57p-28,
    0x1.bb436614df386p-30,
    0x1.bb436614df386p-29,
    -0x1.55c3ec160cab4p-30,
    -0x1.55c3ec160cab4p-29,
    -0x1.55c3ec160cab4p-28,
    0x1.94b223b92432cp-30,
    0x1.94b223b92432cp-29,
    0x1.07fb853d839f2p-29,
    0x1.8afe657e60255p-32,
    0x1.8afe657e60255p-31,
    0x1.8afe657e60255p-30,
    -0x1.2cd4b96cc9422p-30,
    -0x1.6d7ee7008f78ap-34,
    -0x1.6d7ee7008f78ap-33,
    -0x1.6d7ee7008f78ap-32,
    -0x1.6d7ee7008f78ap-31,
    -0x1.6d7ee7008f78ap-30,
    -0x1.c773d49aaa1f8p-28,
    0x1.81ccb7e50e243p-28,
    0x1.f2e50eafb9e54p-28,
    0x1.ecfcfcf3ac5b5p-29,
    0x1.b89137b293f04p-29,
    0x1.928b3199eca6ep-29,
    0x1.928b3199eca6ep-28,
    -0x1.eb9dfde689157p-28,
    -0x1.8d0f35655f8f5p-29,
    0x1.623c69803e0d8p-28,
    -0x1.56965f290c0efp-31,
    -0x1.56965f290c0efp-30,
    0x1.001bd445e5556p-34,
    0x1.001bd445e5556p-33,
    0x1.001bd445e5556p-32,
    0x1.001bd445e5556p-31,
    0x1.001bd445e5556p-30,
    0x1.001bd445e5556p-29,
    0x1.001bd445e5556p-28,
    0x1.0ec09a62d0debp-32,
    0x1.0ec09a62d0debp-31,
    0x1.0ec09a62d0debp-30,
    0x1.0ec09a62d0debp-29,
    -0x1.f3c6b791847c5p-36,
    -0x1.e66658a9814b9p-29,
    -0x1.e66658a9814b9p-28,
    0x1.13f76c94d82d9p-31,
    0x1.13f76c94d82d9p-30,
    0x1.13f76c94d82d9p-29,
    -0x1.db543250c56f4p-28,
    -0x1.8eb98b77da837p-29,
    -0x1.f814a975e080fp-30,
    -0x1.97d6baaa5474cp-33,
    0x1.ee6deadf7a37dp-29,
    0x1.db989c517d499p-32,
    0x1.db989c517d499p-31,
    0x1.db989c517d499p-30,
    0x1.db989c517d499p-29,
    0x1.db989c517d499p-28,
    0x1.8fcb337ab9ec9p-29,
    0x1.fc5b49815e257p-30,
    0x1.dc40bb622ebdap-33,
    0x1.dc40bb622ebdap-32,
    0x1.dc40bb622ebdap-31,
    -0x1.9a43241d6b3c8p-32,
};

struct Angle {
  float r;           // in [-pi/4, pi/4]
  int32_t quadrant;  // low two bits count quarter turns
};
inline Angle reduce_angle(float x) {
  const double wide = double(x);
  int64_t i = int64_t((uint64_t(bits_of(wide)) >> 52) & 0x7ff) - 1053;
  i = i < 0 ? 0 : i;
  i = i > 97 ? 97 : i;
  const double m = wide * double_of(int64_t(uint64_t(1023 - i) << 52));
  const double v = m * kResidue[i];
  const double low = m * kResidueLow[i];
  const double t = (v + low) * 0.63661977236758134 + kRoundD;
  const double k = t - kRoundD;
  double r = v - k * 0x1.921fap+0;
  r = r - k * 0x1.54442p-20;
  r = (r - k * 0x1.a308d313198a3p-41) + low;
  return {float(r), int32_t(bits_of(t) & 3)};
}
inline float sin_reduced(float r) {
  const float t = r * r;
  float q = 2.71827457e-6f;
  q = q * t - 1.98393303e-4f;
  q = q * t + 8.33332911e-3f;
  q = q * t - 0.166666672f;
  return r + q * (t * r);
}
inline float cos_reduced(float r) {
  const float t = r * r;
  float q = -2.7209893e-7f;
  q = q * t + 2.47995158e-5f;
  q = q * t - 1.38888834e-3f;
  q = q * t + 4.16666679e-2f;
  return 1.0f + (q * (t * t) - 0.5f * t);
}

}  // namespace detail

inline float sin(float x) {
  const detail::Angle a = detail::reduce_angle(x);
  const float s = detail::sin_reduced(a.r), c = detail::cos_reduced(a.r);
  const float y = (a.quadrant & 1) ? c : s;
  const float signed_y = (a.quadrant & 2) ? -y : y;
  return x == 0.0f ? x : signed_y;
}
inline double sin(double x) { return std::sin(x); }

inline float cos(float x) {
  const detail::Angle a = detail::reduce_angle(x);
  const float s = detail::sin_reduced(a.r), c = detail::cos_reduced(a.r);
  const float y = (a.quadrant & 1) ? s : c;
  return ((a.quadrant + 1) & 2) ? -y : y;
}
inline double cos(double x) { return std::cos(x); }

inline float tan(float x) {
  const detail::Angle a = detail::reduce_angle(x);
  const float s = detail::sin_reduced(a.r), c = detail::cos_reduced(a.r);
  const float y = (a.quadrant & 1) ? -c / s : s / c;
  return x == 0.0f ? x : y;
}
inline double tan(double x) { return std::tan(x); }

}  // namespace math
}  // namespace mcomp
