// SPDX-License-Identifier: Apache-2.0
// One connection to one lane of a server: the handshake, then one call after the other. Used by one thread at a time.
// Payload goes by sendmsg and recvmsg from and to the caller's memory, each under the batch's Access.
#pragma once

#include "client/batch.hpp"
#include "client/session.hpp"
#include "client/socket.hpp"
#include "client/wire.hpp"

#include <memory>
#include <string>
#include <vector>

namespace memkv {

// What every session of a client says of itself.
struct Identity {
    std::string auth_key; // 32 bytes
    std::string name;     // of the namespace
    std::string agent;
};

// What became of one object of a call.
enum class Answer : std::uint8_t {
    hit,
    miss,
    too_long, // get: it is longer than what is wanted of it: ask again, unbounded
    short_of, // get: it is shorter
    corrupt,  // not the bytes that were put
    refused   // put: no space, read only, too long
};

class Connection {
  public:
    // Connects and opens the session; throws TransportError.
    Connection(const Address &address, const Identity &identity, std::uint16_t lane, const Watch &watch);

    std::uint16_t lane() const { return lane_; }
    std::size_t lane_count() const { return lane_count_; }
    bool is_stale() { return socket_.is_stale(); }
    bool used() const { return next_request_id_ != 0; }

    // One answer for each position of the call. Throws TransportError; then this connection is of no more use, but for
    // a refusal of the frame alone, which leaves it whole (`whole` tells).
    std::vector<Answer> exchange(const Call &call, DigestKind integrity, const Watch &watch);
    // Has the server read objects again and drop them if it is its drive that lies.
    void report_corrupt(const Call &call, const std::vector<Answer> &answers, const Watch &watch);
    bool whole() const { return whole_; }

  private:
    struct Frame {
        wire::Header header;
        std::string sealed; // header and metadata
        std::string_view metadata() const { return std::string_view(sealed).substr(wire::HEADER_BYTES); }
    };

    void open(const Identity &identity, std::uint16_t lane, const Watch &watch);
    void send(wire::Header header, std::string_view metadata, std::vector<Part> payload, Access *access,
              const Watch &watch);
    void send_put(const Call &call, const std::vector<std::string_view> &keys, DigestKind kind, const Watch &watch);
    void send_get(const Call &call, const std::vector<std::string_view> &keys, const Watch &watch);
    Frame receive(const Watch &watch);
    Frame receive_answer(wire::Opcode opcode, std::size_t key_count, const Watch &watch);
    std::vector<Answer> receive_values(const Call &call, const Frame &frame, DigestKind kind_min, const Watch &watch);

    std::string server_;
    Socket socket_;
    std::unique_ptr<Session> session_;
    std::uint16_t lane_ = 0;
    std::size_t lane_count_ = 0;
    std::uint32_t next_request_id_ = 0;
    bool whole_ = true;
};

} // namespace memkv
