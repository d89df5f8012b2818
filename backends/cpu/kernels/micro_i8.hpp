// Products of bytes for micro.hpp: unsigned or signed bytes times signed bytes, summed exactly in int32.
//
// A panel holds kBytesTogether reduction steps of a column together (see byte_place); a segment that is no multiple of so
// many is padded in the panel only. AVX-512 VNNI multiplies four unsigned by signed bytes, so signed rows are offset by 128
// and the caller subtracts 128 * column sum. Without VNNI rows are widened to int16 when they are copied, panels when they
// are loaded: pairs of int16 are multiplied and added exactly, where products of bytes would saturate.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa.hpp"
#include "micro.hpp"

namespace mcomp {

#if defined(MCOMP_VNNI)
using DefaultTileI8 = Tile<14, 2>;
#elif defined(MCOMP_ISA_AVX512)
using DefaultTileI8 = Tile<12, 2>;
#elif defined(MCOMP_ISA_AVX2)
using DefaultTileI8 = Tile<6, 2>;
#else
using DefaultTileI8 = Tile<4, 2>;
#endif

namespace detail {

typedef int16_t vi16 __attribute__((vector_size(kVectorBytes)));
typedef uint16_t vu16 __attribute__((vector_size(kVectorBytes)));

// Where a panel of `width` columns holds reduction step k of column c.
constexpr int64_t byte_place(int64_t k, int64_t c, int64_t width) {
  return (k / kBytesTogether * width + c) * kBytesTogether + k % kBytesTogether;
}

// What a signed row's bytes are offset by before they are multiplied.
template <class A>
constexpr int32_t row_offset() {
  return std::is_same<A, int8_t>::value ? 128 : 0;
}

#if defined(MCOMP_VNNI)

struct ByteProducts {
  using Row = vi32;
  using Columns = vi32;
  static MCOMP_INLINE Row row(uint32_t word) { return vset(static_cast<int32_t>(word)); }
  static MCOMP_INLINE Columns columns(const int8_t* b) { return in_register(vload(reinterpret_cast<const int32_t*>(b))); }
  static MCOMP_INLINE vi32 add(vi32 acc, const Row& a, const Columns& b) {
    return (vi32)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
  }
};

#else

// Bytes 0, 2 and 1, 3 of every word as pairs of int16.
struct ByteProducts {
  struct Row {
    vi16 even, odd;
  };
  using Columns = Row;
  static MCOMP_INLINE Row row(uint32_t word) {
    const vi16 bytes = (vi16)vset(static_cast<int32_t>(word));
    return {bytes & 0xff, (vi16)((vu16)bytes >> 8)};
  }
  static MCOMP_INLINE Columns columns(const int8_t* b) {
    const vi16 bytes = (vi16)vload(reinterpret_cast<const int32_t*>(b));
    return {(bytes << 8) >> 8, bytes >> 8};
  }
  // Sums of the products of neighbouring int16.
  static MCOMP_INLINE vi32 pairs(vi16 a, vi16 b) {
#if defined(MCOMP_ISA_AVX512)
    return (vi32)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(MCOMP_ISA_AVX2)
    return (vi32)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    const vi32 products = (vi32)(a * b);  // 255 * -128 fits 16 bits
    return ((products << 16) >> 16) + (products >> 16);
#endif
  }
  static MCOMP_INLINE vi32 add(vi32 acc, const Row& a, const Columns& b) {
    return acc + (pairs(a.even, b.even) + pairs(a.odd, b.odd));
  }
};

#endif

// Rows of A (uint8_t or int8_t) with four steps of int8_t together, for micro_tile.
template <class A>
struct ByteDot : ByteProducts {
  using Element = A;
  using Panel = int8_t;
  using Acc = vi32;
  using Row = ByteProducts::Row;
  using Out = int32_t;
  static constexpr int kLength = 4;
  static constexpr int kPanel = 4 * kLanes;
  static constexpr int kWidth = kLanes;
  static constexpr bool kStarts = true;
  static constexpr uint32_t kFlip = row_offset<A>() != 0 ? 0x80808080u : 0u;

  static MCOMP_INLINE Row row(const char* p) {
    uint32_t word;
    std::memcpy(&word, p, 4);
    return ByteProducts::row(word ^ kFlip);
  }
};

#if defined(MCOMP_VNNI)

// How products of whole matrices read their rows, what is added to the rows' bytes there, and the products themselves.
template <class A>
using ProductElement = A;
template <class A>
using ProductDot = ByteDot<A>;
template <class A>
constexpr int32_t product_offset() {
  return row_offset<A>();
}

#else

// Rows that were widened to int16 with panels that hold two steps together, for micro_tile.
struct WideDot {
  using Element = int16_t;
  using Panel = int8_t;
  using Acc = vi32;
  using Row = vi16;
  using Columns = vi16;
  using Out = int32_t;
  static constexpr int kLength = 2;
  static constexpr int kPanel = 2 * kLanes;
  static constexpr int kWidth = kLanes;
  static constexpr bool kStarts = true;

  static MCOMP_INLINE Row row(const char* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return (vi16)vset(pair);
  }
  static MCOMP_INLINE Columns columns(const int8_t* b) {
#if defined(MCOMP_ISA_AVX512)
    return in_register((vi16)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b))));
#elif defined(MCOMP_ISA_AVX2)
    return in_register((vi16)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b))));
#else
    typedef int8_t Half __attribute__((vector_size(kVectorBytes / 2)));
    Half bytes;
    std::memcpy(&bytes, b, sizeof bytes);
    return __builtin_convertvector(bytes, vi16);
#endif
  }
  static MCOMP_INLINE vi32 add(vi32 acc, const Row& a, const Columns& b) { return acc + ByteProducts::pairs(a, b); }
};

template <class A>
using ProductElement = int16_t;
template <class A>
using ProductDot = WideDot;
template <class A>
constexpr int32_t product_offset() {
  return 0;
}

#endif

// Bytes of an element of the rows that products read.
constexpr int64_t kProductBytes = sizeof(ProductElement<uint8_t>);

}  // namespace detail
}  // namespace mcomp
