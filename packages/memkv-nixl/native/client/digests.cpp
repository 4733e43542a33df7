// SPDX-License-Identifier: Apache-2.0
#include "client/digests.hpp"

#include "client/crypto.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

namespace memkv {

namespace {

Digest canonical(XXH128_hash_t hash) {
    XXH128_canonical_t form; // big-endian
    XXH128_canonicalFromHash(&form, hash);
    Digest digest;
    std::memcpy(digest.data(), form.digest, digest.size());
    return digest;
}

Digest xxh3_128(std::span<const Part> parts) {
    if (parts.size() == 1)
        return canonical(XXH3_128bits(parts[0].data, parts[0].size));
    alignas(64) XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    for (const Part &part : parts)
        XXH3_128bits_update(&state, part.data, part.size);
    return canonical(XXH3_128bits_digest(&state));
}

} // namespace

Digest digest_of(std::span<const Part> parts, DigestKind kind) {
    if (kind == DigestKind::xxh3_128)
        return xxh3_128(parts);
    crypto::Sha256 sha256;
    for (const Part &part : parts)
        sha256.update(part.data, part.size);
    const crypto::Hash whole = sha256.digest();
    Digest digest;
    std::memcpy(digest.data(), whole.data(), digest.size());
    return digest;
}

std::uint64_t xxh3_64(std::string_view data, std::uint64_t seed) {
    return XXH3_64bits_withSeed(data.data(), data.size(), seed);
}

} // namespace memkv
