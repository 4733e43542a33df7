// SPDX-License-Identifier: Apache-2.0
#include "client/connection.hpp"

#include "client/cursor.hpp"
#include "client/errors.hpp"
#include "client/json.hpp"
#include "client/landings.hpp"
#include "client/limits.hpp"

#include <array>

namespace memkv {

namespace {

constexpr const char *HANDSHAKE_REMEDY =
    " closed the connection during the handshake; check that this is a MemKV data port (9900 by default) and that the "
    "auth key is the same";

std::vector<std::string_view> keys_of(const Call &call) {
    std::vector<std::string_view> keys;
    keys.reserve(call.positions.size());
    for (const auto position : call.positions)
        keys.push_back(call.batch->items[position].key);
    return keys;
}

Answer answer_of(char status) {
    switch (static_cast<wire::Status>(status)) {
    case wire::Status::hit:
    case wire::Status::present:
        return Answer::hit;
    case wire::Status::miss:
        return Answer::miss;
    case wire::Status::bad_digest:
        return Answer::corrupt;
    default:
        return Answer::refused;
    }
}

Access::Use touch(Access &access) {
    Access::Use use = access.use();
    if (!use.owns_lock())
        throw TransportError(Cause::revoked, "the transfer was given up");
    return use;
}

} // namespace

Connection::Connection(const Address &address, const Identity &identity, std::uint16_t lane, const Watch &watch)
    : server_(address.text()), socket_(address, watch) {
    try {
        open(identity, lane, watch);
    } catch (const TransportError &error) {
        if (error.cause != Cause::disconnected)
            throw;
        throw TransportError(Cause::connect, server_ + HANDSHAKE_REMEDY);
    }
}

void Connection::open(const Identity &identity, std::uint16_t lane, const Watch &watch) {
    handshake::Hello hello;
    hello.lane = lane;
    hello.name = identity.name;
    hello.agent = identity.agent;
    session_ = std::make_unique<Session>(identity.auth_key, hello);
    socket_.send_all(session_->send_hello(), watch);
    std::string message(handshake::PREFIX_BYTES, '\0');
    socket_.receive_all(message.data(), message.size(), watch);
    message.resize(message.size() + handshake::decode_prefix(message).body_bytes);
    socket_.receive_all(message.data() + handshake::PREFIX_BYTES, message.size() - handshake::PREFIX_BYTES, watch);
    session_->receive_message(message);
    socket_.send_all(session_->send_proof(), watch);

    const Frame frame = receive(watch);
    if (frame.header.opcode != static_cast<std::uint8_t>(wire::Opcode::welcome))
        throw TransportError(Cause::protocol, server_ + " did not say WELCOME");
    if (frame.header.flags & wire::ERROR) {
        const auto refusal = wire::decode_error(frame.metadata());
        throw TransportError(Cause::refused, server_ + " refused: " + refusal.text + remedy_of(refusal.code),
                             refusal.code);
    }
    const auto welcome = json::parse_object(frame.metadata());
    const auto *got = welcome ? json::get<long long>(*welcome, "lane") : nullptr;
    const auto *count = welcome ? json::get<long long>(*welcome, "lanes") : nullptr;
    if (!got || !count || *count < 1 || *count > static_cast<long long>(limits::LANES_MAX) || *got < 0 ||
        *got >= *count)
        throw TransportError(Cause::protocol, server_ + " does not say which lane of how many it is");
    lane_ = static_cast<std::uint16_t>(*got);
    lane_count_ = static_cast<std::size_t>(*count);
    if (lane != handshake::LANE_ANY && lane != lane_)
        throw TransportError(Cause::lanes, server_ + " has other lanes than before");
}

// -- sending --------------------------------------------------------------------------------------------------------

void Connection::send(wire::Header header, std::string_view metadata, std::vector<Part> payload, Access *access,
                      const Watch &watch) {
    header.request_id = next_request_id_;
    for (const Part &part : payload)
        header.payload_bytes += part.size;
    std::string frame = session_->seal(header, metadata);
    payload.insert(payload.begin(), Part{frame.data(), frame.size()});
    Cursor cursor(std::move(payload));
    while (cursor.left()) {
        std::size_t sent;
        {
            const Access::Use use = access ? touch(*access) : Access::Use();
            sent = socket_.send_some(cursor.window({}));
        }
        cursor.advance(sent);
        if (!sent)
            socket_.wait_writable(watch);
    }
}

void Connection::send_put(const Call &call, const std::vector<std::string_view> &keys, DigestKind kind,
                          const Watch &watch) {
    std::vector<std::uint32_t> lengths;
    std::vector<Digest> digests;
    std::vector<Part> payload;
    for (const auto position : call.positions) {
        const auto parts = call.batch->items[position].layout.parts();
        lengths.push_back(static_cast<std::uint32_t>(call.batch->items[position].layout.end()));
        const Access::Use use = touch(call.batch->access);
        digests.push_back(digest_of(parts, kind));
        payload.insert(payload.end(), parts.begin(), parts.end());
    }
    wire::Header header;
    header.opcode = static_cast<std::uint8_t>(wire::Opcode::put);
    header.kind = static_cast<std::uint8_t>(kind);
    header.count = static_cast<std::uint32_t>(keys.size());
    send(header, wire::encode_put(keys, lengths, digests), std::move(payload), &call.batch->access, watch);
}

void Connection::send_get(const Call &call, const std::vector<std::string_view> &keys, const Watch &watch) {
    std::vector<std::uint32_t> capacities;
    for (const auto position : call.positions) {
        const Item &item = call.batch->items[position];
        capacities.push_back(static_cast<std::uint32_t>(item.unbounded ? limits::VALUE_BYTES_MAX : item.layout.end()));
    }
    wire::Header header;
    header.opcode = static_cast<std::uint8_t>(wire::Opcode::get);
    header.count = static_cast<std::uint32_t>(keys.size());
    send(header, wire::encode_get(keys, capacities), {}, nullptr, watch);
}

// -- receiving ------------------------------------------------------------------------------------------------------

Connection::Frame Connection::receive(const Watch &watch) {
    Frame frame;
    frame.sealed.resize(wire::HEADER_BYTES);
    socket_.receive_all(frame.sealed.data(), frame.sealed.size(), watch);
    frame.header = wire::decode_header(frame.sealed);
    const std::size_t size = wire::HEADER_BYTES + frame.header.metadata_bytes;
    frame.sealed.resize(size + wire::TAG_BYTES);
    socket_.receive_all(frame.sealed.data() + wire::HEADER_BYTES, frame.sealed.size() - wire::HEADER_BYTES, watch);
    const std::string_view all = frame.sealed;
    session_->open(frame.header, all.substr(0, size), all.substr(size));
    frame.sealed.resize(size);
    return frame;
}

Connection::Frame Connection::receive_answer(wire::Opcode opcode, std::size_t key_count, const Watch &watch) {
    Frame frame = receive(watch);
    const wire::Header &header = frame.header;
    if (header.opcode != static_cast<std::uint8_t>(opcode) || header.request_id != next_request_id_ ||
        !(header.flags & wire::RESPONSE))
        throw TransportError(Cause::protocol, server_ + " answered another request");
    ++next_request_id_;
    if (header.flags & wire::ERROR) {
        if (header.payload_bytes)
            throw TransportError(Cause::protocol, server_ + " sent an error with a payload");
        const auto refusal = wire::decode_error(frame.metadata());
        whole_ = true;
        throw TransportError(Cause::refused, server_ + " refused: " + refusal.text + remedy_of(refusal.code),
                             refusal.code);
    }
    if (header.count != key_count)
        throw TransportError(Cause::protocol, server_ + " sent " + std::to_string(header.count) + " answers to " +
                                                  std::to_string(key_count) + " keys");
    return frame;
}

std::vector<Answer> Connection::exchange(const Call &call, DigestKind integrity, const Watch &watch) {
    whole_ = false;
    const auto keys = keys_of(call);
    const auto opcode = call.batch->operation == Operation::put   ? wire::Opcode::put
                        : call.batch->operation == Operation::get ? wire::Opcode::get
                                                                  : wire::Opcode::exists;
    if (opcode == wire::Opcode::put) {
        send_put(call, keys, integrity, watch);
    } else if (opcode == wire::Opcode::get) {
        send_get(call, keys, watch);
    } else {
        wire::Header header;
        header.opcode = static_cast<std::uint8_t>(opcode);
        header.count = static_cast<std::uint32_t>(keys.size());
        send(header, wire::encode_keys(keys), {}, nullptr, watch);
    }
    const Frame frame = receive_answer(opcode, keys.size(), watch);
    std::vector<Answer> answers;
    if (opcode == wire::Opcode::get) {
        answers = receive_values(call, frame, integrity, watch);
    } else {
        for (const char status : wire::decode_statuses(frame.metadata(), frame.header))
            answers.push_back(answer_of(status));
    }
    whole_ = true;
    return answers;
}

std::vector<Answer> Connection::receive_values(const Call &call, const Frame &frame, DigestKind kind_min,
                                               const Watch &watch) {
    if (frame.header.flags & wire::META)
        throw TransportError(Cause::protocol, server_ + " sent meta that was not asked for");
    Landings landings(call, wire::decode_get_response(frame.metadata(), frame.header), kind_min);
    Cursor cursor(landings.parts());
    const std::size_t total = cursor.left();
    std::array<char, limits::DISCARD_BYTES> discarded;
    while (cursor.left()) {
        socket_.expect(cursor.left());
        std::size_t received;
        {
            const Access::Use use = touch(call.batch->access);
            received = socket_.receive_some(cursor.window(discarded));
            cursor.advance(received);
            landings.landed(total - cursor.left());
        }
        if (!received)
            socket_.wait_readable(watch);
    }
    socket_.expect(0);
    const Access::Use use = touch(call.batch->access);
    landings.landed(total);
    return landings.answers();
}

void Connection::report_corrupt(const Call &call, const std::vector<Answer> &answers, const Watch &watch) {
    std::vector<std::string_view> keys;
    for (std::size_t place = 0; place < answers.size(); ++place)
        if (answers[place] == Answer::corrupt)
            keys.push_back(call.batch->items[call.positions[place]].key);
    wire::Header header;
    header.opcode = static_cast<std::uint8_t>(wire::Opcode::verify);
    header.count = static_cast<std::uint32_t>(keys.size());
    whole_ = false;
    send(header, wire::encode_keys(keys), {}, nullptr, watch);
    const Frame frame = receive_answer(wire::Opcode::verify, keys.size(), watch);
    wire::decode_statuses(frame.metadata(), frame.header);
    whole_ = true;
}

} // namespace memkv
