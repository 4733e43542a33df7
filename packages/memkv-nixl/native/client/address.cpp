// SPDX-License-Identifier: Apache-2.0
#include "client/address.hpp"

#include "client/errors.hpp"

#include <algorithm>
#include <arpa/inet.h>
#include <cctype>

namespace memkv {

namespace {

constexpr unsigned PORT_DEFAULT = 9900;

[[noreturn]] void bad(std::string_view text, const std::string &why) {
    throw ConfigError("server address '" + std::string(text) + "'" + why,
                      "write host:9900, 10.0.0.1:9900 or [::1]:9900");
}

std::string_view strip(std::string_view text) {
    const auto is_space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
    while (!text.empty() && is_space(text.front()))
        text.remove_prefix(1);
    while (!text.empty() && is_space(text.back()))
        text.remove_suffix(1);
    return text;
}

// The canonical text of an IP address; empty where it is none.
std::string canonical_ip(const std::string &host, int family) {
    unsigned char packed[16];
    char text[INET6_ADDRSTRLEN];
    if (inet_pton(family, host.c_str(), packed) != 1 || !inet_ntop(family, packed, text, sizeof text))
        return "";
    return text;
}

bool is_label(std::string_view label) {
    const auto inner = [](char c) {
        return std::islower(static_cast<unsigned char>(c)) || std::isdigit(static_cast<unsigned char>(c)) || c == '_' ||
               c == '-';
    };
    return !label.empty() && label.size() <= 63 && std::all_of(label.begin(), label.end(), inner) &&
           label.front() != '-' && label.back() != '-';
}

bool is_host_name(std::string_view host) {
    if (host.empty() || host.size() > 253)
        return false;
    while (true) {
        const auto dot = host.find('.');
        if (!is_label(host.substr(0, dot)))
            return false;
        if (dot == std::string_view::npos)
            return true;
        host.remove_prefix(dot + 1);
    }
}

std::string parse_host(std::string host, std::string_view source) {
    std::transform(host.begin(), host.end(), host.begin(), [](unsigned char c) { return std::tolower(c); });
    if (host.find(':') != std::string::npos) {
        const std::string ip = canonical_ip(host, AF_INET6);
        return ip.empty() ? (bad(source, ": '" + host + "' is no IP address"), "") : ip;
    }
    while (!host.empty() && host.back() == '.')
        host.pop_back();
    if (!host.empty() && host.find_first_not_of("0123456789.") == std::string::npos) {
        const std::string ip = canonical_ip(host, AF_INET);
        return ip.empty() ? (bad(source, ": '" + host + "' is no IP address"), "") : ip;
    }
    if (!is_host_name(host))
        bad(source, ": '" + host + "' is no host name");
    return host;
}

unsigned parse_port(std::string_view text, std::string_view source) {
    const bool digits = !text.empty() && text.size() <= 5 && text.find_first_not_of("0123456789") == text.npos;
    const unsigned port = digits ? static_cast<unsigned>(std::stoul(std::string(text))) : 0;
    if (port < 1 || port > 65535)
        bad(source, ": port '" + std::string(text) + "' is not a number from 1 to 65535");
    return port;
}

} // namespace

std::string Address::text() const {
    const std::string shown = host.find(':') == std::string::npos ? host : "[" + host + "]";
    return shown + ":" + std::to_string(port);
}

Address parse_address(std::string_view text) {
    const std::string_view source = strip(text);
    if (source.empty())
        bad(source, " is empty");
    if (source.find("://") != source.npos)
        bad(source, " has a scheme");
    if (source.front() == '[') {
        const auto closed = source.find(']');
        const std::string_view rest = closed == source.npos ? "?" : source.substr(closed + 1);
        if (!rest.empty() && rest.front() != ':')
            bad(source, " has an unclosed or misplaced bracket");
        const std::string host(source.substr(1, closed - 1));
        if (host.find(':') == host.npos)
            bad(source, ": brackets hold an IPv6 address only");
        return {parse_host(host, source), rest.empty() ? PORT_DEFAULT : parse_port(rest.substr(1), source)};
    }
    if (std::count(source.begin(), source.end(), ':') > 1)
        bad(source, " is IPv6 without brackets");
    const auto colon = source.find(':');
    const std::string host = parse_host(std::string(source.substr(0, colon)), source);
    return {host, colon == source.npos ? PORT_DEFAULT : parse_port(source.substr(colon + 1), source)};
}

std::vector<Address> parse_addresses(const std::vector<std::string> &texts) {
    std::vector<Address> found;
    for (const auto &text : texts) {
        const Address address = parse_address(text);
        if (std::find(found.begin(), found.end(), address) != found.end())
            throw ConfigError("server '" + text + "' is listed twice", "list each server once");
        found.push_back(address);
    }
    return found;
}

} // namespace memkv
