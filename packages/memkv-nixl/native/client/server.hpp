// SPDX-License-Identifier: Apache-2.0
// One server of the cluster as a client sees it: its lanes, their queues and threads, its breaker.
//
//     submit ──► lanes known ──► queue of each lane ──► up to `connections` threads a lane, one connection each
//                lanes not known ──► the greeter connects to any lane, learns how many there are, and routes
#pragma once

#include "client/breaker.hpp"
#include "client/connection.hpp"
#include "client/errors.hpp"
#include "client/placement.hpp"

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace memkv {

// Whom a server tells what became of a call. Called from the server's threads.
class Dispatch {
  public:
    virtual void answered(const Call &call, const std::vector<Answer> &answers) = 0;
    virtual void failed(const Call &call) = 0;
    virtual void breaker_opened() = 0;

  protected:
    ~Dispatch() = default;
};

struct ServerOptions {
    Identity identity;
    DigestKind integrity;
    long connections; // for each lane
    long timeout_ms;
};

class Server {
  public:
    Server(Address address, const ServerOptions &options, const std::atomic<bool> &stopping, Dispatch &dispatch);

    void submit(Call share);
    bool met() const;            // whether it was spoken to, or could not be
    std::string refusal() const; // why it does not want this client, if that is so
    void join();                 // `stopping` is set: waits for the threads
    bool allows() const { return !breaker_.open(); }
    bool probe_due(Deadline now) { return breaker_.probe_due(now); }
    void probe();

  private:
    struct Lane {
        std::deque<Call> queue;
        std::unique_ptr<Connection> spare; // made by the greeter
        std::size_t idle = 0;              // threads that wait for work
        std::size_t threads = 0;
        Condition changed;
    };

    void learn(std::size_t lane_count, std::unique_ptr<Connection> connection);
    void route(const Call &share);
    void enqueue(std::size_t number, Call call);
    void start_greeter();
    void greet();
    bool greet_once(const Call &share, int &attempt);
    void work(std::size_t number);
    void run(const Call &call, std::size_t number, std::unique_ptr<Connection> &connection);
    bool try_once(const Call &call, std::size_t number, std::unique_ptr<Connection> &connection, int &attempt);
    void lanes_changed(Call call);
    void note_if_spent(const Batch &batch);
    void note_failure(const TransportError &error, bool session_stands);
    Watch watch(const Call &call) const { return {call.batch->deadline, stopping_, &call.batch->access}; }

    const Address address_;
    const ServerOptions &options_;
    const std::atomic<bool> &stopping_;
    Dispatch &dispatch_;
    Breaker breaker_;

    mutable std::mutex mutex_; // what is below
    bool met_ = false;
    std::string refusal_;
    std::size_t lane_count_ = 0;
    std::optional<LaneTable> lane_table_;
    std::deque<Lane> lanes_;    // never shrinks: threads refer to them
    std::vector<Call> waiting_; // for the greeter
    bool greeting_ = false;
    std::thread greeter_;
    std::vector<std::thread> threads_;
};

} // namespace memkv
