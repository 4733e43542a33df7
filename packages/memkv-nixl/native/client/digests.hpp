// SPDX-License-Identifier: Apache-2.0
// The 16-byte digest of a value, over its parts as if they were one, and the 64-bit hash that places a key.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace memkv {

// A piece of somebody's memory. data is nullptr for bytes that nobody wants.
struct Part {
    char *data;
    std::size_t size;
};

using Digest = std::array<char, 16>;

// As on the wire. A higher kind is a stronger one.
enum class DigestKind : std::uint8_t { xxh3_128 = 0, sha256_128 = 1 };

Digest digest_of(std::span<const Part> parts, DigestKind kind);
std::uint64_t xxh3_64(std::string_view data, std::uint64_t seed);

} // namespace memkv
