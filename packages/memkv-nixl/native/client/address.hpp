// SPDX-License-Identifier: Apache-2.0
// Server addresses: `host`, `host:port`, `10.0.0.1:9900`, `[::1]:9900`; parsed, nothing resolved.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace memkv {

struct Address {
    std::string host; // name or IP, without brackets, lower case
    unsigned port;

    std::string text() const; // the one form in which two spellings of a server are the same: it names it in placement
    bool operator==(const Address &) const = default;
};

Address parse_address(std::string_view text);                                // throws ConfigError
std::vector<Address> parse_addresses(const std::vector<std::string> &texts); // also for one that is listed twice

} // namespace memkv
