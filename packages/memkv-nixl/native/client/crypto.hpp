// SPDX-License-Identifier: Apache-2.0
// What this client needs of OpenSSL's libcrypto, and nothing else of it: SHA-256, HMAC, HKDF, randomness, signatures.
#pragma once

#include <array>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

namespace memkv::crypto {

using Hash = std::array<char, 32>;

inline std::string_view view(const Hash &hash) { return {hash.data(), hash.size()}; }

Hash sha256(std::initializer_list<std::string_view> parts);
std::string hkdf_sha256(std::string_view key, std::string_view salt, std::string_view info, std::size_t size);
std::string random_bytes(std::size_t size);
bool equal(std::string_view a, std::string_view b); // in a time that does not tell where they differ

// SHA-256 over what comes piece by piece.
class Sha256 {
  public:
    Sha256();
    ~Sha256();
    Sha256(const Sha256 &) = delete;
    void update(const void *data, std::size_t size);
    Hash digest();

  private:
    void *context_;
};

// HMAC-SHA256 with one key, keyed once. Used by one thread at a time.
class Hmac {
  public:
    explicit Hmac(std::string_view key);
    ~Hmac();
    Hmac(const Hmac &) = delete;
    Hash operator()(std::initializer_list<std::string_view> parts);

  private:
    void *context_;
};

enum class Algorithm { eddsa, es384 };

// A public key that may verify licenses, with the one algorithm that is its own.
class PublicKey {
  public:
    // From PEM text; nullptr where it is no public key, or one of another kind.
    static std::unique_ptr<PublicKey> from_pem(std::string_view pem, bool &parsed);
    ~PublicKey();
    PublicKey(const PublicKey &) = delete;

    Algorithm algorithm() const { return algorithm_; }
    const std::string &der() const { return der_; } // SubjectPublicKeyInfo
    bool verifies(std::string_view message, std::string_view signature) const;

  private:
    PublicKey(void *key, Algorithm algorithm, std::string der)
        : key_(key), algorithm_(algorithm), der_(std::move(der)) {}

    void *key_;
    Algorithm algorithm_;
    std::string der_;
};

} // namespace memkv::crypto
