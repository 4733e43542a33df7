// SPDX-License-Identifier: Apache-2.0
// A place in a list of parts that moves as bytes do, and the window that one system call is given from there.
#pragma once

#include "client/digests.hpp"
#include "client/limits.hpp"

#include <algorithm>
#include <span>
#include <sys/uio.h>
#include <vector>

namespace memkv {

class Cursor {
  public:
    explicit Cursor(std::vector<Part> parts) : parts_(std::move(parts)) {
        for (const Part &part : parts_)
            left_ += part.size;
    }

    std::size_t left() const { return left_; }

    // What comes next. Bytes that nobody wants go to `discarded`, which may be overwritten.
    std::span<iovec> window(std::span<char> discarded) {
        window_.clear();
        std::size_t total = 0, skip = offset_;
        for (std::size_t at = at_; at < parts_.size() && window_.size() < limits::IOV_COUNT_MAX; ++at) {
            const Part &part = parts_[at];
            std::size_t size = std::min(part.size - skip, limits::WINDOW_BYTES - total);
            size = part.data ? size : std::min(size, discarded.size());
            if (size)
                window_.push_back({part.data ? part.data + skip : discarded.data(), size});
            total += size;
            if (size < part.size - skip)
                break;
            skip = 0;
        }
        return window_;
    }

    void advance(std::size_t size) {
        left_ -= size;
        offset_ += size;
        while (at_ < parts_.size() && offset_ >= parts_[at_].size)
            offset_ -= parts_[at_++].size;
    }

  private:
    std::vector<Part> parts_;
    std::vector<iovec> window_;
    std::size_t at_ = 0;
    std::size_t offset_ = 0; // in parts_[at_]
    std::size_t left_ = 0;
};

} // namespace memkv
