// SPDX-License-Identifier: Apache-2.0
#include "client/placement.hpp"

#include "client/digests.hpp"
#include "client/limits.hpp"

#include <algorithm>
#include <numeric>

namespace memkv {

std::uint64_t namespace_seed(std::string_view name) { return xxh3_64(name, 0); }

std::uint64_t key_hash(std::string_view key, std::uint64_t seed) { return xxh3_64(key, seed); }

namespace {

std::uint64_t score(std::string_view name, std::size_t slot, unsigned weight) {
    std::uint64_t best = 0;
    for (unsigned draw = 0; draw < weight; ++draw)
        best = std::max(best, xxh3_64(name, slot + limits::SLOT_COUNT * draw));
    return best;
}

std::vector<std::string> lane_names(std::size_t count) {
    std::vector<std::string> names;
    for (std::size_t lane = 0; lane < count; ++lane)
        names.push_back("lane-" + std::to_string(lane));
    return names;
}

} // namespace

Ranking::Ranking(const std::vector<std::string> &names, std::size_t kept, std::span<const unsigned> weights)
    : kept_(std::min(kept, names.size())), rows_(limits::SLOT_COUNT * kept_) {
    std::vector<std::uint16_t> by_name(names.size());
    std::iota(by_name.begin(), by_name.end(), std::uint16_t{0});
    std::sort(by_name.begin(), by_name.end(), [&](auto a, auto b) { return names[a] < names[b]; });
    std::vector<std::uint64_t> scores(names.size());
    for (std::size_t slot = 0; slot < limits::SLOT_COUNT; ++slot) {
        for (std::size_t member = 0; member < names.size(); ++member)
            scores[member] = score(names[member], slot, weights.empty() ? 1 : weights[member]);
        std::vector<std::uint16_t> row = by_name; // equal scores stay ordered by name
        std::stable_sort(row.begin(), row.end(), [&](auto a, auto b) { return scores[a] > scores[b]; });
        std::copy_n(row.begin(), kept_, rows_.begin() + static_cast<std::ptrdiff_t>(slot * kept_));
    }
}

std::uint16_t Ranking::server_of(std::uint64_t hash, std::size_t order) const {
    return member(hash % limits::SLOT_COUNT, order);
}

LaneTable::LaneTable(std::size_t lane_count) : ranking_(lane_names(lane_count), 1) {}

std::uint16_t LaneTable::lane_of(std::uint64_t hash) const {
    return ranking_.member((hash >> 32) % limits::SLOT_COUNT, 0);
}

} // namespace memkv
