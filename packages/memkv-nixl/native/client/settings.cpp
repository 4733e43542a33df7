// SPDX-License-Identifier: Apache-2.0
#include "client/settings.hpp"

#include "client/bytes.hpp"
#include "client/errors.hpp"
#include "client/fields.hpp"
#include "client/files.hpp"
#include "client/log.hpp"
#include "client/yaml_file.hpp"

#include <algorithm>
#include <cctype>
#include <set>

extern char **environ;

namespace memkv {

namespace {

constexpr std::string_view PREFIX = "MEMKV_";
constexpr std::string_view PARAMETER = "backend parameter ";

// Parameters of other names: those of NIXL's OBJ plugin, so that a configuration made for it works with the alias, and
// what sglang passes on. An empty target: accepted, and without effect.
const std::map<std::string, std::string> ALIASES = {{"server", "servers"},
                                                    {"endpoint_override", "servers"},
                                                    {"bucket", "namespace"},
                                                    {"secret_key", "auth_key"},
                                                    {"threads", "connections"},
                                                    {"num_threads", "connections"},
                                                    {"access_key", ""},
                                                    {"session_token", ""},
                                                    {"region", ""},
                                                    {"scheme", ""},
                                                    {"use_virtual_addressing", ""},
                                                    {"req_checksum", ""},
                                                    {"ca_bundle", ""},
                                                    {"active", ""},
                                                    {"crtMinLimit", ""},
                                                    {"accelerated", ""},
                                                    {"type", ""}};

// One source, and how to call it in a message.
struct Layer {
    std::string label;
    Values values;
    std::map<std::string, std::string> labels; // of single settings, where they differ
    std::string label_of(const std::string &name) const {
        const auto found = labels.find(name);
        return found == labels.end() ? label : found->second;
    }
};

std::string upper(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
    return text;
}

std::string without_scheme(std::string endpoint) {
    for (const std::string scheme : {"http://", "https://"})
        if (endpoint.starts_with(scheme))
            endpoint.erase(0, scheme.size());
    while (endpoint.ends_with('/'))
        endpoint.pop_back();
    return endpoint;
}

Layer parameter_layer(const Parameters &parameters) {
    Layer layer{"backend parameters", {}, {}};
    const std::map<std::string, std::string> sorted(parameters.begin(), parameters.end());
    for (const auto &[given, text] : sorted) {
        const auto alias = ALIASES.find(given);
        const std::string name = alias == ALIASES.end() ? given : alias->second;
        if (name.empty() || text.empty())
            continue;
        const std::string value = given == "endpoint_override" ? without_scheme(text) : text;
        if (!layer.values.emplace(name, Value{Value::Kind::text, value, {}}).second)
            throw ConfigError("backend parameters " + given + " and another name of it are both given", "give one");
        layer.labels[name] = std::string(PARAMETER) + given;
    }
    return layer;
}

Layer environment_layer() {
    Layer layer{std::string(PREFIX), {}, {}};
    for (const Field &field : fields()) {
        const std::string variable = std::string(PREFIX) + upper(field.name);
        const std::string value = files::environment(variable.c_str());
        if (field.variable && !value.empty()) {
            layer.values[field.name] = {Value::Kind::text, value, {}};
            layer.labels[field.name] = variable;
        }
    }
    return layer;
}

// A misspelt variable has no effect, and nobody would know.
void warn_unknown_variables() {
    static const std::set<std::string> others = {"MEMKV_CONFIG", "MEMKV_PROMETHEUS_BIND", "MEMKV_OTEL_ENDPOINT",
                                                 "MEMKV_DEBUG", "MEMKV_VECTORS"};
    for (char **entry = environ; entry && *entry; ++entry) {
        const std::string assignment = *entry;
        const std::string name = assignment.substr(0, assignment.find('='));
        if (!name.starts_with(PREFIX) || name.starts_with("MEMKV_SERVER_") || others.contains(name))
            continue;
        const auto known = [&](const Field &field) { return name == std::string(PREFIX) + upper(field.name); };
        if (std::none_of(fields().begin(), fields().end(), known))
            log::warning(name, "environment variable " + name + " is not known and has no effect");
    }
}

std::vector<Layer> layers_of(const Parameters &parameters) {
    std::vector<Layer> layers{parameter_layer(parameters)};
    const std::string path = files::environment("MEMKV_CONFIG");
    if (!path.empty()) {
        Layer file{path, read_yaml_mapping(path, "MEMKV_CONFIG"), {}};
        // `namespace:` with nothing after it leaves an optional setting unset; elsewhere null is an error.
        std::erase_if(file.values, [](const auto &entry) {
            const Field *field = find_field(entry.first);
            return entry.second.kind == Value::Kind::null && field && field->optional;
        });
        layers.push_back(std::move(file));
    }
    layers.push_back(environment_layer());
    return layers;
}

[[noreturn]] void unknown(const Layer &layer, const std::string &name) {
    std::string accepted;
    for (const Field &field : fields())
        if (field.variable || layer.label == "backend parameters")
            accepted += (accepted.empty() ? "" : ", ") + std::string(field.name);
    throw ConfigError(layer.label_of(name) + ": unknown setting '" + name + "'", "accepted: " + accepted);
}

void check_names(const Layer &layer) {
    for (const auto &[name, value] : layer.values) {
        const Field *field = find_field(name);
        if (!field || (!field->variable && layer.label != "backend parameters"))
            unknown(layer, name);
    }
}

void apply(const Field &field, const Layer &layer, Settings &settings) {
    const Value &value = layer.values.at(field.name);
    const std::string where = layer.label_of(field.name);
    settings.sources[field.name] = where;
    try {
        field.parse(value, settings);
    } catch (const Problem &problem) {
        const std::string shown = field.secret ? "" : " = '" + value.text.substr(0, 80) + "'";
        throw ConfigError(where + ": " + field.name + shown + ": " + problem.cause, "accepted: " + problem.accepted);
    }
}

void check_missing(const Settings &settings) {
    std::string missing, hints;
    for (const Field &field : fields()) {
        if (!field.required || settings.sources.contains(field.name))
            continue;
        const char *joint = missing.empty() ? "" : " and ";
        missing += joint + std::string(field.name);
        hints += joint + std::string(PREFIX) + upper(field.name) + " (" + field.accepted + ")";
    }
    if (missing.empty())
        return;
    const bool several = missing.find(" and ") != missing.npos;
    throw ConfigError(missing + (several ? " are not set" : " is not set"),
                      "set " + hints + ", or name a yaml file in MEMKV_CONFIG, or give them as backend parameters");
}

} // namespace

std::string Settings::source_of(const std::string &setting) const {
    const auto found = sources.find(setting);
    return found == sources.end() ? "default" : found->second;
}

std::vector<std::string> Settings::server_names() const {
    std::vector<std::string> names;
    for (const Address &address : servers)
        names.push_back(address.text());
    return names;
}

Settings load_settings(const Parameters &parameters) {
    warn_unknown_variables();
    const std::vector<Layer> layers = layers_of(parameters);
    Settings settings;
    for (const Layer &layer : layers)
        check_names(layer);
    for (const Field &field : fields())
        for (const Layer &layer : layers)
            if (layer.values.contains(field.name)) {
                apply(field, layer, settings);
                break;
            }
    check_missing(settings);
    if (settings.replicas > static_cast<long>(settings.servers.size()))
        throw ConfigError("replicas = " + std::to_string(settings.replicas) + ", but servers lists " +
                              std::to_string(settings.servers.size()),
                          "add servers or lower replicas");
    return settings;
}

Parameters masked(const Parameters &parameters) {
    Parameters shown = parameters;
    for (const char *name : {"auth_key", "secret_key", "session_token"})
        if (shown.contains(name))
            shown[name] = "****";
    if (shown.contains("license") && looks_like_token(shown["license"]))
        shown["license"] = "****";
    return shown;
}

Parameters parameter_defaults() {
    Parameters defaults;
    for (const Field &field : fields())
        defaults[field.name] = field.shown_default;
    return defaults;
}

bool looks_like_token(std::string_view text) { return text.starts_with("eyJ") && text.find('/') == text.npos; }

} // namespace memkv
