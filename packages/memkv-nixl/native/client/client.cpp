// SPDX-License-Identifier: Apache-2.0
#include "client/client.hpp"

#include "client/limits.hpp"
#include "client/log.hpp"
#include "client/prober.hpp"
#include "client/version.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <thread>
#include <unistd.h>

namespace memkv {

namespace {

std::string agent() {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    return ("memkv-nixl/" + std::string(VERSION) + " " + host + ":" + std::to_string(getpid()))
        .substr(0, limits::AGENT_BYTES_MAX);
}

// One table in each process; after a fork the child makes its own, since the parent's lock may be held for ever.
struct Registry {
    int pid;
    std::mutex mutex;
    std::map<std::string, std::weak_ptr<Client>> clients;
};

Registry &registry() {
    static std::atomic<Registry *> current{nullptr}; // never freed: threads may outlive static objects
    Registry *known = current.load();
    while (!known || known->pid != getpid()) {
        auto *fresh = new Registry{getpid(), {}, {}};
        if (current.compare_exchange_strong(known, fresh))
            known = fresh;
        else
            delete fresh;
    }
    return *known;
}

std::string key_of(const Settings &settings) {
    std::string key = settings.auth_key + settings.name;
    for (const long number :
         {settings.timeout_ms, settings.connections, settings.replicas, static_cast<long>(settings.integrity)})
        key += "\n" + std::to_string(number);
    for (const auto &name : settings.server_names())
        key += "\n" + name;
    return key;
}

Outcome outcome_of(Answer answer, Operation operation) {
    switch (answer) {
    case Answer::hit:
        return Outcome::done;
    case Answer::miss:
        return operation == Operation::put ? Outcome::refused : Outcome::missing;
    case Answer::short_of:
    case Answer::corrupt:
        return Outcome::mismatch;
    default:
        return Outcome::refused;
    }
}

} // namespace

std::shared_ptr<Client> Client::shared(const Settings &settings) {
    Registry &table = registry();
    const std::lock_guard lock(table.mutex);
    std::weak_ptr<Client> &entry = table.clients[key_of(settings)];
    std::shared_ptr<Client> client = entry.lock();
    if (!client)
        entry = client = std::make_shared<Client>(settings);
    return client;
}

Client::Client(const Settings &settings)
    : pid_(getpid()), seed_(namespace_seed(settings.name)), timeout_ms_(settings.timeout_ms),
      replicas_(static_cast<std::size_t>(settings.replicas)),
      options_{
          {settings.auth_key, settings.name, agent()}, settings.integrity, settings.connections, settings.timeout_ms},
      ranking_(settings.server_names(), replicas_), deadlines_(std::make_unique<Deadlines>()) {
    for (const Address &address : settings.servers)
        servers_.push_back(std::make_unique<Server>(address, options_, stopping_, static_cast<Dispatch &>(*this)));
    prober_ = std::make_unique<Prober>(servers_, stopping_);
}

Client::~Client() {
    stopping_ = true;
    prober_->join();
    for (const auto &server : servers_)
        server->join();
    deadlines_.reset(); // settles what they left
}

std::string Client::first_contact() {
    const auto deadline = Clock::now() + std::chrono::milliseconds(limits::FIRST_CONTACT_MS);
    const auto nothing = std::make_shared<Batch>(Operation::exists, std::vector<Item>(), deadline);
    for (const auto &server : servers_)
        if (!server->met())
            server->submit({nothing, {}, 0, 0});
    const auto met = [](const auto &server) { return server->met(); };
    while (Clock::now() < deadline && !std::all_of(servers_.begin(), servers_.end(), met))
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (const auto &server : servers_)
        if (const std::string refusal = server->refusal(); !refusal.empty())
            return refusal;
    return "";
}

bool Client::forked() const { return getpid() != pid_; }

std::shared_ptr<Batch> Client::post(Operation operation, std::vector<Item> items) {
    for (Item &item : items) {
        item.hash = key_hash(item.key, seed_);
        item.copies_left = operation == Operation::put ? replicas_ : 1;
    }
    const auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms_);
    auto batch = std::make_shared<Batch>(operation, std::move(items), deadline);
    deadlines_->watch(batch);
    std::vector<std::uint32_t> positions(batch->items.size());
    for (std::uint32_t position = 0; position < positions.size(); ++position)
        positions[position] = position;
    for (std::size_t order = 0; order < (operation == Operation::put ? replicas_ : 1); ++order)
        dispatch(batch, positions, order);
    return batch;
}

void Client::dispatch(const std::shared_ptr<Batch> &batch, const std::vector<std::uint32_t> &positions,
                      std::size_t order) {
    std::vector<Call> shares(servers_.size());
    for (const auto position : positions)
        shares[ranking_.server_of(batch->items[position].hash, order)].positions.push_back(position);
    for (std::size_t number = 0; number < shares.size(); ++number) {
        Call &share = shares[number];
        if (share.positions.empty())
            continue;
        share.batch = batch;
        share.order = order;
        if (servers_[number]->allows())
            servers_[number]->submit(std::move(share));
        else
            failed(share);
    }
}

// -- what the servers say -------------------------------------------------------------------------------------------------

void Client::settle_or_next(const Call &call, const std::vector<std::uint32_t> &positions,
                            const std::vector<Outcome> &outcomes) {
    const bool another = call.batch->operation != Operation::put && call.order + 1 < replicas_;
    std::vector<std::uint32_t> next;
    for (std::size_t place = 0; place < positions.size(); ++place) {
        if (another && outcomes[place] != Outcome::done)
            next.push_back(positions[place]);
        else
            call.batch->settle(positions[place], outcomes[place]);
    }
    if (!next.empty())
        dispatch(call.batch, next, call.order + 1);
}

void Client::answered(const Call &call, const std::vector<Answer> &answers) {
    std::vector<std::uint32_t> positions, longer;
    std::vector<Outcome> outcomes;
    std::size_t refused_count = 0;
    for (std::size_t place = 0; place < answers.size(); ++place) {
        const auto position = call.positions[place];
        if (answers[place] == Answer::too_long) {
            call.batch->items[position].unbounded = true;
            longer.push_back(position);
            continue;
        }
        positions.push_back(position);
        outcomes.push_back(outcome_of(answers[place], call.batch->operation));
        refused_count += outcomes.back() == Outcome::refused;
    }
    if (refused_count)
        log::warning("refused",
                     "a server does not take " + std::to_string(refused_count) +
                         " objects: no space, read only, or longer than a segment; see `memkv admin status`");
    settle_or_next(call, positions, outcomes);
    if (!longer.empty()) // part of a longer object is wanted: all of it is read, since the digest is over all of it
        dispatch(call.batch, longer, call.order);
}

void Client::failed(const Call &call) {
    settle_or_next(call, call.positions, std::vector<Outcome>(call.positions.size(), Outcome::failed));
}

void Client::breaker_opened() { prober_->wake(); }

} // namespace memkv
