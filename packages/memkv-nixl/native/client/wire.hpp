// SPDX-License-Identifier: Apache-2.0
// The frames, as bytes: pure encoding and decoding of what goes before a payload (shared/protocol/wire.md).
//
//     0       4    5     6    7     8          12      16              20         24               32
//     ┌───────┬────┬─────┬────┬─────┬──────────┬───────┬───────────────┬──────────┬────────────────┐
//     │ MKV1  │ op │flags│kind│  0  │request_id│ count │ metadata_bytes│    0     │ payload_bytes  │ header
//     ├───────┴────┴─────┴────┴─────┴──────────┴───────┴───────────────┴──────────┴────────────────┤
//     │ metadata: metadata_bytes                                                                   │
//     ├────────────────────────────────────────────────────────────────────────────────────────────┤
//     │ tag: 32 bytes, HMAC-SHA256(key of the direction, direction u8 │ sequence u64 │ header │ metadata) │
//     ├────────────────────────────────────────────────────────────────────────────────────────────┤
//     │ payload: payload_bytes, the values one after the other                                     │
//     └────────────────────────────────────────────────────────────────────────────────────────────┘
#pragma once

#include "client/digests.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace memkv::wire {

inline constexpr std::uint8_t VERSION_MIN = 1;
inline constexpr std::uint8_t VERSION_MAX = 1;
inline constexpr std::size_t HEADER_BYTES = 32;
inline constexpr std::size_t TAG_BYTES = 32;
inline constexpr std::size_t DIGEST_BYTES = 16;

enum class Opcode : std::uint8_t {
    welcome = 0x01,
    ping = 0x02,
    put = 0x10,
    get = 0x11,
    exists = 0x12,
    lookup = 0x13,
    erase = 0x14,
    verify = 0x15
};

enum Flag : std::uint8_t { RESPONSE = 1, ERROR = 2, META = 4 };

enum class Status : std::uint8_t {
    miss = 0,
    hit = 1,
    present = 2,
    too_long = 3,
    no_space = 4,
    bad_digest = 5,
    read_only = 6
};

enum class ErrorCode : std::uint16_t {
    auth_failed = 1,
    unsupported_version = 2,
    identity_mismatch = 3,
    bad_frame = 4,
    limit_exceeded = 5,
    unsupported_opcode = 6,
    busy = 7,
    draining = 8,
    internal = 9,
    storage = 10
};

struct Header {
    std::uint8_t opcode = 0;
    std::uint8_t flags = 0;
    std::uint8_t kind = 0;
    std::uint32_t request_id = 0;
    std::uint32_t count = 0;
    std::uint32_t metadata_bytes = 0;
    std::uint64_t payload_bytes = 0;
};

std::string encode_header(const Header &header);
Header decode_header(std::string_view bytes); // checks every bound; throws what the peer did wrong

using Keys = std::span<const std::string_view>;

std::string encode_keys(Keys keys);
std::string encode_put(Keys keys, std::span<const std::uint32_t> lengths, std::span<const Digest> digests);
std::string encode_get(Keys keys, std::span<const std::uint32_t> capacities);

// One entry for each key; zeros where a key is no hit.
struct GetResponse {
    std::string_view statuses;
    std::string_view kinds;
    std::vector<std::uint32_t> lengths;
    std::vector<Digest> digests;
    std::vector<std::string_view> metas; // empty where none was asked for
};

GetResponse decode_get_response(std::string_view metadata, const Header &header);
std::string_view decode_statuses(std::string_view metadata, const Header &header);
std::uint32_t decode_lookup_response(std::string_view metadata, const Header &header);

struct Refusal {
    std::uint16_t code;
    std::string text;
};

Refusal decode_error(std::string_view metadata);

} // namespace memkv::wire
