// SPDX-License-Identifier: Apache-2.0
// Little-endian integers into and out of byte strings; a block that ends early or late is the peer's error.
#pragma once

#include "client/errors.hpp"

#include <bit>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace memkv {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian, and so is every host of ours");

template <class T> void append(std::string &to, T value) {
    static_assert(std::is_unsigned_v<T>);
    to.append(reinterpret_cast<const char *>(&value), sizeof value);
}

template <class T> T load(const char *at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

class Reader {
  public:
    explicit Reader(std::string_view data) : data_(data) {}

    std::string_view take(std::size_t size) {
        if (size > data_.size() - at_)
            throw TransportError(Cause::protocol, "metadata ends early");
        at_ += size;
        return data_.substr(at_ - size, size);
    }
    template <class T> T integer() { return load<T>(take(sizeof(T)).data()); }
    void end() const {
        if (at_ != data_.size())
            throw TransportError(Cause::protocol,
                                 std::to_string(data_.size() - at_) + " bytes after the metadata's end");
    }

  private:
    std::string_view data_;
    std::size_t at_ = 0;
};

inline std::string to_hex(std::string_view bytes) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string text;
    text.reserve(2 * bytes.size());
    for (const char byte : bytes) {
        text += digits[static_cast<unsigned char>(byte) >> 4];
        text += digits[byte & 15];
    }
    return text;
}

// Two hexadecimal digits a byte; the caller has checked that they are.
inline std::string from_hex(std::string_view text) {
    const auto nibble = [](char digit) { return digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10; };
    std::string bytes;
    for (std::size_t at = 0; at + 1 < text.size(); at += 2)
        bytes += static_cast<char>(nibble(text[at]) << 4 | nibble(text[at + 1]));
    return bytes;
}

} // namespace memkv
