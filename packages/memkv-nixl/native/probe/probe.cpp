// SPDX-License-Identifier: Apache-2.0
// For the tests: the client's pure parts, asked in JSON. One request a line on stdin, one answer a line on stdout;
// bytes are hexadecimal text. It is built beside the plugin's tests and no part of the wheel.
#include "client/address.hpp"
#include "client/bytes.hpp"
#include "client/errors.hpp"
#include "client/layout.hpp"
#include "client/license.hpp"
#include "client/placement.hpp"
#include "client/session.hpp"
#include "client/settings.hpp"
#include "client/wire.hpp"

#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

using nlohmann::json;
using namespace memkv;

namespace {

std::string bytes_of(const json &hex) { return from_hex(hex.get<std::string>()); }

template <class Bytes> std::string hex_of(const Bytes &bytes) { return to_hex({bytes.data(), bytes.size()}); }

// A session after the handshake of the request; its messages go into `answer`.
std::unique_ptr<Session> opened(const json &request, json &answer) {
    handshake::Hello hello;
    hello.lane = request["lane"];
    hello.nonce = bytes_of(request["client_nonce"]);
    hello.name = request["namespace"];
    hello.agent = request["agent"];
    hello.identity = request["identity"];
    auto session = std::make_unique<Session>(bytes_of(request["auth_key"]), hello);
    answer["hello"] = hex_of(session->send_hello());
    session->receive_message(bytes_of(request["answer"]));
    answer["proof"] = hex_of(session->send_proof());
    const std::string welcome = bytes_of(request["welcome"]);
    const std::size_t size = welcome.size() - wire::TAG_BYTES;
    session->open(wire::decode_header(welcome), std::string_view(welcome).substr(0, size), welcome.substr(size));
    return session;
}

json do_handshake(const json &request) {
    json answer;
    const std::string key = bytes_of(request["auth_key"]);
    answer["key_id"] = hex_of(handshake::key_id(key));
    opened(request, answer);
    const auto keys = handshake::session_keys(key, bytes_of(answer["hello"]), bytes_of(request["answer"]));
    answer["client_to_server"] = hex_of(keys.client_to_server);
    answer["server_to_client"] = hex_of(keys.server_to_client);
    return answer;
}

json do_seal(const json &request) {
    json answer = json::object(), frames = json::array();
    const auto session = opened(request, answer);
    for (const auto &asked : request["frames"]) {
        wire::Header header;
        header.opcode = asked["opcode"];
        header.flags = asked["flags"];
        header.kind = asked["kind"];
        header.request_id = asked["request_id"];
        header.count = asked["count"];
        header.payload_bytes = asked["payload_bytes"];
        frames.push_back(hex_of(session->seal(header, bytes_of(asked["metadata"]))));
    }
    return {{"frames", frames}};
}

json decoded(const wire::Header &header, std::string_view metadata) {
    if (header.flags & wire::ERROR) {
        const auto refusal = wire::decode_error(metadata);
        return {{"code", refusal.code}, {"text", refusal.text}};
    }
    if (header.opcode == static_cast<std::uint8_t>(wire::Opcode::lookup))
        return {{"run", wire::decode_lookup_response(metadata, header)}};
    if (header.opcode != static_cast<std::uint8_t>(wire::Opcode::get))
        return {{"statuses", hex_of(wire::decode_statuses(metadata, header))}};
    const auto response = wire::decode_get_response(metadata, header);
    json digests = json::array(), metas = json::array();
    for (const auto &digest : response.digests)
        digests.push_back(hex_of(digest));
    for (const auto meta : response.metas)
        metas.push_back(hex_of(meta));
    return {{"statuses", hex_of(response.statuses)},
            {"kinds", hex_of(response.kinds)},
            {"lengths", response.lengths},
            {"digests", digests},
            {"metas", metas}};
}

json do_open(const json &request) {
    json answer = json::object(), frames = json::array();
    const auto session = opened(request, answer);
    for (const auto &hex : request["frames"]) {
        const std::string frame = bytes_of(hex);
        const auto header = wire::decode_header(frame);
        const std::size_t size = wire::HEADER_BYTES + header.metadata_bytes;
        const std::string_view sealed = std::string_view(frame).substr(0, size);
        session->open(header, sealed, frame.substr(size));
        frames.push_back(decoded(header, sealed.substr(wire::HEADER_BYTES)));
    }
    return {{"frames", frames}};
}

json do_encode(const json &request) {
    std::vector<std::string> keys;
    for (const auto &key : request["keys"])
        keys.push_back(bytes_of(key));
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    std::vector<std::uint32_t> numbers = request["numbers"];
    std::vector<Digest> digests;
    for (const auto &hex : request["digests"]) {
        const std::string bytes = bytes_of(hex);
        std::copy_n(bytes.begin(), 16, digests.emplace_back().begin());
    }
    const std::string operation = request["operation"];
    const std::string metadata = operation == "put"   ? wire::encode_put(views, numbers, digests)
                                 : operation == "get" ? wire::encode_get(views, numbers)
                                                      : wire::encode_keys(views);
    return {{"metadata", hex_of(metadata)}};
}

json do_digest(const json &request) {
    std::string value = bytes_of(request["value"]);
    const std::size_t half = value.size() / 2;
    const auto kind = request["kind"] == "xxh3" ? DigestKind::xxh3_128 : DigestKind::sha256_128;
    const Part whole[] = {{value.data(), value.size()}};
    const Part halves[] = {{value.data(), half}, {value.data() + half, value.size() - half}};
    return {{"whole", hex_of(digest_of(whole, kind))}, {"parts", hex_of(digest_of(halves, kind))}};
}

json do_placement(const json &request) {
    const std::vector<std::string> servers = request["servers"], keys = request["keys"];
    const std::vector<unsigned> weights =
        request["weights"].is_null() ? std::vector<unsigned>() : request["weights"].get<std::vector<unsigned>>();
    const std::uint64_t seed = namespace_seed(request["namespace"].get<std::string>());
    const std::size_t orders = std::min<std::size_t>(2, servers.size());
    const Ranking ranking(servers, orders, weights);
    const LaneTable lanes(request["lanes"]);
    json hashes = json::array(), placed = json::array(), lane_of_key = json::array();
    for (std::size_t order = 0; order < orders; ++order) {
        json of_order = json::array();
        for (const auto &key : keys)
            of_order.push_back(ranking.server_of(key_hash(key, seed), order));
        placed.push_back(of_order);
    }
    for (const auto &key : keys) {
        hashes.push_back(key_hash(key, seed));
        lane_of_key.push_back(lanes.lane_of(key_hash(key, seed)));
    }
    return {{"seed", seed}, {"hashes", hashes}, {"servers", placed}, {"lanes", lane_of_key}};
}

json do_settings(const json &request) {
    const Settings settings = load_settings(request["parameters"].get<Parameters>());
    return {{"servers", settings.server_names()},
            {"auth_key", hex_of(settings.auth_key)},
            {"license", settings.license},
            {"license_keys", settings.license_keys},
            {"namespace", settings.name},
            {"timeout_ms", settings.timeout_ms},
            {"connections", settings.connections},
            {"replicas", settings.replicas},
            {"integrity", settings.integrity == DigestKind::xxh3_128 ? "xxh3" : "sha256"},
            {"on_error", settings.miss_on_error ? "miss" : "error"},
            {"error_codes", settings.plain_errors ? "backend" : "precise"},
            {"sources", settings.sources}};
}

json do_license(const json &request) {
    const License license = load_license(load_settings(request["parameters"].get<Parameters>()));
    return {{"plan", license.plan}, {"licensee", license.licensee}, {"source", license.source}};
}

json do_masked(const json &request) { return masked(request["parameters"].get<Parameters>()); }

json do_address(const json &request) { return {{"address", parse_address(request["text"].get<std::string>()).text()}}; }

// A value is "received" through a layout: what lands where.
json do_layout(const json &request) {
    const std::string value = bytes_of(request["value"]);
    std::vector<std::string> memory;
    for (const auto &range : request["ranges"])
        memory.emplace_back(range[1].get<std::size_t>(), '\0');
    std::vector<Range> ranges;
    for (std::size_t at = 0; at < memory.size(); ++at)
        ranges.push_back({request["ranges"][at][0], {memory[at].data(), memory[at].size()}});
    const Layout layout(ranges);
    json answer{{"whole", layout.whole()}, {"end", layout.end()}, {"landed", json::array()}};
    if (layout.end() > value.size())
        return answer;
    const Landing landing = layout.land(value.size());
    std::size_t at = 0;
    for (const Part &part : landing.parts) {
        std::copy_n(value.begin() + static_cast<std::ptrdiff_t>(at), part.size, part.data);
        at += part.size;
    }
    landing.finish();
    for (const auto &part : memory)
        answer["landed"].push_back(hex_of(part));
    return answer;
}

const std::map<std::string, std::function<json(const json &)>> OPERATIONS = {
    {"handshake", do_handshake}, {"seal", do_seal},           {"open", do_open},         {"encode", do_encode},
    {"digest", do_digest},       {"placement", do_placement}, {"settings", do_settings}, {"license", do_license},
    {"masked", do_masked},       {"address", do_address},     {"layout", do_layout}};

} // namespace

int main() {
    for (std::string line; std::getline(std::cin, line);) {
        json answer;
        try {
            const json request = json::parse(line);
            answer = OPERATIONS.at(request["op"])(request);
        } catch (const TransportError &error) {
            answer = {{"error", error.what()}, {"cause", static_cast<int>(error.cause)}, {"code", error.code}};
        } catch (const std::exception &error) {
            answer = {{"error", error.what()}};
        }
        std::cout << answer.dump() << std::endl;
    }
}
