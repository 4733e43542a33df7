// SPDX-License-Identifier: Apache-2.0
// Where the bytes of one object lie in the caller's memory, as ranges of the object. Pure.
//
//     object   0        4           8      10          length
//              ├────────┼───────────┼───────┼────────────┤
//     ranges   │ part 0 │  part 1   │ (gap) │  part 2    │      a gap lands in memory of our own: the digest covers it
#pragma once

#include "client/digests.hpp"

#include <cstring>
#include <memory>
#include <vector>

namespace memkv {

struct Range {
    std::size_t offset;
    Part memory;
};

// How a value of a known length is received: its parts in order, and what is to be copied once it has been verified.
struct Landing {
    std::vector<Part> parts;
    std::unique_ptr<char[]> scratch;
    std::vector<Range> copies; // from scratch + offset

    void finish() const {
        for (const Range &copy : copies)
            std::memcpy(copy.memory.data, scratch.get() + copy.offset, copy.memory.size);
    }
};

class Layout {
  public:
    Layout() = default;
    explicit Layout(std::vector<Range> ranges);

    std::size_t end() const { return end_; } // the object is at least this long
    bool whole() const { return whole_; }    // the ranges are [0, end) without a gap or an overlap
    std::vector<Part> parts() const;         // where it is whole: the object's bytes, in order
    Landing land(std::size_t length) const;  // length >= end()
    static Landing discard(std::size_t length) { return {{Part{nullptr, length}}, nullptr, {}}; }

  private:
    bool overlaps() const;

    std::vector<Range> ranges_; // by offset
    std::size_t end_ = 0;
    bool whole_ = true;
};

} // namespace memkv
