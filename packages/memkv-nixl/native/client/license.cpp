// SPDX-License-Identifier: Apache-2.0
#include "client/license.hpp"

#include "client/errors.hpp"
#include "client/files.hpp"
#include "client/json.hpp"
#include "client/license_keys.hpp"
#include "client/limits.hpp"

#include <algorithm>
#include <cctype>
#include <ctime>
#include <optional>

namespace memkv {

namespace {

constexpr const char *AUDIENCE = "memkv";
constexpr const char *FILE_NAME = "minio.license";
constexpr const char *GET_ONE = "ask the operator of your cluster for one and set MEMKV_LICENSE to it or its path; "
                                "`memkv license issue` makes one, `memkv dev up` does for a local cluster";
constexpr const char *TRUST =
    "put the authority's public key into a license-keys folder, or name it in MEMKV_LICENSE_KEYS";

struct Token {
    std::string text;
    std::string source;
};

[[noreturn]] void bad(const std::string &source, const std::string &cause, const char *remedy = GET_ONE) {
    throw LicenseError(source + ": " + cause, remedy);
}

std::string without_spaces(std::string text) {
    std::erase_if(text, [](unsigned char c) { return std::isspace(c); });
    return text;
}

Token read_token(const std::string &value, const std::string &source) {
    const auto first = value.find_first_not_of(" \t\r\n");
    const std::string text =
        first == value.npos ? "" : value.substr(first, value.find_last_not_of(" \t\r\n") - first + 1);
    if (looks_like_token(text))
        return {without_spaces(text), source}; // a token pasted over several lines is still one token
    if (std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 32 || c == 127; }))
        bad(source, "neither a token nor the path of a file");
    const std::string path = files::expand_user(text);
    std::string token;
    try {
        token = without_spaces(files::read_regular(path, limits::LICENSE_BYTES_MAX));
    } catch (const files::Unreadable &error) {
        bad(source, path + " cannot be read: " + error.reason);
    }
    if (token.empty())
        bad(source, path + " is empty");
    return {token, source + " " + path};
}

Token find_token(const Settings &settings) {
    if (!settings.license.empty())
        return read_token(settings.license, "license (" + settings.source_of("license") + ")");
    for (const char *name : {"MINIO_LICENSE", "AISTOR_LICENSE"}) {
        const std::string value = files::environment(name);
        if (!without_spaces(value).empty())
            return read_token(value, name);
    }
    std::vector<std::string> paths{files::absolute(FILE_NAME)};
    for (const auto &folder : files::config_folders())
        paths.push_back(folder + "/" + FILE_NAME);
    std::string looked = "`license:` in MEMKV_CONFIG, MEMKV_LICENSE, MINIO_LICENSE, AISTOR_LICENSE";
    for (const auto &path : paths) {
        // A file that is there but cannot be read is an error, not a reason to look further.
        if (files::exists(path))
            return read_token(path, "file");
        looked += ", " + path;
    }
    throw LicenseError("no license found; looked at " + looked, GET_ONE);
}

std::optional<std::string> decode_base64url(std::string_view text) {
    std::string bytes;
    unsigned accumulator = 0;
    int bits = 0;
    for (const char c : text) {
        const int digit = c >= 'A' && c <= 'Z'   ? c - 'A'
                          : c >= 'a' && c <= 'z' ? c - 'a' + 26
                          : c >= '0' && c <= '9' ? c - '0' + 52
                          : c == '-'             ? 62
                          : c == '_'             ? 63
                                                 : -1;
        if (digit < 0)
            return std::nullopt;
        accumulator = accumulator << 6 | static_cast<unsigned>(digit);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            bytes += static_cast<char>(accumulator >> bits & 0xFF);
        }
    }
    return bytes;
}

// A token's three parts, decoded.
struct Parts {
    json::Object header;
    json::Object claims;
    std::string_view signed_text;
    std::string signature;
};

Parts split(const Token &token) {
    const std::string_view text = token.text;
    const auto first = text.find('.');
    const auto last = text.rfind('.');
    if (text.size() > limits::LICENSE_BYTES_MAX || first == text.npos || last == first)
        bad(token.source, "not a license token");
    const auto header = decode_base64url(text.substr(0, first));
    const auto claims = decode_base64url(text.substr(first + 1, last - first - 1));
    const auto signature = decode_base64url(text.substr(last + 1));
    const auto parsed_header = header ? json::parse_object(*header) : std::nullopt;
    const auto parsed_claims = claims ? json::parse_object(*claims) : std::nullopt;
    if (!parsed_header || !parsed_claims || !signature)
        bad(token.source, "not a license token");
    return {*parsed_header, *parsed_claims, text.substr(0, last), *signature};
}

