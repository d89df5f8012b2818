// The register tile of a product by how many vectors of columns it is wide: where panels of two vectors would pad many
// columns, one or three may pad less.
//
//   using T0 = TileFor<3, 1, 2>;       // float products: three vectors wide on AVX-512, one on AVX2, two on others
//   using T1 = TileForI8<1, 2, 2>;     // int8 products
#pragma once

#include "micro.hpp"
#include "micro_i8.hpp"

namespace mcomp {
namespace detail {

constexpr int isa_width(int avx512, int avx2, int portable) {
  return kVectorBytes == 64 ? avx512 : kVectorBytes == 32 ? avx2 : portable;
}
// As many rows as keep the sums of a tile in registers when `Default` does. Tall tiles of one vector are 16 high: images
// of powers of two are cut into whole ones.
template <class Default, int Vectors>
constexpr int tile_rows() {
  if (Vectors < Default::NV && Default::MR > 8) return 16;
  if (Vectors <= Default::NV) return Default::MR;
  return Default::MR * Default::NV / Vectors >= 9 ? 8 : Default::MR * Default::NV / Vectors;
}
template <class Default, int Vectors>
using tile_of = Tile<tile_rows<Default, Vectors>(), Vectors>;

}  // namespace detail

template <int Avx512, int Avx2, int Portable>
using TileFor = detail::tile_of<DefaultTile, detail::isa_width(Avx512, Avx2, Portable)>;
template <int Avx512, int Avx2, int Portable>
using TileForI8 = detail::tile_of<DefaultTileI8, detail::isa_width(Avx512, Avx2, Portable)>;

}  // namespace mcomp
