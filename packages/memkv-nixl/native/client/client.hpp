// SPDX-License-Identifier: Apache-2.0
// A namespace of a MemKV cluster: batches in, outcomes of each object out, before the deadline. Thread-safe.
// One for all who ask for the same settings in a process, so that they share its connections.
#pragma once

#include "client/batch.hpp"
#include "client/deadlines.hpp"
#include "client/placement.hpp"
#include "client/server.hpp"
#include "client/settings.hpp"

#include <atomic>
#include <memory>
#include <vector>

namespace memkv {

class Prober;

class Client final : private Dispatch {
  public:
    static std::shared_ptr<Client> shared(const Settings &settings);

    explicit Client(const Settings &settings);
    ~Client();
    Client(const Client &) = delete;

    // Starts an operation; nothing here waits. The memory that the items name must stay until the batch is settled or
    // revoked. put: every layout is whole.
    std::shared_ptr<Batch> post(Operation operation, std::vector<Item> items);

    // Speaks to every server for the first time, for FIRST_CONTACT_MS at most. Why one of them does not want this client:
    // another key, another identity, a protocol it does not know. Nothing where all is well, or a server does not answer.
    std::string first_contact();

    // Whether this is the child of a fork: the threads that would do the work are not there.
    bool forked() const;

  private:
    void dispatch(const std::shared_ptr<Batch> &batch, const std::vector<std::uint32_t> &positions, std::size_t order);
    void settle_or_next(const Call &call, const std::vector<std::uint32_t> &positions,
                        const std::vector<Outcome> &outcomes);
    void answered(const Call &call, const std::vector<Answer> &answers) override;
    void failed(const Call &call) override;
    void breaker_opened() override;

    const int pid_;
    const std::uint64_t seed_;
    const long timeout_ms_;
    const std::size_t replicas_;
    const ServerOptions options_;
    const Ranking ranking_;
    std::atomic<bool> stopping_{false};
    std::vector<std::unique_ptr<Server>> servers_;
    std::unique_ptr<Prober> prober_;
    std::unique_ptr<Deadlines> deadlines_;
};

} // namespace memkv
