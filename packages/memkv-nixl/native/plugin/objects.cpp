// SPDX-License-Identifier: Apache-2.0
#include "plugin/objects.hpp"

#include "client/limits.hpp"

#include <algorithm>
#include <unordered_map>

namespace memkv::plugin {

std::string object_key(const nixlBlobDesc &descriptor) {
    return descriptor.metaInfo.empty() ? std::to_string(descriptor.devId) : descriptor.metaInfo;
}

std::optional<FilePath> parse_path(const std::string &meta_info) {
    const auto colon = meta_info.find(':');
    const std::string flags = "," + meta_info.substr(0, colon) + ",";
    if (colon == meta_info.npos || !(flags.starts_with(",rw,") || flags.starts_with(",ro,")))
        return std::nullopt;
    const bool created = flags.find(",create,") != flags.npos;
    return FilePath{meta_info.substr(colon + 1), flags.starts_with(",rw,") && !created};
}

bool is_key(const std::string &key) { return !key.empty() && key.size() <= limits::KEY_BYTES_MAX; }

namespace {

// One object's ranges, in the order of the descriptors.
struct Gathered {
    std::string key;
    std::vector<Range> ranges;
};

// Nothing where an object is not registered.
std::vector<Gathered> by_key(const nixl_meta_dlist_t &memory, const nixl_meta_dlist_t &objects,
                             const Registry &registry) {
    std::vector<Gathered> gathered;
    gathered.reserve(objects.size());
    std::unordered_map<std::string, std::size_t> places;
    for (std::size_t at = 0; at < objects.size(); ++at) {
        const auto key = registry.key_of(objects[at].metadataP);
        if (!key)
            return {};
        const auto [found, fresh] = places.emplace(*key, gathered.size());
        if (fresh)
            gathered.push_back({*key, {}});
        gathered[found->second].ranges.push_back(
            {objects[at].addr, {reinterpret_cast<char *>(memory[at].addr), memory[at].len}});
    }
    return gathered;
}

void keep_last_of_equals(std::vector<Range> &ranges) {
    std::vector<Range> kept;
    for (auto range = ranges.rbegin(); range != ranges.rend(); ++range)
        if (std::none_of(kept.begin(), kept.end(), [&](const Range &other) {
                return other.offset == range->offset && other.memory.size == range->memory.size;
            }))
            kept.push_back(*range);
    ranges.swap(kept);
}

std::string what_is_wrong(const nixl_meta_dlist_t &memory, const nixl_meta_dlist_t &objects) {
    if (memory.getType() != DRAM_SEG || (objects.getType() != OBJ_SEG && objects.getType() != FILE_SEG))
        return "a transfer is between DRAM on one side and OBJ or FILE on the other";
    if (memory.size() != objects.size())
        return "a transfer has as many descriptors on both sides";
    for (std::size_t at = 0; at < objects.size(); ++at) {
        if (memory[at].len != objects[at].len)
            return "two descriptors of a pair differ in length";
        if (objects[at].addr > limits::VALUE_BYTES_MAX || objects[at].len > limits::VALUE_BYTES_MAX - objects[at].addr)
            return "an object is at most 256 MiB long";
    }
    return "";
}

} // namespace

std::vector<Item> gather(nixl_xfer_op_t operation, const nixl_meta_dlist_t &memory, const nixl_meta_dlist_t &objects,
                         const Registry &registry, std::string &why) {
    std::vector<Item> items;
    why = what_is_wrong(memory, objects);
    if (!why.empty())
        return items;
    auto gathered = by_key(memory, objects, registry);
    if (gathered.empty() && objects.size())
        why = "an object is not registered, or not any more: NIXL before 1.1 mixes up a devId that is used again";
    for (Gathered &object : gathered) {
        if (operation == NIXL_WRITE && object.ranges.size() > 1)
            keep_last_of_equals(object.ranges);
        Item item;
        item.key = std::move(object.key);
        item.layout = Layout(std::move(object.ranges));
        if (operation == NIXL_WRITE && !item.layout.whole()) {
            why = "an object is written whole: its descriptors must be [0, length) without a gap or an overlap";
            return {};
        }
        item.unbounded = !item.layout.whole(); // part of it is wanted: how long it is, is not known
        items.push_back(std::move(item));
    }
    return items;
}

} // namespace memkv::plugin
