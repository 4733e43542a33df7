// SPDX-License-Identifier: Apache-2.0
// Finds and verifies the license, offline, before anything connects; sources and rules as memkv_core/license.py.
//
// The first source that names a license is the one that counts; if that one is bad, the error says so and no later
// source is tried: `license` of the settings, MINIO_LICENSE, AISTOR_LICENSE, then the file minio.license in the working
// directory, the user's and the system's config folder.
#pragma once

#include "client/settings.hpp"

#include <string>

namespace memkv {

struct License {
    std::string plan;
    std::string licensee;
    std::string source; // where it was found
};

License load_license(const Settings &settings); // throws LicenseError

} // namespace memkv
