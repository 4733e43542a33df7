// SPDX-License-Identifier: Apache-2.0
#include "client/batch.hpp"

namespace memkv {

Batch::Batch(Operation what, std::vector<Item> objects, Deadline until)
    : operation(what), deadline(until), items(std::move(objects)), open_count_(items.size()), settled_(items.empty()) {}

void Batch::settle(std::uint32_t position, Outcome outcome) {
    const std::lock_guard lock(mutex_);
    Item &item = items[position];
    if (item.outcome != Outcome::open)
        return;
    // Several servers keep an object: it is stored when one of them has it.
    if (item.best == Outcome::open || outcome == Outcome::done)
        item.best = outcome;
    if (item.copies_left > 1) {
        --item.copies_left;
        return;
    }
    close(item, item.best);
}

std::size_t Batch::revoke(Outcome rest) {
    access.revoke();
    const std::lock_guard lock(mutex_);
    const std::size_t open_count = open_count_;
    for (Item &item : items)
        if (item.outcome == Outcome::open)
            close(item, item.best == Outcome::done ? item.best : rest);
    return open_count;
}

void Batch::close(Item &item, Outcome outcome) {
    item.outcome = outcome;
    if (--open_count_ == 0) {
        settled_.store(true, std::memory_order_release);
        changed_.notify_all();
    }
}

void Batch::wait() {
    std::unique_lock lock(mutex_);
    while (!settled())
        changed_.wait(lock);
}

Outcome Batch::worst() const {
    Outcome worst = Outcome::done;
    for (const Item &item : items)
        worst = std::max(worst, item.outcome);
    return worst;
}

} // namespace memkv
