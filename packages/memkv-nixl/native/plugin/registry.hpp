// SPDX-License-Identifier: Apache-2.0
// The objects that are registered. What NIXL is given for each, and takes for a pointer to metadata that it never looks
// into, is a number that is used once: NIXL gives some back twice (two equal descriptors), and NIXL 1.0 keeps some after
// they were given back. Either is found out here, and neither can meet the memory, or the number, of another object.
#pragma once

#include "plugin/nixl_abi.hpp"

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

namespace memkv::plugin {

class Registry {
  public:
    nixlBackendMD *add(std::string key) {
        const std::lock_guard lock(mutex_);
        keys_.emplace(++last_, std::move(key));
        return reinterpret_cast<nixlBackendMD *>(last_);
    }

    void remove(const nixlBackendMD *handle) {
        const std::lock_guard lock(mutex_);
        keys_.erase(number_of(handle));
    }

    // Nothing where it is memory, or not registered any more.
    std::optional<std::string> key_of(const nixlBackendMD *handle) const {
        const std::lock_guard lock(mutex_);
        const auto found = keys_.find(number_of(handle));
        return found == keys_.end() ? std::nullopt : std::optional(found->second);
    }

  private:
    static std::uintptr_t number_of(const nixlBackendMD *handle) { return reinterpret_cast<std::uintptr_t>(handle); }

    mutable std::mutex mutex_;
    std::uintptr_t last_ = 0;
    std::unordered_map<std::uintptr_t, std::string> keys_;
};

} // namespace memkv::plugin
