// SPDX-License-Identifier: Apache-2.0
#include "client/json.hpp"

#include <nlohmann/json.hpp>

namespace memkv::json {

namespace {

Member member_of(const nlohmann::json &value) {
    if (value.is_number_integer())
        return value.get<long long>();
    if (value.is_number_float())
        return value.get<double>();
    if (value.is_string())
        return value.get<std::string>();
    if (!value.is_array())
        return Other{};
    std::vector<std::string> texts;
    for (const auto &item : value)
        if (item.is_string())
            texts.push_back(item.get<std::string>());
    return texts;
}

} // namespace

std::optional<Object> parse_object(std::string_view text) {
    const auto parsed = nlohmann::json::parse(text, nullptr, false);
    if (!parsed.is_object())
        return std::nullopt;
    Object object;
    for (const auto &[name, value] : parsed.items())
        object[name] = member_of(value);
    return object;
}

} // namespace memkv::json
