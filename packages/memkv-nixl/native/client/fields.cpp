// SPDX-License-Identifier: Apache-2.0
#include "client/fields.hpp"

#include "client/bytes.hpp"
#include "client/errors.hpp"
#include "client/limits.hpp"

#include <algorithm>
#include <cctype>
#include <set>

namespace memkv {

namespace {

constexpr const char *SERVERS = "host:port, separated by commas";
constexpr const char *KEY = "64 hexadecimal digits, as `memkv keygen` makes them";
constexpr const char *DEVICES = "RDMA device names, separated by commas";
constexpr const char *NAMESPACE = "a text of 1 to 255 bytes without control characters";

std::string stripped(std::string_view text) {
    const auto first = text.find_first_not_of(" \t\r\n");
    return first == text.npos ? "" : std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
}

std::string text_of(const Value &value, const char *accepted) {
    if (value.kind != Value::Kind::text)
        throw Problem{std::string("it is a ") + value.kind_name() + ", not text", accepted};
    return value.text;
}

std::vector<std::string> items_of(const Value &value, const char *accepted) {
    std::vector<std::string> items = value.items;
    if (value.kind != Value::Kind::list) {
        const std::string text = text_of(value, accepted);
        for (std::size_t at = 0; at <= text.size();) {
            const std::size_t comma = std::min(text.find(',', at), text.size());
            items.push_back(text.substr(at, comma - at));
            at = comma + 1;
        }
    }
    for (std::size_t at = 0; at < items.size(); ++at) {
        items[at] = stripped(items[at]);
        if (items[at].empty())
            throw Problem{"item " + std::to_string(at + 1) + " of " + std::to_string(items.size()) + " is empty",
                          accepted};
    }
    return items;
}

long whole(const Value &value, long low, long high, const std::string &accepted) {
    if (value.kind == Value::Kind::boolean)
        throw Problem{"it is true or false, not a number", accepted};
    const std::string text = stripped(value.text);
    const bool digits = !text.empty() && text.size() <= 12 && text.find_first_not_of("0123456789") == text.npos;
    const bool scalar = value.kind == Value::Kind::text || value.kind == Value::Kind::number;
    if (!digits || !scalar)
        throw Problem{"it is no whole number", accepted};
    const long number = std::stol(text);
    if (number < low || number > high)
        throw Problem{"it is out of bounds", accepted};
    return number;
}

std::string word(const Value &value, const std::set<std::string> &words, const char *accepted) {
    std::string text = stripped(value.text);
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    if (!words.contains(text))
        throw Problem{"it is not one of the accepted words", accepted};
    return text;
}

void parse_servers(const Value &value, Settings &settings) {
    const auto items = items_of(value, SERVERS);
    if (items.empty() || items.size() > limits::SERVERS_MAX)
        throw Problem{"it lists " + std::to_string(items.size()) + " servers", std::string("1 to 1024 of ") + SERVERS};
    try {
        settings.servers = parse_addresses(items);
    } catch (const ConfigError &error) {
        throw Problem{error.what(), SERVERS};
    }
}

void parse_auth_key(const Value &value, Settings &settings) {
    if (value.kind != Value::Kind::text)
        throw Problem{"it is a number, not text (yaml reads bare digits as a number: quote it)", KEY};
    const std::string digits = stripped(value.text);
    if (digits.size() != 2 * limits::AUTH_KEY_BYTES)
        throw Problem{"it has " + std::to_string(digits.size()) + " characters instead of 64", KEY};
    const auto wrong = digits.find_first_not_of("0123456789abcdefABCDEF");
    if (wrong != digits.npos)
        throw Problem{"character " + std::to_string(wrong + 1) + " of 64 is no hexadecimal digit", KEY};
    settings.auth_key = from_hex(digits);
}

void parse_transport(const Value &value, Settings &) {
    const std::string transport = word(value, {"auto", "tcp", "shm", "rdma"}, "auto | tcp | shm | rdma");
    if (transport == "shm" || transport == "rdma")
        throw Problem{"it is not available in this version", "tcp | auto"};
}

void parse_license(const Value &value, Settings &settings) {
    settings.license = text_of(value, "a license token, or the path of a license file");
}

void parse_license_keys(const Value &value, Settings &settings) {
    settings.license_keys = text_of(value, "files or folders of public keys, separated by colons");
}

void parse_devices(const Value &value, Settings &) {
    if (value.kind == Value::Kind::text ? value.text.empty() : value.items.empty())
        return;
    std::set<std::string> seen;
    for (const auto &item : items_of(value, DEVICES)) {
        const auto allowed = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.' || c == '-'; };
        if (item.size() > 64 || !std::all_of(item.begin(), item.end(), allowed))
            throw Problem{"'" + item + "' is no device name", DEVICES};
        if (!seen.insert(item).second)
            throw Problem{"a device is listed twice", DEVICES};
    }
}

template <long High> void parse_megabytes(const Value &value, Settings &) {
    whole(value, 1, High, "a whole number of MiB, 1 to " + std::to_string(High));
}

void parse_namespace(const Value &value, Settings &settings) {
    const std::string name = text_of(value, NAMESPACE);
    const auto control = [](unsigned char c) { return c < 32 || c == 127; };
    if (name.empty() || name.size() > limits::NAMESPACE_BYTES_MAX || std::any_of(name.begin(), name.end(), control))
        throw Problem{"it is empty, too long or not printable", NAMESPACE};
    settings.name = name;
}

void parse_timeout(const Value &value, Settings &settings) {
    settings.timeout_ms = whole(value, 1, limits::TIMEOUT_MS_MAX, "a whole number of milliseconds, 1 to 600000");
}

void parse_connections(const Value &value, Settings &settings) {
    settings.connections = whole(value, 1, limits::CONNECTIONS_MAX, "connections per server, 1 to 64");
}

void parse_replicas(const Value &value, Settings &settings) {
    settings.replicas = whole(value, 1, limits::SERVERS_MAX, "1 to the number of servers");
}

void parse_integrity(const Value &value, Settings &settings) {
    const bool sha256 = word(value, {"xxh3", "sha256"}, "xxh3 | sha256") == "sha256";
    settings.integrity = sha256 ? DigestKind::sha256_128 : DigestKind::xxh3_128;
}

void parse_on_error(const Value &value, Settings &settings) {
    settings.miss_on_error = word(value, {"error", "miss"}, "error | miss") == "miss";
}

void parse_error_codes(const Value &value, Settings &settings) {
    settings.plain_errors = word(value, {"precise", "backend"}, "precise | backend") == "backend";
}

constexpr Field FIELDS[] = {
    {.name = "servers", .parse = parse_servers, .accepted = SERVERS, .required = true},
    {.name = "auth_key", .parse = parse_auth_key, .accepted = KEY, .required = true, .secret = true},
    {.name = "transport", .parse = parse_transport, .accepted = "auto | tcp", .shown_default = "auto"},
    {.name = "license", .parse = parse_license, .accepted = "a token or a path", .optional = true, .secret = true},
    {.name = "license_keys", .parse = parse_license_keys, .accepted = "files or folders", .optional = true},
    {.name = "rdma_devices", .parse = parse_devices, .accepted = DEVICES},
    {.name = "staging_size_mb",
     .parse = parse_megabytes<limits::STAGING_MB_MAX>,
     .accepted = "MiB",
     .shown_default = "1024"},
    {.name = "staging_slot_mb",
     .parse = parse_megabytes<limits::STAGING_MB_MAX>,
     .accepted = "MiB",
     .shown_default = "16"},
    {.name = "namespace",
     .parse = parse_namespace,
     .accepted = NAMESPACE,
     .shown_default = "default",
     .optional = true},
    {.name = "timeout_ms", .parse = parse_timeout, .accepted = "milliseconds", .shown_default = "5000"},
    {.name = "connections", .parse = parse_connections, .accepted = "1 to 64", .shown_default = "4"},
    {.name = "replicas", .parse = parse_replicas, .accepted = "1 to the number of servers", .shown_default = "1"},
    {.name = "integrity", .parse = parse_integrity, .accepted = "xxh3 | sha256", .shown_default = "xxh3"},
    {.name = "on_error",
     .parse = parse_on_error,
     .accepted = "error | miss",
     .shown_default = "error",
     .variable = false},
    {.name = "error_codes",
     .parse = parse_error_codes,
     .accepted = "precise | backend",
     .shown_default = "precise",
     .variable = false},
};

} // namespace

std::span<const Field> fields() { return FIELDS; }

const Field *find_field(std::string_view name) {
    const auto found =
        std::find_if(std::begin(FIELDS), std::end(FIELDS), [&](auto &field) { return name == field.name; });
    return found == std::end(FIELDS) ? nullptr : found;
}

} // namespace memkv
