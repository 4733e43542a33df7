// SPDX-License-Identifier: Apache-2.0
// The values of one GET's response: where each is received, and whether its bytes are those of its digest.
#pragma once

#include "client/batch.hpp"
#include "client/connection.hpp"
#include "client/wire.hpp"

#include <vector>

namespace memkv {

class Landings {
  public:
    // Throws TransportError where a value is longer than was asked for.
    Landings(const Call &call, const wire::GetResponse &response, DigestKind kind_min);

    std::vector<Part> parts() const; // of all values, in their order
    // So many bytes are in place: verifies the values that are complete. Under the batch's Access.
    void landed(std::size_t received_bytes);
    const std::vector<Answer> &answers() const { return answers_; }

  private:
    struct Value {
        std::size_t place; // in the call
        Landing landing;
        Digest digest;
        std::uint8_t kind;
        std::size_t end; // in the payload
    };

    void add(const Call &call, const wire::GetResponse &response, std::size_t place);
    Answer verified(const Value &value) const;

    DigestKind kind_min_;
    std::vector<Answer> answers_;
    std::vector<Value> values_;
    std::size_t verified_count_ = 0;
};

} // namespace memkv
