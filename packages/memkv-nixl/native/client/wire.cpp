// SPDX-License-Identifier: Apache-2.0
#include "client/wire.hpp"

#include "client/bytes.hpp"
#include "client/limits.hpp"

#include <algorithm>
#include <numeric>

namespace memkv::wire {

namespace {

constexpr std::string_view MAGIC = "MKV1";

[[noreturn]] void broken(const std::string &what) { throw TransportError(Cause::protocol, what); }

void check_bound(std::uint64_t value, std::uint64_t limit, const char *what) {
    if (value > limit)
        broken(std::to_string(value) + what + ", " + std::to_string(limit) + " at most");
}

} // namespace

std::string encode_header(const Header &header) {
    std::string bytes(MAGIC);
    bytes.reserve(HEADER_BYTES);
    append<std::uint8_t>(bytes, header.opcode);
    append<std::uint8_t>(bytes, header.flags);
    append<std::uint8_t>(bytes, header.kind);
    append<std::uint8_t>(bytes, 0);
    append<std::uint32_t>(bytes, header.request_id);
    append<std::uint32_t>(bytes, header.count);
    append<std::uint32_t>(bytes, header.metadata_bytes);
    append<std::uint32_t>(bytes, 0);
    append<std::uint64_t>(bytes, header.payload_bytes);
    return bytes;
}

Header decode_header(std::string_view bytes) {
    if (bytes.size() < HEADER_BYTES)
        broken("a frame's header ends early");
    if (bytes.substr(0, 4) != MAGIC)
        broken("not a MemKV frame");
    const char *at = bytes.data();
    if (at[7] || load<std::uint32_t>(at + 20) || static_cast<std::uint8_t>(at[5]) > 7)
        broken("reserved header bits are set");
    Header header;
    header.opcode = load<std::uint8_t>(at + 4);
    header.flags = load<std::uint8_t>(at + 5);
    header.kind = load<std::uint8_t>(at + 6);
    header.request_id = load<std::uint32_t>(at + 8);
    header.count = load<std::uint32_t>(at + 12);
    header.metadata_bytes = load<std::uint32_t>(at + 16);
    header.payload_bytes = load<std::uint64_t>(at + 24);
    check_bound(header.count, limits::FRAME_KEYS_MAX, " keys in a frame");
    check_bound(header.metadata_bytes, limits::FRAME_METADATA_BYTES_MAX, " bytes of metadata");
    check_bound(header.payload_bytes, limits::FRAME_PAYLOAD_BYTES_MAX, " bytes of payload");
    return header;
}

// keys: fixed_bytes u16 │ [lengths u16 × count, when fixed_bytes is 0] │ the keys one after the other
std::string encode_keys(Keys keys) {
    const std::size_t first = keys.empty() ? 0 : keys[0].size();
    const bool even = std::all_of(keys.begin(), keys.end(), [&](auto key) { return key.size() == first; });
    std::string bytes;
    bytes.reserve(2 + keys.size() * (first + 2));
    append<std::uint16_t>(bytes, even ? static_cast<std::uint16_t>(first) : 0);
    if (!even)
        for (const auto key : keys)
            append<std::uint16_t>(bytes, static_cast<std::uint16_t>(key.size()));
    for (const auto key : keys)
        bytes += key;
    return bytes;
}

// PUT: keys │ lengths u32 × count │ digests 16 × count
std::string encode_put(Keys keys, std::span<const std::uint32_t> lengths, std::span<const Digest> digests) {
    std::string bytes = encode_keys(keys);
    for (const auto length : lengths)
        append<std::uint32_t>(bytes, length);
    for (const auto &digest : digests)
        bytes.append(digest.data(), digest.size());
    return bytes;
}

// GET: keys │ capacities u32 × count
std::string encode_get(Keys keys, std::span<const std::uint32_t> capacities) {
    std::string bytes = encode_keys(keys);
    for (const auto capacity : capacities)
        append<std::uint32_t>(bytes, capacity);
    return bytes;
}

// GET's response: statuses u8 × count │ kinds u8 × count │ lengths u32 × count │ digests 16 × count │ [meta]
// meta: lengths u16 × count │ the metas one after the other
GetResponse decode_get_response(std::string_view metadata, const Header &header) {
    Reader reader(metadata);
    GetResponse response;
    response.statuses = reader.take(header.count);
    response.kinds = reader.take(header.count);
    std::uint64_t hit_bytes = 0;
    for (std::uint32_t at = 0; at < header.count; ++at) {
        response.lengths.push_back(reader.integer<std::uint32_t>());
        if (response.statuses[at] == static_cast<char>(Status::hit))
            hit_bytes += response.lengths.back();
    }
    for (std::uint32_t at = 0; at < header.count; ++at) {
        Digest digest;
        std::memcpy(digest.data(), reader.take(DIGEST_BYTES).data(), DIGEST_BYTES);
        response.digests.push_back(digest);
    }
    if (header.flags & META) {
        std::vector<std::uint16_t> lengths;
        for (std::uint32_t at = 0; at < header.count; ++at) {
            lengths.push_back(reader.integer<std::uint16_t>());
            check_bound(lengths.back(), limits::META_BYTES_MAX, " bytes beside a value");
        }
        for (const auto length : lengths)
            response.metas.push_back(reader.take(length));
    }
    reader.end();
    if (hit_bytes != header.payload_bytes)
        broken("hits of " + std::to_string(hit_bytes) + " bytes in a payload of " +
               std::to_string(header.payload_bytes));
    return response;
}

std::string_view decode_statuses(std::string_view metadata, const Header &header) {
    if (metadata.size() != header.count || header.payload_bytes)
        broken(std::to_string(metadata.size()) + " statuses for " + std::to_string(header.count) + " keys");
    return metadata;
}

std::uint32_t decode_lookup_response(std::string_view metadata, const Header &header) {
    if (metadata.size() != 4 || header.payload_bytes)
        broken("a LOOKUP response holds one u32");
    return load<std::uint32_t>(metadata.data());
}

Refusal decode_error(std::string_view metadata) {
    if (metadata.size() < 2)
        broken("an error frame without a code");
    return {load<std::uint16_t>(metadata.data()), std::string(metadata.substr(2, limits::REFUSAL_BYTES_MAX))};
}

} // namespace memkv::wire
