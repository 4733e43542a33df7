// SPDX-License-Identifier: Apache-2.0
// The client's side of a session: it speaks to no socket and sees no payload. Used by one thread at a time.
//
//     START ──hello──► HELLO ──challenge──► CHALLENGED ──proof──► PROVEN ──welcome──► OPEN ── frames
//
// Any error ends it: after one, make another session.
#pragma once

#include "client/crypto.hpp"
#include "client/handshake.hpp"
#include "client/wire.hpp"

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace memkv {

class Session {
  public:
    // key is the 32-byte cluster key; hello lacks its key id and, but in tests, its nonce.
    Session(std::string key, handshake::Hello hello);

    std::string send_hello();
    void receive_message(std::string_view message); // a whole CHALLENGE or REFUSAL; throws on anything but a good one
    std::string send_proof();

    // The next frame to send, up to its payload. header lacks metadata_bytes.
    std::string seal(wire::Header header, std::string_view metadata);
    // Accepts a received frame: `sealed` is its header and metadata. Throws where it was altered, replayed or cut.
    void open(const wire::Header &header, std::string_view sealed, std::string_view tag);

  private:
    enum class State { start, hello, challenged, proven, open };

    void expect(State state, const char *what) const;
    void receive_challenge(const handshake::Prefix &prefix, std::string_view message);

    std::string key_;
    handshake::Hello hello_;
    State state_ = State::start;
    std::string hello_bytes_;
    std::string challenge_bytes_;
    std::uint8_t version_ = 0;
    std::optional<crypto::Hmac> send_mac_;
    std::optional<crypto::Hmac> receive_mac_;
    std::uint64_t send_sequence_ = 0;
    std::uint64_t receive_sequence_ = 0;
};

// What an operator can do about a server's refusal: "; ..." or nothing.
std::string remedy_of(std::uint16_t code);

} // namespace memkv
