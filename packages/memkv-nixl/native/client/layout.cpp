// SPDX-License-Identifier: Apache-2.0
#include "client/layout.hpp"

#include <algorithm>

namespace memkv {

Layout::Layout(std::vector<Range> ranges) : ranges_(std::move(ranges)) {
    std::stable_sort(ranges_.begin(), ranges_.end(),
                     [](const Range &a, const Range &b) { return a.offset < b.offset; });
    for (const Range &range : ranges_) {
        whole_ = whole_ && range.offset == end_;
        end_ = std::max(end_, range.offset + range.memory.size);
    }
}

std::vector<Part> Layout::parts() const {
    std::vector<Part> parts;
    parts.reserve(ranges_.size());
    for (const Range &range : ranges_)
        parts.push_back(range.memory);
    return parts;
}

bool Layout::overlaps() const {
    std::size_t at = 0;
    for (const Range &range : ranges_) {
        if (range.offset < at)
            return true;
        at = range.offset + range.memory.size;
    }
    return false;
}

Landing Layout::land(std::size_t length) const {
    Landing landing;
    if (overlaps()) {
        landing.scratch.reset(new char[length]);
        landing.parts = {Part{landing.scratch.get(), length}};
        landing.copies = ranges_;
        return landing;
    }
    std::size_t covered = 0;
    for (const Range &range : ranges_)
        covered += range.memory.size;
    landing.scratch.reset(length > covered ? new char[length - covered] : nullptr);
    std::size_t at = 0, gaps = 0;
    const auto fill = [&](std::size_t until) {
        if (until > at) {
            landing.parts.push_back({landing.scratch.get() + gaps, until - at});
            gaps += until - at;
        }
    };
    for (const Range &range : ranges_) {
        fill(range.offset);
        landing.parts.push_back(range.memory);
        at = range.offset + range.memory.size;
    }
    fill(length);
    return landing;
}

} // namespace memkv