const TrustedKey &key_for(const Parts &parts, const TrustedKeys &trusted, const std::string &source) {
    const auto *algorithm = json::get<std::string>(parts.header, "alg");
    if (!algorithm || (*algorithm != "EdDSA" && *algorithm != "ES384"))
        bad(source, "the license is signed with '" + (algorithm ? algorithm->substr(0, 20) : "") + "'",
            "only EdDSA and ES384 count");
    if (trusted.keys.empty())
        bad(source, "no authority is trusted here; looked in " + trusted.looked_in, TRUST);
    const auto *kid = json::get<std::string>(parts.header, "kid");
    const auto found = trusted.keys.find(kid ? *kid : "");
    if (found == trusted.keys.end())
        bad(source,
            "the license is signed by key '" + (kid ? kid->substr(0, 64) : "") +
                "', which is not among the trusted keys in " + trusted.looked_in,
            TRUST);
    // The key says how it is verified, never the token.
    if (*algorithm != name_of(found->second.key->algorithm()))
        bad(source, "the license claims " + *algorithm + ", but its key " + found->second.path + " is for " +
                        name_of(found->second.key->algorithm()));
    return found->second;
}

std::string text_claim(const json::Object &claims, const char *name, const std::string &source) {
    const auto *value = json::get<std::string>(claims, name);
    const auto control = [](unsigned char c) { return c < 32 || c == 127; };
    if (!value || value->empty() || value->size() > limits::LICENSE_TEXT_MAX ||
        std::any_of(value->begin(), value->end(), control))
        bad(source, "'" + std::string(name) + "' of the license is no short text");
    return *value;
}

std::optional<double> time_claim(const json::Object &claims, const char *name) {
    constexpr double LAST = 253'402'300'799; // the end of the year 9999
    const auto *whole = json::get<long long>(claims, name);
    const auto *real = json::get<double>(claims, name);
    const double seconds = whole ? static_cast<double>(*whole) : real ? *real : -1;
    return seconds >= 0 && seconds <= LAST ? std::optional(seconds) : std::nullopt;
}

std::string shown_time(double seconds) {
    const auto whole = static_cast<std::time_t>(seconds);
    tm utc{};
    char text[64];
    gmtime_r(&whole, &utc);
    return {text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &utc)};
}

void check_times(const json::Object &claims, const std::string &source) {
    const auto issued = time_claim(claims, "iat");
    const auto expires = time_claim(claims, "exp");
    const auto start = claims.contains("nbf") ? time_claim(claims, "nbf") : issued;
    if (!issued || !expires || !start)
        bad(source, "'iat', 'nbf' or 'exp' of the license is no time");
    const auto now = static_cast<double>(std::time(nullptr));
    if (std::max(*issued, *start) > now + limits::LICENSE_LEEWAY_S)
        bad(source, "the license is not valid before " + shown_time(std::max(*issued, *start)),
            "check this host's clock");
    if (*expires <= now - limits::LICENSE_LEEWAY_S)
        bad(source, "the license expired at " + shown_time(*expires));
}

void check_audience(const json::Object &claims, const std::string &source) {
    const auto *one = json::get<std::string>(claims, "aud");
    const auto *several = json::get<std::vector<std::string>>(claims, "aud");
    const bool ours = (one && *one == AUDIENCE) ||
                      (several && std::find(several->begin(), several->end(), AUDIENCE) != several->end());
    if (!ours)
        bad(source, "the license is for another product, not for 'memkv'");
}

void check_servers(const json::Object &claims, std::size_t configured, const std::string &source) {
    if (!claims.contains("max_servers"))
        return;
    const auto *most = json::get<long long>(claims, "max_servers");
    if (!most && std::holds_alternative<json::Other>(claims.at("max_servers")))
        return; // null: no bound
    if (!most || *most < 1)
        bad(source, "max_servers of the license is no positive number");
    if (configured > static_cast<unsigned long long>(*most))
        bad(source,
            "the license is for " + std::to_string(*most) + (*most > 1 ? " servers, and " : " server, and ") +
                std::to_string(configured) + " are configured",
            "list fewer servers, or get a license for more");
}

} // namespace

License load_license(const Settings &settings) {
    const Token token = find_token(settings);
    const TrustedKeys trusted = load_trusted_keys(settings.license_keys, settings.source_of("license_keys"));
    const Parts parts = split(token);
    const TrustedKey &key = key_for(parts, trusted, token.source);
    if (!key.key->verifies(parts.signed_text, parts.signature))
        bad(token.source, "the signature does not verify with " + key.path + ": altered or forged");
    check_audience(parts.claims, token.source);
    License license{text_claim(parts.claims, "plan", token.source), text_claim(parts.claims, "licensee", token.source),
                    token.source};
    text_claim(parts.claims, "iss", token.source);
    check_times(parts.claims, token.source);
    check_servers(parts.claims, settings.servers.size(), token.source);
    return license;
}

} // namespace memkv
