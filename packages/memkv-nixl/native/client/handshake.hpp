// SPDX-License-Identifier: Apache-2.0
// The four messages that open a session, as bytes (pure), and what both ends compute from the cluster key.
//
//     0       4    5    6       8            12          16
//     ┌───────┬────┬────┬───────┬────────────┬───────────┬───────────────┐
//     │ magic │ a  │ b  │   c   │ body_bytes │     0     │ body          │
//     └───────┴────┴────┴───────┴────────────┴───────────┴───────────────┘
//
// HELLO      a = lowest version, b = highest version, c = lane       key_id 8 │ nonce 32 │ namespace_bytes u8 │
//            agent_bytes u8 │ identity_bytes u16 │ namespace │ agent │ identity
// CHALLENGE  a = chosen version, b = 0, c = lane                     nonce 32 │ proof 32
// PROOF      a = chosen version, b = 0, c = 0                        proof 32
// REFUSAL    a = lowest version, b = highest version, c = code       UTF-8 text
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace memkv::handshake {

inline constexpr std::size_t PREFIX_BYTES = 16;
inline constexpr std::uint16_t LANE_ANY = 0xFFFF;
inline constexpr std::string_view HELLO = "MKVH";
inline constexpr std::string_view CHALLENGE = "MKVC";
inline constexpr std::string_view PROOF = "MKVP";
inline constexpr std::string_view REFUSAL = "MKVE";

struct Prefix {
    std::string_view magic; // one of the four above
    std::uint8_t a;
    std::uint8_t b;
    std::uint16_t c;
    std::uint32_t body_bytes;
};

Prefix decode_prefix(std::string_view bytes); // checks every bound; throws what the peer did wrong

struct Hello {
    std::uint16_t lane = LANE_ANY;
    std::string key_id;
    std::string nonce;
    std::string name; // of the namespace
    std::string agent;
    std::string identity; // canonical JSON, or empty
};

std::string encode_hello(const Hello &hello);
std::string encode_proof(std::uint8_t version, std::string_view proof);

std::string key_id(std::string_view key);
std::string server_proof(std::string_view key, std::string_view hello, std::uint8_t version, std::uint16_t lane,
                         std::string_view server_nonce);
std::string client_proof(std::string_view key, std::string_view hello, std::string_view challenge);

struct SessionKeys {
    std::string client_to_server;
    std::string server_to_client;
};

SessionKeys session_keys(std::string_view key, std::string_view hello, std::string_view challenge);

} // namespace memkv::handshake
