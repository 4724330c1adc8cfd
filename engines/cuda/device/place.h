// Which channels and pixels a thread of a convolution has.
//
// The multiplication leaves a lane columns 2 * column and 2 * column + 1 of each of four products
// of 8 pixels. Columns may represent any pixels, so column n of product j is pixel 2 * j + n % 2 of
// the warp's run n / 2: then a lane's 8 results of a channel are one run of 8 neighbouring pixels,
// which it reads and writes as a vector.
#pragma once

#include "memory.h"

namespace bidiff::cuda {
namespace {

struct Place {
  int image, tile_x, tile_y;  // first pixel of the block
  int branch, block;          // first branch; block of output channels
  int lane_row, lane_column;  // lane / 4, lane % 4
};

BIDIFF_DEVICE Place place_of(const ConvArguments& arguments) {
  const Geometry& map = arguments.map;
  const int tiles = map.tiles_x * map.tiles_y;
  const int tile = block_index() % tiles;
  Place place;
  place.image = block_index() / tiles;
  place.tile_y = tile / map.tiles_x * map.tile_height;
  place.tile_x = tile % map.tiles_x * map.tile_width;
  place.branch = block_row() / arguments.output_blocks;
  place.block = block_row() % arguments.output_blocks;
  place.lane_row = thread_index() % 32 / 4;
  place.lane_column = thread_index() % 4;
  return place;
}

struct Pixel {
  int y, x;
};

// First pixel of run 0 to 3 of this thread's warp, from the block's first.
BIDIFF_DEVICE Pixel run_of(const Geometry& map, int run) {
  const int index = thread_index() / 32 * 4 + run, in_row = map.tile_width / kRun;
  return Pixel{index / in_row, index % in_row * kRun};
}

// Output channel of half 0 or 1 of a tile of 16.
BIDIFF_DEVICE int channel_of(const Place& place, int tile, int half) {
  return place.block * kBlockChannels + 16 * tile + 8 * half + place.lane_row;
}

}  // namespace
}  // namespace bidiff::cuda
