// SPDX-License-Identifier: Apache-2.0
// From NIXL's descriptors to objects: keys of registrations, and the descriptors of a transfer gathered by object.
#pragma once

#include "client/batch.hpp"
#include "plugin/nixl_abi.hpp"
#include "plugin/registry.hpp"

#include <optional>
#include <string>
#include <vector>

namespace memkv::plugin {

// metaInfo, or else devId in decimal.
std::string object_key(const nixlBlobDesc &descriptor);

// "rw[,create][,direct]:PATH" or "ro[,direct]:PATH", as NIXL's path mode has it; the path is the key.
struct FilePath {
    std::string key;
    bool must_exist; // opened to write, and not to be created
};

std::optional<FilePath> parse_path(const std::string &meta_info);

bool is_key(const std::string &key); // 1 to KEY_BYTES_MAX bytes

// The objects of a transfer: addr of an object's descriptor is the offset in it. What is wrong goes into `why`, and then
// there are none. Two descriptors of one range of an object to write: the last counts.
std::vector<Item> gather(nixl_xfer_op_t operation, const nixl_meta_dlist_t &memory, const nixl_meta_dlist_t &objects,
                         const Registry &registry, std::string &why);

} // namespace memkv::plugin
