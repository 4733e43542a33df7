// SPDX-License-Identifier: Apache-2.0
// A JSON object's top level: what a WELCOME and a token's parts hold. One place for the library, whose headers are large.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace memkv::json {

struct Other {}; // null, a boolean, an object

using Member = std::variant<Other, long long, double, std::string, std::vector<std::string>>;
using Object = std::map<std::string, Member>;

std::optional<Object> parse_object(std::string_view text); // nothing where it is no JSON object

template <class T> const T *get(const Object &object, const std::string &name) {
    const auto found = object.find(name);
    return found == object.end() ? nullptr : std::get_if<T>(&found->second);
}

} // namespace memkv::json
