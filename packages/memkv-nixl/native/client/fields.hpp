// SPDX-License-Identifier: Apache-2.0
// The table of settings: what each is called, what it accepts, and where it goes.
#pragma once

#include "client/settings.hpp"
#include "client/yaml_file.hpp"

#include <span>
#include <string>
#include <string_view>

namespace memkv {

// Why a value is wrong, and what is accepted.
struct Problem {
    std::string cause;
    std::string accepted;
};

struct Field {
    const char *name;
    void (*parse)(const Value &value, Settings &settings); // throws Problem
    const char *accepted;
    const char *shown_default = "";
    bool required = false;
    bool optional = false; // may be null in yaml
    bool secret = false;
    bool variable = true; // also a setting of other clients: in yaml and environment, not only a parameter
};

std::span<const Field> fields();
const Field *find_field(std::string_view name);

} // namespace memkv
