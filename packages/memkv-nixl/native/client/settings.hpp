// SPDX-License-Identifier: Apache-2.0
// The client's settings: the names, bounds and precedence of memkv_core/config.py, with the parameters of a NIXL
// backend in the place of keyword arguments:
//
//     backend parameter  >  yaml file that MEMKV_CONFIG names  >  environment MEMKV_*  >  default
//
// The first layer that sets a value wins; a bad value in it is an error that names it, never a reason to look further.
#pragma once

#include "client/address.hpp"
#include "client/digests.hpp"

#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace memkv {

struct Settings {
    std::vector<Address> servers;
    std::string auth_key; // 32 bytes; keep it out of logs
    std::string license;  // a token, the path of a file, or empty
    std::string license_keys;
    std::string name = "default"; // of the namespace
    long timeout_ms = 5000;
    long connections = 4; // for each lane of a server
    long replicas = 1;
    DigestKind integrity = DigestKind::xxh3_128;
    bool miss_on_error = false; // on_error: an outage answers like a miss
    bool plain_errors = false;  // error_codes: whatever a transfer meets is NIXL_ERR_BACKEND

    std::map<std::string, std::string> sources; // setting -> where its value came from, in words

    std::string source_of(const std::string &setting) const;
    std::vector<std::string> server_names() const;
};

using Parameters = std::unordered_map<std::string, std::string>;

// Throws ConfigError.
Settings load_settings(const Parameters &parameters);

// The parameters without their secrets, for whoever shows them.
Parameters masked(const Parameters &parameters);

// Every parameter of the plugin with its default, for NIXL's list of options.
Parameters parameter_defaults();

// Whether a license setting is the token itself, not a path.
bool looks_like_token(std::string_view text);

} // namespace memkv
