// SPDX-License-Identifier: Apache-2.0
// The plugin interface of NIXL 1.x, restated from its documented list of methods: enumerations, the structures that
// cross the boundary, and one abstract class. No header and no symbol of NIXL is used; everything here is inline or pure.
//
// What counts is the order of the virtual methods and the layout of the structures. Both are the same from NIXL 1.0.0 to
// 1.5.1; integration-tests/nixl checks it against each version that is tested.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

enum nixl_mem_t : unsigned { DRAM_SEG, VRAM_SEG, BLK_SEG, OBJ_SEG, FILE_SEG };
enum nixl_xfer_op_t : unsigned { NIXL_READ, NIXL_WRITE };
enum nixl_status_t : int {
    NIXL_IN_PROG = 1,
    NIXL_SUCCESS = 0,
    NIXL_ERR_NOT_POSTED = -1,
    NIXL_ERR_INVALID_PARAM = -2,
    NIXL_ERR_BACKEND = -3,
    NIXL_ERR_NOT_FOUND = -4,
    NIXL_ERR_MISMATCH = -5,
    NIXL_ERR_NOT_ALLOWED = -6,
    NIXL_ERR_REPOST_ACTIVE = -7,
    NIXL_ERR_UNKNOWN = -8,
    NIXL_ERR_NOT_SUPPORTED = -9
};
enum class nixl_thread_sync_t : int { NONE, STRICT, RW };
enum class nixl_cost_t : int { ANALYTICAL_BACKEND = 0 };

using nixl_b_params_t = std::unordered_map<std::string, std::string>;
using nixl_query_resp_t = std::optional<nixl_b_params_t>;
using nixl_mem_list_t = std::vector<nixl_mem_t>;
using nixl_notif_list_t = std::vector<std::pair<std::string, std::string>>;
struct nixlAgentOptionalArgs; // only ever passed through as a pointer

//     nixlBasicDesc    ┌ addr 8 │ len 8 │ devId 8 ┐
//     nixlMetaDesc     ├──────── 24 ──────────────┼ metadataP 8 ┐
//     nixlBlobDesc     ├──────── 24 ──────────────┼ metaInfo std::string 32 ┐
struct nixlBasicDesc {
    std::uintptr_t addr;
    std::size_t len;
    std::uint64_t devId;
};

struct nixlBlobDesc : nixlBasicDesc {
    std::string metaInfo;
};

class nixlBackendMD {
  public:
    explicit nixlBackendMD(bool is_private) : isPrivateMD(is_private) {}
    virtual ~nixlBackendMD() = default;

  protected:
    bool isPrivateMD;
};

class nixlBackendReqH {
  public:
    nixlBackendReqH() = default;
    virtual ~nixlBackendReqH() = default;
};

struct nixlMetaDesc : nixlBasicDesc {
    nixlBackendMD *metadataP;
};

struct nixlRemoteMetaDesc;

// A list that NIXL made and that is only looked at here: vptr │ type │ vector.
template <class T> class nixlDescList {
  public:
    virtual ~nixlDescList() = default; // only so that there is a vptr
    nixlDescList() = delete;

    nixl_mem_t getType() const { return type; }
    std::size_t size() const { return descs.size(); }
    const T &operator[](std::size_t at) const { return descs[at]; }

  protected:
    nixl_mem_t type;
    std::vector<T> descs;
};

using nixl_meta_dlist_t = nixlDescList<nixlMetaDesc>;
using nixl_reg_dlist_t = nixlDescList<nixlBlobDesc>;
using nixl_remote_meta_dlist_t = nixlDescList<nixlRemoteMetaDesc>;

struct nixlBackendOptionalArgs {
    std::string notifMsg;
    bool hasNotif = false;
    std::string customParam;
};

class nixlBackendInitParams {
  public:
    std::string localAgent;
    std::string type;
    nixl_b_params_t *customParams = nullptr;
    bool enableProgTh = false;
    std::uint64_t pthrDelay = 0;
    nixl_thread_sync_t syncMode = nixl_thread_sync_t::NONE;
    bool enableTelemetry_ = false;
};

struct nixlTelemetryEventOpaque {
    std::uint64_t words[8];
}; // none is ever made here: the vector of them stays empty

class nixlBackendEngine {
    std::string backendType;
    nixl_b_params_t customParams;
    std::vector<nixlTelemetryEventOpaque> telemetryEvents_;
    std::mutex telemetryEventsMutex_;

  protected:
    bool initErr = false;
    const std::string localAgent;
    const bool enableTelemetry_;
    using Text = const std::string &;
    using Optional = const nixlBackendOptionalArgs *;

