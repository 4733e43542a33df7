// SPDX-License-Identifier: Apache-2.0
// Reading the small files an operator names (settings, licenses, keys): bounded, and never blocking.
#pragma once

#include <string>
#include <vector>

namespace memkv::files {

// What the operating system says when a file cannot be read.
struct Unreadable {
    std::string reason;
};

std::string read_regular(const std::string &path, std::size_t limit_bytes); // throws Unreadable
bool exists(const std::string &path);                                       // also a link that leads nowhere
bool is_folder(const std::string &path);
std::vector<std::string> list_sorted(const std::string &folder, const std::string &suffix); // throws Unreadable
std::string expand_user(const std::string &path);                                           // a leading ~/
std::string absolute(const std::string &name);                                              // in the working directory
std::string environment(const char *name);                                                  // empty where it is not set
// The user's and the system's folder of settings, licenses and trusted keys.
std::vector<std::string> config_folders();

} // namespace memkv::files
