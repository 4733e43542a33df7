// SPDX-License-Identifier: Apache-2.0
// A transfer that NIXL has prepared: posted any number of times, one after the other.
#pragma once

#include "client/batch.hpp"
#include "plugin/nixl_abi.hpp"

#include <memory>
#include <mutex>
#include <vector>

namespace memkv::plugin {

class Request final : public nixlBackendReqH {
  public:
    Request(Operation what, std::vector<Item> objects) : operation(what), items(std::move(objects)) {}

    const Operation operation;
    const std::vector<Item> items; // keys and addresses as they were when it was prepared: registrations may go first

    std::shared_ptr<Batch> batch() const {
        const std::lock_guard lock(mutex_);
        return batch_;
    }
    void set_batch(std::shared_ptr<Batch> batch) {
        const std::lock_guard lock(mutex_);
        batch_ = std::move(batch);
    }

  private:
    mutable std::mutex mutex_;
    std::shared_ptr<Batch> batch_; // of the last post
};

} // namespace memkv::plugin
