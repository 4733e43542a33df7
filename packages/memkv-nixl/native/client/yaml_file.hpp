// SPDX-License-Identifier: Apache-2.0
// Reads one yaml settings file: a mapping of texts, numbers and lists of texts, or a ConfigError that quotes none of it.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace memkv {

struct Value {
    enum class Kind { null, boolean, number, text, list, other };

    Kind kind = Kind::text;
    std::string text;               // as written
    std::vector<std::string> items; // of a list

    const char *kind_name() const; // as Python's yaml would call it
};

using Values = std::map<std::string, Value>;

// named_by says who named the file (MEMKV_CONFIG). Throws ConfigError.
Values read_yaml_mapping(const std::string &path, const std::string &named_by);

} // namespace memkv
