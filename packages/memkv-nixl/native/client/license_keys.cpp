// SPDX-License-Identifier: Apache-2.0
#include "client/license_keys.hpp"

#include "client/bytes.hpp"
#include "client/errors.hpp"
#include "client/files.hpp"
#include "client/limits.hpp"

#include <vector>

namespace memkv {

namespace {

constexpr const char *REMEDY = "put the authority's public key (PEM) there, or name it in MEMKV_LICENSE_KEYS";

std::string fingerprint(const crypto::PublicKey &key) {
    return to_hex(crypto::view(crypto::sha256({key.der()}))).substr(0, 32);
}

std::unique_ptr<crypto::PublicKey> read_public_key(const std::string &path) {
    std::string pem;
    try {
        pem = files::read_regular(path, limits::LICENSE_BYTES_MAX);
    } catch (const files::Unreadable &error) {
        throw LicenseError("license key " + path + " cannot be read: " + error.reason, REMEDY);
    }
    if (pem.find("PRIVATE KEY") != pem.npos)
        throw LicenseError("license key " + path + " is a private key",
                           "keep it with the authority; here goes the public key");
    bool parsed = false;
    auto key = crypto::PublicKey::from_pem(pem, parsed);
    if (!parsed)
        throw LicenseError("license key " + path + " is no public key in PEM form", REMEDY);
    if (!key)
        throw LicenseError("license key " + path + " is of a kind that licenses do not use",
                           "use an Ed25519 or a P-384 key");
    return key;
}

std::vector<std::string> pem_files(const std::string &folder) {
    try {
        return files::list_sorted(folder, ".pem");
    } catch (const files::Unreadable &error) {
        throw LicenseError(folder + " cannot be read: " + error.reason, REMEDY);
    }
}

void add_path(std::vector<std::string> &paths, const std::string &path) {
    if (!files::is_folder(path)) {
        paths.push_back(path);
        return;
    }
    const auto found = pem_files(path);
    paths.insert(paths.end(), found.begin(), found.end());
}

} // namespace

const char *name_of(crypto::Algorithm algorithm) { return algorithm == crypto::Algorithm::eddsa ? "EdDSA" : "ES384"; }

TrustedKeys load_trusted_keys(const std::string &configured, const std::string &source) {
    TrustedKeys trusted;
    std::vector<std::string> paths;
    const auto looked = [&](const std::string &place) {
        trusted.looked_in += (trusted.looked_in.empty() ? "" : ", ") + place;
    };
    if (configured.empty()) {
        for (const auto &folder : files::config_folders()) {
            looked(folder + "/license-keys");
            if (files::is_folder(folder + "/license-keys"))
                add_path(paths, folder + "/license-keys");
        }
    }
    for (std::size_t at = 0; at < configured.size();) {
        const std::size_t colon = std::min(configured.find(':', at), configured.size());
        const std::string path = files::expand_user(configured.substr(at, colon - at));
        at = colon + 1;
        if (path.empty())
            continue;
        looked(path + " (" + source + ")");
        add_path(paths, path);
    }
    if (paths.size() > limits::LICENSE_KEYS_MAX)
        throw LicenseError(std::to_string(paths.size()) + " license keys", "keep at most 256");
    for (const auto &path : paths) {
        auto key = read_public_key(path);
        const std::string kid = fingerprint(*key);
        trusted.keys.insert_or_assign(kid, TrustedKey{std::move(key), path});
    }
    return trusted;
}

} // namespace memkv
