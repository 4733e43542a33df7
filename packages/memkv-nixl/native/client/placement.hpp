// SPDX-License-Identifier: Apache-2.0
// Which server, and which of its lanes, holds a key. Pure; the same to the bit as memkv_core/router.py.
//
//     seed      = xxh3_64(namespace, 0)
//     hash      = xxh3_64(key, seed)
//     slot      = hash % 4096                       ranks the servers
//     lane slot = (hash >> 32) % 4096               ranks the lanes of the chosen server
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace memkv {

std::uint64_t namespace_seed(std::string_view name);
std::uint64_t key_hash(std::string_view key, std::uint64_t seed);

// A table of 4096 rows of members, best first: by the greatest of xxh3_64(name, row + 4096 × draw), draw < weight.
// Immutable, shared by threads.
class Ranking {
  public:
    // Keeps the first `kept` of each row. weights: one for each name, or empty for 1 each.
    Ranking(const std::vector<std::string> &names, std::size_t kept, std::span<const unsigned> weights = {});

    std::uint16_t member(std::size_t slot, std::size_t order) const { return rows_[slot * kept_ + order]; }
    std::uint16_t server_of(std::uint64_t hash, std::size_t order) const;

  private:
    std::size_t kept_;
    std::vector<std::uint16_t> rows_;
};

// The lane of a key's hash on a server of lane_count lanes. The table of each count is made once.
class LaneTable {
  public:
    explicit LaneTable(std::size_t lane_count);
    std::uint16_t lane_of(std::uint64_t hash) const;

  private:
    Ranking ranking_;
};

} // namespace memkv
