// SPDX-License-Identifier: Apache-2.0
#include "client/yaml_file.hpp"

#include "client/errors.hpp"
#include "client/files.hpp"
#include "client/limits.hpp"

#include <algorithm>
#include <cctype>
#include <yaml.h>

namespace memkv {

namespace {

// libyaml's document of a text, freed with this.
class Document {
  public:
    Document(const std::string &text, const std::string &file, const std::string &remedy) {
        yaml_parser_t parser;
        yaml_parser_initialize(&parser);
        yaml_parser_set_input_string(&parser, reinterpret_cast<const unsigned char *>(text.data()), text.size());
        loaded_ = yaml_parser_load(&parser, &document_) == 1;
        const auto mark = parser.problem_mark;
        yaml_parser_delete(&parser);
        if (!loaded_)
            throw ConfigError(file + " is not valid yaml at line " + std::to_string(mark.line + 1) + ", column " +
                                  std::to_string(mark.column + 1),
                              remedy);
    }
    ~Document() {
        if (loaded_)
            yaml_document_delete(&document_);
    }
    Document(const Document &) = delete;

    const yaml_node_t *root() { return yaml_document_get_root_node(&document_); }
    const yaml_node_t *node(int index) { return yaml_document_get_node(&document_, index); }

  private:
    yaml_document_t document_;
    bool loaded_ = false;
};

std::string scalar_text(const yaml_node_t *node) {
    return {reinterpret_cast<const char *>(node->data.scalar.value), node->data.scalar.length};
}

bool is_number(const std::string &text) {
    std::size_t at = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
    if (at == text.size() || !std::isdigit(static_cast<unsigned char>(text[at])))
        return false;
    if (text.substr(at, 2) == "0x")
        return text.find_first_not_of("0123456789abcdefABCDEF_", at + 2) == text.npos;
    return text.find_first_not_of("0123456789_", at) == text.npos ||
           (std::count(text.begin(), text.end(), '.') == 1 && text.find_first_not_of("0123456789_.", at) == text.npos);
}

// What a plain scalar means in yaml 1.1.
Value::Kind plain_kind(const std::string &text) {
    static constexpr const char *nulls[] = {"", "~", "null", "Null", "NULL"};
    static constexpr const char *booleans[] = {"yes", "no", "on", "off", "true", "false"};
    if (std::find(std::begin(nulls), std::end(nulls), text) != std::end(nulls))
        return Value::Kind::null;
    std::string lower = text;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
    if (std::find(std::begin(booleans), std::end(booleans), lower) != std::end(booleans))
        return Value::Kind::boolean;
    return is_number(text) ? Value::Kind::number : Value::Kind::text;
}

Value::Kind scalar_kind(const yaml_node_t *node) {
    return node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? plain_kind(scalar_text(node)) : Value::Kind::text;
}

Value value_of(Document &document, const yaml_node_t *node) {
    if (node->type == YAML_SCALAR_NODE)
        return {scalar_kind(node), scalar_text(node), {}};
    if (node->type != YAML_SEQUENCE_NODE)
        return {Value::Kind::other, "", {}};
    Value list{Value::Kind::list, "", {}};
    for (auto item = node->data.sequence.items.start; item < node->data.sequence.items.top; ++item) {
        const yaml_node_t *entry = document.node(*item);
        if (entry->type != YAML_SCALAR_NODE || scalar_kind(entry) != Value::Kind::text)
            return {Value::Kind::other, "", {}};
        list.items.push_back(scalar_text(entry));
    }
    return list;
}

} // namespace

const char *Value::kind_name() const {
    switch (kind) {
    case Kind::null:
        return "NoneType";
    case Kind::boolean:
        return "bool";
    case Kind::number:
        return "number";
    case Kind::list:
        return "list";
    case Kind::other:
        return "nested value";
    default:
        return "text";
    }
}

Values read_yaml_mapping(const std::string &path, const std::string &named_by) {
    const std::string file = path + " (" + named_by + ")";
    const std::string remedy = "correct the file, or what " + named_by + " names";
    std::string text;
    try {
        text = files::read_regular(path, limits::CONFIG_BYTES_MAX);
    } catch (const files::Unreadable &error) {
        throw ConfigError(file + " cannot be read: " + error.reason, remedy);
    }
    Document document(text, file, remedy);
    const yaml_node_t *root = document.root();
    if (!root || (root->type == YAML_SCALAR_NODE && scalar_kind(root) == Value::Kind::null))
        return {};
    if (root->type != YAML_MAPPING_NODE)
        throw ConfigError(file + " does not hold `key: value` lines", remedy);
    Values values;
    for (auto pair = root->data.mapping.pairs.start; pair < root->data.mapping.pairs.top; ++pair) {
        const yaml_node_t *key = document.node(pair->key);
        if (key->type != YAML_SCALAR_NODE || scalar_kind(key) != Value::Kind::text)
            throw ConfigError(file + ": a key at line " + std::to_string(key->start_mark.line + 1) + " is not text",
                              "quote the key or remove it");
        if (!values.emplace(scalar_text(key), value_of(document, document.node(pair->value))).second)
            throw ConfigError(file + " is not valid yaml at line " + std::to_string(key->start_mark.line + 1) +
                                  ": a key is given twice",
                              remedy);
    }
    return values;
}

} // namespace memkv
