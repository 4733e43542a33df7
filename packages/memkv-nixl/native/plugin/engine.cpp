// SPDX-License-Identifier: Apache-2.0
#include "plugin/engine.hpp"

#include "client/log.hpp"
#include "plugin/objects.hpp"

namespace memkv::plugin {

namespace {

nixl_status_t refuse(nixl_status_t status, const std::string &why) {
    log::warning(why, why);
    return status;
}

// No exception crosses the boundary: the other side is compiled by others.
template <class Body> nixl_status_t guarded(Body body) {
    try {
        return body();
    } catch (const std::exception &error) {
        return refuse(NIXL_ERR_BACKEND, std::string("unexpected: ") + error.what());
    } catch (...) {
        return refuse(NIXL_ERR_BACKEND, "unexpected");
    }
}

constexpr const char *FORKED = "this process is a fork: make an agent of its own";

} // namespace

Engine::Engine(const nixlBackendInitParams *shown, const Settings &settings, std::shared_ptr<Client> client)
    : nixlBackendEngine(shown), miss_on_error_(settings.miss_on_error), plain_errors_(settings.plain_errors),
      client_(std::move(client)) {}

Engine::~Engine() {
    if (client_->forked()) // its threads are not here to be waited for
        new std::shared_ptr<Client>(std::move(client_));
}

// -- registrations --------------------------------------------------------------------------------------------------------

nixl_status_t Engine::registerMem(const nixlBlobDesc &descriptor, const nixl_mem_t &kind, nixlBackendMD *&out) {
    return guarded([&] {
        out = nullptr;
        switch (kind) {
        case DRAM_SEG:
            return NIXL_SUCCESS;
        case OBJ_SEG:
            return keep(object_key(descriptor), out);
        case FILE_SEG:
            return register_file(descriptor, out);
        default:
            return NIXL_ERR_NOT_SUPPORTED;
        }
    });
}

nixl_status_t Engine::register_file(const nixlBlobDesc &descriptor, nixlBackendMD *&out) {
    auto path = parse_path(descriptor.metaInfo);
    if (!path)
        return refuse(NIXL_ERR_NOT_SUPPORTED,
                      "a FILE is registered by path: metaInfo \"rw,create:PATH\" or \"ro:PATH\"");
    if (path->must_exist && is_key(path->key)) {
        std::vector<Item> items(1);
        items[0].key = path->key;
        const auto batch = look_up(std::move(items));
        if (!batch || batch->worst() != Outcome::done)
            return NIXL_ERR_BACKEND; // as a file that cannot be opened; sglang asks so whether there is a path mode
    }
    return keep(std::move(path->key), out);
}

nixl_status_t Engine::keep(std::string key, nixlBackendMD *&out) {
    if (!is_key(key))
        return refuse(NIXL_ERR_INVALID_PARAM,
                      "a key of " + std::to_string(key.size()) + " bytes; 1 to 512 are accepted");
    out = registry_.add(std::move(key));
    return NIXL_SUCCESS;
}

nixl_status_t Engine::deregisterMem(nixlBackendMD *registered) {
    return guarded([&] {
        registry_.remove(registered);
        return NIXL_SUCCESS;
    });
}

// -- transfers ------------------------------------------------------------------------------------------------------------

nixl_status_t Engine::prepXfer(const nixl_xfer_op_t &operation, const nixl_meta_dlist_t &local,
                               const nixl_meta_dlist_t &remote, Text, nixlBackendReqH *&handle, Optional) const {
    return guarded([&] {
        std::string why;
        auto items = gather(operation, local, remote, registry_, why);
        if (!why.empty())
            return refuse(NIXL_ERR_INVALID_PARAM, why);
        handle = new Request(operation == NIXL_WRITE ? Operation::put : Operation::get, std::move(items));
        return NIXL_SUCCESS;
    });
}

nixl_status_t Engine::postXfer(const nixl_xfer_op_t &, const nixl_meta_dlist_t &, const nixl_meta_dlist_t &, Text,
                               nixlBackendReqH *&handle, Optional) const {
    return guarded([&] {
        auto *request = static_cast<Request *>(handle);
        if (!request)
            return NIXL_ERR_INVALID_PARAM;
        if (client_->forked())
            return refuse(NIXL_ERR_BACKEND, FORKED);
        const auto last = request->batch();
        if (last && !last->settled())
            return NIXL_ERR_REPOST_ACTIVE;
        auto batch = client_->post(request->operation, request->items);
        request->set_batch(batch);
        // What failed already is told by checkXfer: to NIXL an error of a post means that nothing was posted.
        return status_of(*batch) == NIXL_SUCCESS ? NIXL_SUCCESS : NIXL_IN_PROG;
    });
}

nixl_status_t Engine::status_of(const Batch &batch) const {
    const nixl_status_t status = precise_status_of(batch);
    return plain_errors_ && status < 0 ? NIXL_ERR_BACKEND : status;
}

nixl_status_t Engine::precise_status_of(const Batch &batch) const {
    if (!batch.settled())
        return NIXL_IN_PROG; // until every object is: then nothing touches the memory any more
    switch (batch.worst()) {
    case Outcome::done:
        return NIXL_SUCCESS;
    case Outcome::missing:
        return NIXL_ERR_NOT_FOUND;
    case Outcome::mismatch:
        return NIXL_ERR_MISMATCH;
    default:
        return miss_on_error_ && batch.operation == Operation::get ? NIXL_ERR_NOT_FOUND : NIXL_ERR_BACKEND;
    }
}

nixl_status_t Engine::checkXfer(nixlBackendReqH *handle) const {
    return guarded([&] {
        const auto *request = static_cast<Request *>(handle);
        if (!request)
            return NIXL_ERR_INVALID_PARAM;
        const auto batch = request->batch();
        if (!batch)
            return NIXL_ERR_NOT_POSTED;
        if (client_->forked())
            return NIXL_ERR_BACKEND;
        return status_of(*batch);
    });
}

nixl_status_t Engine::releaseReqH(nixlBackendReqH *handle) const {
    return guarded([&] {
        if (client_->forked())
            return NIXL_SUCCESS; // what threads that are not here hold is left as it is
        const std::unique_ptr<Request> request(static_cast<Request *>(handle));
        const auto batch = request ? request->batch() : nullptr;
        if (batch && !batch->settled())
            batch->revoke(Outcome::failed); // waits for system calls that do not block, and no longer
        return NIXL_SUCCESS;
    });
}

// -- queries --------------------------------------------------------------------------------------------------------------

std::shared_ptr<Batch> Engine::look_up(std::vector<Item> items) const {
    if (client_->forked()) {
        log::warning(FORKED, FORKED);
        return nullptr;
    }
    auto batch = client_->post(Operation::exists, std::move(items));
    batch->wait();
    return batch;
}

nixl_status_t Engine::queryMem(const nixl_reg_dlist_t &descriptors, std::vector<nixl_query_resp_t> &responses) const {
    return guarded([&] {
        responses.assign(descriptors.size(), std::nullopt);
        std::vector<Item> items(descriptors.size());
        for (std::size_t at = 0; at < items.size(); ++at) {
            items[at].key = object_key(descriptors[at]);
            if (!is_key(items[at].key))
                return refuse(NIXL_ERR_INVALID_PARAM, "a key of 1 to 512 bytes is accepted");
        }
        const auto batch = look_up(std::move(items));
        if (!batch || batch->worst() == Outcome::failed || batch->worst() == Outcome::refused)
            return miss_on_error_ ? NIXL_SUCCESS : NIXL_ERR_BACKEND;
        for (std::size_t at = 0; at < responses.size(); ++at)
            if (batch->items[at].outcome == Outcome::done)
                responses[at].emplace();
        return NIXL_SUCCESS;
    });
}

} // namespace memkv::plugin
