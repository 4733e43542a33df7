// SPDX-License-Identifier: Apache-2.0
#include "client/session.hpp"

#include "client/bytes.hpp"
#include "client/limits.hpp"

namespace memkv {

namespace {

constexpr std::uint8_t CLIENT_TO_SERVER = 0;
constexpr std::uint8_t SERVER_TO_CLIENT = 1;

crypto::Hash tag_of(crypto::Hmac &mac, std::uint8_t direction, std::uint64_t sequence, std::string_view header,
                    std::string_view metadata) {
    std::string counted;
    append<std::uint8_t>(counted, direction);
    append<std::uint64_t>(counted, sequence);
    return mac({counted, header, metadata});
}

} // namespace

Session::Session(std::string key, handshake::Hello hello) : key_(std::move(key)), hello_(std::move(hello)) {
    hello_.key_id = handshake::key_id(key_);
    if (hello_.nonce.empty())
        hello_.nonce = crypto::random_bytes(limits::NONCE_BYTES);
}

void Session::expect(State state, const char *what) const {
    if (state_ != state)
        throw TransportError(Cause::protocol, std::string(what) + " out of turn");
}

std::string Session::send_hello() {
    expect(State::start, "HELLO");
    state_ = State::hello;
    hello_bytes_ = handshake::encode_hello(hello_);
    return hello_bytes_;
}

void Session::receive_message(std::string_view message) {
    const handshake::Prefix prefix = handshake::decode_prefix(message);
    if (message.size() != handshake::PREFIX_BYTES + prefix.body_bytes)
        throw TransportError(Cause::protocol, "a handshake message of the wrong length");
    expect(State::hello, "a handshake message");
    const std::string_view body = message.substr(handshake::PREFIX_BYTES);
    if (prefix.magic == handshake::REFUSAL)
        throw TransportError(Cause::refused,
                             "the server refused the session: " + std::string(body) + remedy_of(prefix.c), prefix.c);
    if (prefix.magic != handshake::CHALLENGE)
        throw TransportError(Cause::protocol, "a message that a server does not send");
    receive_challenge(prefix, message);
}

void Session::receive_challenge(const handshake::Prefix &prefix, std::string_view message) {
    const std::string_view body = message.substr(handshake::PREFIX_BYTES);
    if (body.size() != limits::NONCE_BYTES + 32)
        throw TransportError(Cause::protocol, "CHALLENGE has the wrong length");
    if (prefix.a < wire::VERSION_MIN || prefix.a > wire::VERSION_MAX || prefix.b)
        throw TransportError(Cause::protocol, "the server chose protocol " + std::to_string(prefix.a));
    const std::string expected =
        handshake::server_proof(key_, hello_bytes_, prefix.a, prefix.c, body.substr(0, limits::NONCE_BYTES));
    if (!crypto::equal(expected, body.substr(limits::NONCE_BYTES)))
        throw TransportError(Cause::auth, "the server's proof does not verify" + remedy_of(1));
    version_ = prefix.a;
    challenge_bytes_ = message;
    state_ = State::challenged;
}

std::string Session::send_proof() {
    expect(State::challenged, "PROOF");
    const handshake::SessionKeys keys = handshake::session_keys(key_, hello_bytes_, challenge_bytes_);
    send_mac_.emplace(keys.client_to_server);
    receive_mac_.emplace(keys.server_to_client);
    state_ = State::proven;
    return handshake::encode_proof(version_, handshake::client_proof(key_, hello_bytes_, challenge_bytes_));
}

std::string Session::seal(wire::Header header, std::string_view metadata) {
    expect(State::open, "a request");
    header.metadata_bytes = static_cast<std::uint32_t>(metadata.size());
    std::string frame = wire::encode_header(header);
    const auto tag = tag_of(*send_mac_, CLIENT_TO_SERVER, send_sequence_++, frame, metadata);
    frame.reserve(frame.size() + metadata.size() + tag.size());
    return frame.append(metadata).append(tag.data(), tag.size());
}

void Session::open(const wire::Header &header, std::string_view sealed, std::string_view tag) {
    const bool welcome = header.opcode == static_cast<std::uint8_t>(wire::Opcode::welcome);
    expect(welcome ? State::proven : State::open, "a frame");
    const auto expected = tag_of(*receive_mac_, SERVER_TO_CLIENT, receive_sequence_, sealed, {});
    if (!crypto::equal(crypto::view(expected), tag))
        throw TransportError(Cause::auth, "a frame's authentication code does not verify");
    ++receive_sequence_;
    state_ = State::open;
}

std::string remedy_of(std::uint16_t code) {
    switch (static_cast<wire::ErrorCode>(code)) {
    case wire::ErrorCode::auth_failed:
        return "; give client and server the same MEMKV_AUTH_KEY (64 hex characters)";
    case wire::ErrorCode::unsupported_version:
        return "; upgrade the servers first, then the clients";
    case wire::ErrorCode::identity_mismatch:
        return "; the namespace holds blocks of another model, dtype or layout: choose another `namespace`";
    case wire::ErrorCode::busy:
        return "; raise limits.connections_max on the server or lower `connections` on the clients";
    default:
        return "";
    }
}

} // namespace memkv
