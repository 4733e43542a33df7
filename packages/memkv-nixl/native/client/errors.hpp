// SPDX-License-Identifier: Apache-2.0
// What can go wrong, typed; the text of each is one line: the cause, then what to do about it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace memkv {

// A setting is unknown, malformed, missing or contradictory.
class ConfigError : public std::runtime_error {
  public:
    ConfigError(const std::string &cause, const std::string &remedy) : std::runtime_error(cause + "; " + remedy) {}
};

// No valid license.
class LicenseError : public std::runtime_error {
  public:
    LicenseError(const std::string &cause, const std::string &remedy) : std::runtime_error(cause + "; " + remedy) {}
};

enum class Cause : std::uint8_t {
    connect,      // no connection could be made
    disconnected, // an established connection ended
    timeout,      // the deadline passed
    protocol,     // the peer broke a rule
    auth,         // a proof or a tag does not verify
    refused,      // the server said no, with a code
    lanes,        // the server has other lanes than before
    revoked       // nobody waits for the answer any more
};

// What a connection met.
class TransportError : public std::runtime_error {
  public:
    TransportError(Cause what, const std::string &text, std::uint16_t error_code = 0)
        : std::runtime_error(text), cause(what), code(error_code) {}

    // Whether another try within the deadline may go better.
    bool worth_a_retry() const { return cause == Cause::connect || cause == Cause::disconnected; }

    const Cause cause;
    const std::uint16_t code; // of wire::ErrorCode where cause is refused
};

} // namespace memkv
