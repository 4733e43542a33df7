// SPDX-License-Identifier: Apache-2.0
// The public keys whose licenses are trusted, by fingerprint; each has the one algorithm that it may verify.
#pragma once

#include "client/crypto.hpp"

#include <map>
#include <memory>
#include <string>

namespace memkv {

struct TrustedKey {
    std::unique_ptr<crypto::PublicKey> key;
    std::string path;
};

struct TrustedKeys {
    std::map<std::string, TrustedKey> keys; // by what a token's `kid` holds
    std::string looked_in;                  // for messages
};

// From `configured` (files and folders, separated by colons), or where it is empty from license-keys/*.pem in the
// user's and the system's config folder. Throws LicenseError for any file that is no usable public key.
TrustedKeys load_trusted_keys(const std::string &configured, const std::string &source);

const char *name_of(crypto::Algorithm algorithm); // as a token's `alg` says it

} // namespace memkv
