// SPDX-License-Identifier: Apache-2.0
#include "client/frames.hpp"

#include "client/limits.hpp"

#include <algorithm>

namespace memkv {

std::vector<Call> cut(const Call &share, std::vector<std::uint32_t> positions, long connections) {
    const auto &items = share.batch->items;
    std::size_t total = 0;
    for (const auto position : positions)
        total += items[position].layout.end();
    const std::size_t target = std::clamp(total / static_cast<std::size_t>(connections) + 1,
                                          limits::FRAME_BYTES_TARGET_MIN, limits::FRAME_BYTES_TARGET_MAX);
    std::vector<Call> calls;
    std::size_t bytes = 0;
    bool alone = false;
    for (const auto position : positions) {
        const Item &item = items[position];
        const std::size_t size = item.layout.end();
        if (calls.empty() || alone || item.unbounded || bytes + size > target ||
            calls.back().positions.size() >= limits::FRAME_KEYS_MAX) {
            calls.push_back({share.batch, {}, share.order, share.lane_changes});
            bytes = 0;
        }
        alone = item.unbounded;
        bytes += size;
        calls.back().positions.push_back(position);
    }
    return calls;
}

} // namespace memkv
