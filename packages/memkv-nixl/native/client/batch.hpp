// SPDX-License-Identifier: Apache-2.0
// One operation on many objects, and what becomes of each. It is settled when all of them are, or when it is revoked;
// from then on no thread touches the caller's memory.
#pragma once

#include "client/access.hpp"
#include "client/layout.hpp"
#include "client/sync.hpp"

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace memkv {

enum class Operation : std::uint8_t { put, get, exists };

enum class Outcome : std::uint8_t {
    open,     // not known yet
    done,     // stored, read and verified, there
    missing,  // not there
    mismatch, // shorter than wanted, or not the bytes that were put
    refused,  // the server does not take it
    failed    // no answer in time
};

struct Item {
    std::string key;
    Layout layout; // empty for exists
    std::uint64_t hash = 0;
    bool unbounded = false;       // get: it may be longer than what is wanted of it
    std::size_t copies_left = 1;  // put: servers that have not answered yet
    Outcome best = Outcome::open; // put: of those that have
    Outcome outcome = Outcome::open;
};

class Batch {
  public:
    Batch(Operation operation, std::vector<Item> items, Deadline deadline);

    const Operation operation;
    const Deadline deadline;
    std::vector<Item> items; // keys, layouts and hashes do not change; the rest is the batch's own
    Access access;

    // What one server says of one object. Ignored once the object is settled.
    void settle(std::uint32_t position, Outcome outcome);
    // Settles what is open with `rest`: how many objects that were.
    std::size_t revoke(Outcome rest);

    bool settled() const { return settled_.load(std::memory_order_acquire); }
    void wait();           // until it is settled: by its deadline at the latest, which somebody watches
    Outcome worst() const; // once it is settled: what a verdict over all must say

  private:
    void close(Item &item, Outcome outcome);

    std::mutex mutex_;
    Condition changed_;
    std::size_t open_count_;
    std::atomic<bool> settled_;
};

// Part of a batch on one server, or on one lane of it.
struct Call {
    std::shared_ptr<Batch> batch;
    std::vector<std::uint32_t> positions;
    std::size_t order = 0; // which replica of the keys this server is
    int lane_changes = 0;
};

} // namespace memkv
