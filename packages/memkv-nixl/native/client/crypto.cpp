// SPDX-License-Identifier: Apache-2.0
#include "client/crypto.hpp"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <stdexcept>

namespace memkv::crypto {

namespace {

// The host may have an OpenSSL of its own; this copy reads none of its configuration, and leaves nothing to run at exit.
const EVP_MD *sha256_method() {
    static const EVP_MD *method = [] {
        OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT | OPENSSL_INIT_NO_LOAD_CONFIG, nullptr);
        return EVP_MD_fetch(nullptr, "SHA256", nullptr);
    }();
    return method;
}

EVP_MAC *hmac_method() {
    sha256_method();
    static EVP_MAC *method = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
    return method;
}

const unsigned char *octets(std::string_view text) { return reinterpret_cast<const unsigned char *>(text.data()); }

void require(bool done) {
    if (!done)
        throw std::runtime_error("libcrypto refused an operation");
}

OSSL_PARAM text_param(const char *name, const char *value) {
    return OSSL_PARAM_construct_utf8_string(name, const_cast<char *>(value), 0);
}

OSSL_PARAM octet_param(const char *name, std::string_view value) {
    return OSSL_PARAM_construct_octet_string(name, const_cast<char *>(value.data()), value.size());
}

} // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
    require(context_ && EVP_DigestInit_ex(static_cast<EVP_MD_CTX *>(context_), sha256_method(), nullptr) == 1);
}

Sha256::~Sha256() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX *>(context_)); }

void Sha256::update(const void *data, std::size_t size) {
    require(EVP_DigestUpdate(static_cast<EVP_MD_CTX *>(context_), data, size) == 1);
}

Hash Sha256::digest() {
    Hash hash;
    require(EVP_DigestFinal_ex(static_cast<EVP_MD_CTX *>(context_), reinterpret_cast<unsigned char *>(hash.data()),
                               nullptr) == 1);
    return hash;
}

Hash sha256(std::initializer_list<std::string_view> parts) {
    Sha256 hash;
    for (const auto part : parts)
        hash.update(part.data(), part.size());
    return hash.digest();
}

Hmac::Hmac(std::string_view key) : context_(EVP_MAC_CTX_new(hmac_method())) {
    const OSSL_PARAM params[] = {text_param(OSSL_MAC_PARAM_DIGEST, "SHA256"), OSSL_PARAM_construct_end()};
    require(context_ && EVP_MAC_init(static_cast<EVP_MAC_CTX *>(context_), octets(key), key.size(), params) == 1);
}

Hmac::~Hmac() { EVP_MAC_CTX_free(static_cast<EVP_MAC_CTX *>(context_)); }

Hash Hmac::operator()(std::initializer_list<std::string_view> parts) {
    auto *context = static_cast<EVP_MAC_CTX *>(context_);
    require(EVP_MAC_init(context, nullptr, 0, nullptr) == 1); // the key stays
    for (const auto part : parts)
        require(EVP_MAC_update(context, octets(part), part.size()) == 1);
    Hash hash;
    std::size_t size = 0;
    require(EVP_MAC_final(context, reinterpret_cast<unsigned char *>(hash.data()), &size, hash.size()) == 1);
    return hash;
}

std::string hkdf_sha256(std::string_view key, std::string_view salt, std::string_view info, std::size_t size) {
    sha256_method();
    const std::unique_ptr<EVP_KDF, decltype(&EVP_KDF_free)> method(EVP_KDF_fetch(nullptr, "HKDF", nullptr),
                                                                   EVP_KDF_free);
    const std::unique_ptr<EVP_KDF_CTX, decltype(&EVP_KDF_CTX_free)> context(EVP_KDF_CTX_new(method.get()),
                                                                            EVP_KDF_CTX_free);
    const OSSL_PARAM params[] = {text_param(OSSL_KDF_PARAM_DIGEST, "SHA256"), octet_param(OSSL_KDF_PARAM_KEY, key),
                                 octet_param(OSSL_KDF_PARAM_SALT, salt), octet_param(OSSL_KDF_PARAM_INFO, info),
                                 OSSL_PARAM_construct_end()};
    std::string derived(size, '\0');
    require(context &&
            EVP_KDF_derive(context.get(), reinterpret_cast<unsigned char *>(derived.data()), size, params) == 1);
    return derived;
}

std::string random_bytes(std::size_t size) {
    sha256_method();
    std::string bytes(size, '\0');
    require(RAND_bytes(reinterpret_cast<unsigned char *>(bytes.data()), static_cast<int>(size)) == 1);
    return bytes;
}

bool equal(std::string_view a, std::string_view b) {
    return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::unique_ptr<PublicKey> PublicKey::from_pem(std::string_view pem, bool &parsed) {
    sha256_method();
    BIO *source = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
    EVP_PKEY *key = PEM_read_bio_PUBKEY(source, nullptr, nullptr, nullptr);
    BIO_free(source);
    parsed = key != nullptr;
    if (!key)
        return nullptr;
    char group[32] = "";
    EVP_PKEY_get_group_name(key, group, sizeof group, nullptr);
    const bool ed25519 = EVP_PKEY_is_a(key, "ED25519") == 1;
    const bool p384 = EVP_PKEY_is_a(key, "EC") == 1 && std::string_view(group) == "secp384r1";
    unsigned char *der = nullptr;
    const int size = i2d_PUBKEY(key, &der);
    if (!(ed25519 || p384) || size <= 0) {
        OPENSSL_free(der);
        EVP_PKEY_free(key);
        return nullptr;
    }
    std::string encoded(reinterpret_cast<char *>(der), static_cast<std::size_t>(size));
    OPENSSL_free(der);
    return std::unique_ptr<PublicKey>(
        new PublicKey(key, ed25519 ? Algorithm::eddsa : Algorithm::es384, std::move(encoded)));
}

PublicKey::~PublicKey() { EVP_PKEY_free(static_cast<EVP_PKEY *>(key_)); }

namespace {

// A token holds r and s, 48 bytes each; libcrypto wants them as DER.
std::string es384_der(std::string_view signature) {
    if (signature.size() != 96)
        return "";
    ECDSA_SIG *pair = ECDSA_SIG_new();
    ECDSA_SIG_set0(pair, BN_bin2bn(octets(signature), 48, nullptr), BN_bin2bn(octets(signature) + 48, 48, nullptr));
    unsigned char *der = nullptr;
    const int size = i2d_ECDSA_SIG(pair, &der);
    std::string encoded(reinterpret_cast<char *>(der), size > 0 ? static_cast<std::size_t>(size) : 0);
    OPENSSL_free(der);
    ECDSA_SIG_free(pair);
    return encoded;
}

} // namespace

bool PublicKey::verifies(std::string_view message, std::string_view signature) const {
    const std::string der = algorithm_ == Algorithm::es384 ? es384_der(signature) : std::string(signature);
    const char *method = algorithm_ == Algorithm::es384 ? "SHA384" : nullptr;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    const bool good = EVP_DigestVerifyInit_ex(context, nullptr, method, nullptr, nullptr, static_cast<EVP_PKEY *>(key_),
                                              nullptr) == 1 &&
                      EVP_DigestVerify(context, octets(der), der.size(), octets(message), message.size()) == 1;
    EVP_MD_CTX_free(context);
    return good;
}

} // namespace memkv::crypto
