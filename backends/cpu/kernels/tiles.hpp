// The register tile for a product with few columns: one vector wide where two would be half empty.
//
//   using T0 = TileFor<8>;       // float products with at most 8 columns (of a group)
//   using T1 = TileForI8<16>;    // int8 products with at most 16
#pragma once

#include <type_traits>

#include "micro.hpp"
#include "micro_i8.hpp"

namespace mcomp {

template <int Columns>
using TileFor = std::conditional_t<(Columns <= kLanes), Tile<DefaultTile::MR, 1>, DefaultTile>;
template <int Columns>
using TileForI8 = std::conditional_t<(Columns <= kLanes), Tile<DefaultTileI8::MR, 1>, DefaultTileI8>;

}  // namespace mcomp
