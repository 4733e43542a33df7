// SPDX-License-Identifier: Apache-2.0
#include "client/handshake.hpp"

#include "client/bytes.hpp"
#include "client/crypto.hpp"
#include "client/limits.hpp"
#include "client/wire.hpp"

namespace memkv::handshake {

namespace {

constexpr std::size_t PROOF_BYTES = 32;
constexpr std::size_t KEY_ID_BYTES = 8;

struct Kind {
    std::string_view magic;
    std::size_t body_bytes_max;
};

constexpr Kind KINDS[] = {{HELLO, limits::HELLO_BYTES_MAX},
                          {CHALLENGE, limits::NONCE_BYTES + PROOF_BYTES},
                          {PROOF, PROOF_BYTES},
                          {REFUSAL, limits::REFUSAL_BYTES_MAX}};

std::string message(std::string_view magic, std::uint8_t a, std::uint8_t b, std::uint16_t c, std::string_view body) {
    std::string bytes(magic);
    append<std::uint8_t>(bytes, a);
    append<std::uint8_t>(bytes, b);
    append<std::uint16_t>(bytes, c);
    append<std::uint32_t>(bytes, static_cast<std::uint32_t>(body.size()));
    append<std::uint32_t>(bytes, 0);
    return bytes.append(body);
}

std::string mac(std::string_view key, std::initializer_list<std::string_view> parts) {
    crypto::Hmac hmac(key);
    return std::string(crypto::view(hmac(parts)));
}

} // namespace

Prefix decode_prefix(std::string_view bytes) {
    if (bytes.size() < PREFIX_BYTES)
        throw TransportError(Cause::protocol, "a handshake message ends early");
    const char *at = bytes.data();
    for (const Kind &kind : KINDS) {
        if (bytes.substr(0, 4) != kind.magic)
            continue;
        const auto body_bytes = load<std::uint32_t>(at + 8);
        if (body_bytes > kind.body_bytes_max || load<std::uint32_t>(at + 12))
            throw TransportError(Cause::protocol, "a handshake body of " + std::to_string(body_bytes) + " bytes, " +
                                                      std::to_string(kind.body_bytes_max) + " at most");
        return {kind.magic, load<std::uint8_t>(at + 4), load<std::uint8_t>(at + 5), load<std::uint16_t>(at + 6),
                body_bytes};
    }
    throw TransportError(Cause::protocol, "not a MemKV handshake");
}

std::string encode_hello(const Hello &hello) {
    std::string body = hello.key_id + hello.nonce;
    append<std::uint8_t>(body, static_cast<std::uint8_t>(hello.name.size()));
    append<std::uint8_t>(body, static_cast<std::uint8_t>(hello.agent.size()));
    append<std::uint16_t>(body, static_cast<std::uint16_t>(hello.identity.size()));
    body += hello.name + hello.agent + hello.identity;
    return message(HELLO, wire::VERSION_MIN, wire::VERSION_MAX, hello.lane, body);
}

std::string encode_proof(std::uint8_t version, std::string_view proof) { return message(PROOF, version, 0, 0, proof); }

std::string key_id(std::string_view key) { return mac(key, {"memkv key id v1"}).substr(0, KEY_ID_BYTES); }

std::string server_proof(std::string_view key, std::string_view hello, std::uint8_t version, std::uint16_t lane,
                         std::string_view server_nonce) {
    std::string chosen;
    append<std::uint8_t>(chosen, version);
    append<std::uint16_t>(chosen, lane);
    const auto said = crypto::sha256({hello});
    return mac(key, {"memkv server proof v1", crypto::view(said), chosen, server_nonce});
}

std::string client_proof(std::string_view key, std::string_view hello, std::string_view challenge) {
    const auto said = crypto::sha256({hello, challenge});
    return mac(key, {"memkv client proof v1", crypto::view(said)});
}

SessionKeys session_keys(std::string_view key, std::string_view hello, std::string_view challenge) {
    const auto salt = crypto::sha256({hello, challenge});
    const std::string material = crypto::hkdf_sha256(key, crypto::view(salt), "memkv session v1", 64);
    return {material.substr(0, 32), material.substr(32)};
}

} // namespace memkv::handshake
