// SPDX-License-Identifier: Apache-2.0
// The backend that NIXL calls: registrations, transfers and queries, on a Client that all backends of the same settings
// in a process share. Every method may be called by several threads at once; none throws, and only queryMem, and
// registerMem for a file that must exist, wait for the network.
#pragma once

#include "client/client.hpp"
#include "plugin/nixl_abi.hpp"
#include "plugin/registry.hpp"
#include "plugin/request.hpp"

#include <memory>

namespace memkv::plugin {

class Engine final : public nixlBackendEngine {
  public:
    // `shown` are the parameters without their secrets: NIXL gives them to whoever asks for the backend's parameters.
    Engine(const nixlBackendInitParams *shown, const Settings &settings, std::shared_ptr<Client> client);
    ~Engine() override;

    bool supportsRemote() const override { return false; }
    bool supportsLocal() const override { return true; }
    bool supportsNotif() const override { return false; }
    nixl_mem_list_t getSupportedMems() const override { return {DRAM_SEG, OBJ_SEG, FILE_SEG}; }

    nixl_status_t registerMem(const nixlBlobDesc &descriptor, const nixl_mem_t &kind, nixlBackendMD *&out) override;
    nixl_status_t deregisterMem(nixlBackendMD *registered) override;
    nixl_status_t connect(Text) override { return NIXL_SUCCESS; }
    nixl_status_t disconnect(Text) override { return NIXL_SUCCESS; }
    nixl_status_t unloadMD(nixlBackendMD *) override { return NIXL_SUCCESS; }
    nixl_status_t loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) override {
        output = input;
        return NIXL_SUCCESS;
    }

    nixl_status_t prepXfer(const nixl_xfer_op_t &operation, const nixl_meta_dlist_t &local,
                           const nixl_meta_dlist_t &remote, Text remote_agent, nixlBackendReqH *&handle,
                           Optional args) const override;
    nixl_status_t postXfer(const nixl_xfer_op_t &operation, const nixl_meta_dlist_t &local,
                           const nixl_meta_dlist_t &remote, Text remote_agent, nixlBackendReqH *&handle,
                           Optional args) const override;
    nixl_status_t checkXfer(nixlBackendReqH *handle) const override;
    nixl_status_t releaseReqH(nixlBackendReqH *handle) const override;
    nixl_status_t queryMem(const nixl_reg_dlist_t &descriptors,
                           std::vector<nixl_query_resp_t> &responses) const override;

  private:
    nixl_status_t register_file(const nixlBlobDesc &descriptor, nixlBackendMD *&out);
    nixl_status_t keep(std::string key, nixlBackendMD *&out);
    nixl_status_t status_of(const Batch &batch) const;
    nixl_status_t precise_status_of(const Batch &batch) const;
    std::shared_ptr<Batch> look_up(std::vector<Item> items) const; // waits, at most for a time-out

    const bool miss_on_error_;
    const bool plain_errors_;
    std::shared_ptr<Client> client_;
    Registry registry_;
};

} // namespace memkv::plugin
