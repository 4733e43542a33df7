// SPDX-License-Identifier: Apache-2.0
// The two functions that NIXL's plugin manager looks for; all else in this library is hidden. It finds the library by
// its file name, so that the same file serves under any name: libplugin_MEMKV.so, and libplugin_OBJ.so as an alias.
#include "client/errors.hpp"
#include "client/license.hpp"
#include "client/log.hpp"
#include "client/version.hpp"
#include "plugin/engine.hpp"

namespace memkv::plugin {

namespace {

nixlBackendEngine *create(const nixlBackendInitParams *params) {
    try {
        nixl_b_params_t given = params->customParams ? *params->customParams : nixl_b_params_t();
        // NIXL's own OBJ backend knows one error, and engines that were written to it catch no other (LMCache 0.5.6).
        if (params->type == "OBJ")
            given.emplace("error_codes", "backend");
        const Settings settings = load_settings(given);
        const License license = load_license(settings);
        log::info("memkv-client license verified plan=" + license.plan);
        for (const auto &server : settings.server_names())
            log::info("Server mapped to rail server=\"" + server + "\"");
        auto client = Client::shared(settings);
        const std::string refusal = client->first_contact();
        if (!refusal.empty())
            throw std::runtime_error(refusal);
        nixl_b_params_t shown_params = masked(given);
        nixlBackendInitParams shown = *params;
        shown.customParams = &shown_params;
        return new Engine(&shown, settings, std::move(client));
    } catch (const std::exception &error) {
        log::error("MEMKV backend cannot be created: " + std::string(error.what()));
    } catch (...) {
        log::error("MEMKV backend cannot be created");
    }
    return nullptr; // NIXL says that the backend failed; the line above says why
}

void destroy(nixlBackendEngine *engine) { delete engine; }

const char *name() { return "MEMKV"; }

const char *version() { return VERSION; }

nixl_b_params_t options() { return parameter_defaults(); }

nixl_mem_list_t kinds_of_memory() { return {DRAM_SEG, OBJ_SEG, FILE_SEG}; }

} // namespace

} // namespace memkv::plugin

extern "C" {

__attribute__((visibility("default"))) nixlBackendPlugin *nixl_plugin_init() {
    using namespace memkv::plugin;
    static nixlBackendPlugin plugin{NIXL_PLUGIN_API_VERSION, create, destroy, name, version, options, kinds_of_memory};
    return &plugin;
}

__attribute__((visibility("default"))) void nixl_plugin_fini() {}
}