  public:
    explicit nixlBackendEngine(const nixlBackendInitParams *params)
        : backendType(params->type), customParams(*params->customParams), localAgent(params->localAgent),
          enableTelemetry_(params->enableTelemetry_) {}
    nixlBackendEngine(const nixlBackendEngine &) = delete;

    // -- the table of virtual methods, in its order: do not move a line -------------------------------------------------
    virtual ~nixlBackendEngine() = default;
    virtual bool supportsRemote() const = 0;
    virtual bool supportsLocal() const = 0;
    virtual bool supportsNotif() const = 0;
    virtual nixl_mem_list_t getSupportedMems() const = 0;
    virtual nixl_status_t registerMem(const nixlBlobDesc &, const nixl_mem_t &, nixlBackendMD *&) = 0;
    virtual nixl_status_t deregisterMem(nixlBackendMD *) = 0;
    virtual nixl_status_t connect(Text) = 0;
    virtual nixl_status_t disconnect(Text) = 0;
    virtual nixl_status_t unloadMD(nixlBackendMD *) = 0;
    virtual nixl_status_t prepXfer(const nixl_xfer_op_t &, const nixl_meta_dlist_t &, const nixl_meta_dlist_t &, Text,
                                   nixlBackendReqH *&, Optional = nullptr) const = 0;
    virtual nixl_status_t postXfer(const nixl_xfer_op_t &, const nixl_meta_dlist_t &, const nixl_meta_dlist_t &, Text,
                                   nixlBackendReqH *&, Optional = nullptr) const = 0;
    virtual nixl_status_t checkXfer(nixlBackendReqH *) const = 0;
    virtual nixl_status_t releaseReqH(nixlBackendReqH *) const = 0;
    virtual nixl_status_t prepMemView(const nixl_remote_meta_dlist_t &, void *&, Optional = nullptr) const {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    virtual nixl_status_t prepMemView(const nixl_meta_dlist_t &, void *&, Optional = nullptr) const {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    virtual void releaseMemView(void *) const {}
    virtual nixl_status_t getPublicData(const nixlBackendMD *, std::string &) const { return NIXL_ERR_BACKEND; }
    virtual nixl_status_t getConnInfo(std::string &) const { return NIXL_ERR_BACKEND; }
    virtual nixl_status_t loadRemoteConnInfo(Text, Text) { return NIXL_ERR_BACKEND; }
    virtual nixl_status_t loadRemoteMD(const nixlBlobDesc &, const nixl_mem_t &, Text, nixlBackendMD *&) {
        return NIXL_ERR_BACKEND;
    }
    virtual nixl_status_t loadLocalMD(nixlBackendMD *, nixlBackendMD *&) { return NIXL_ERR_BACKEND; }
    virtual nixl_status_t getNotifs(nixl_notif_list_t &) { return NIXL_ERR_BACKEND; }
    virtual nixl_status_t genNotif(Text, Text) const { return NIXL_ERR_BACKEND; }
    virtual nixl_status_t queryMem(const nixl_reg_dlist_t &, std::vector<nixl_query_resp_t> &) const {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    virtual nixl_status_t estimateXferCost(const nixl_xfer_op_t &, const nixl_meta_dlist_t &, const nixl_meta_dlist_t &,
                                           Text, nixlBackendReqH *const &, std::chrono::microseconds &,
                                           std::chrono::microseconds &, nixl_cost_t &,
                                           const nixlAgentOptionalArgs * = nullptr) const {
        return NIXL_ERR_NOT_SUPPORTED;
    }
};

// What nixl_plugin_init gives to NIXL's plugin manager.
struct nixlBackendPlugin {
    int api_version;
    nixlBackendEngine *(*create_engine)(const nixlBackendInitParams *);
    void (*destroy_engine)(nixlBackendEngine *);
    const char *(*get_plugin_name)();
    const char *(*get_plugin_version)();
    nixl_b_params_t (*get_backend_options)();
    nixl_mem_list_t (*get_backend_mems)();
};

inline constexpr int NIXL_PLUGIN_API_VERSION = 1;

static_assert(sizeof(nixlBackendEngine) == 208 && sizeof(nixlBackendInitParams) == 96);
static_assert(sizeof(nixlMetaDesc) == 32 && sizeof(nixlBlobDesc) == 56 && sizeof(nixl_meta_dlist_t) == 40);
static_assert(sizeof(nixlBackendPlugin) == 56 && sizeof(nixlBackendOptionalArgs) == 72);
