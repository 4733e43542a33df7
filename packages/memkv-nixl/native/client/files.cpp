// SPDX-License-Identifier: Apache-2.0
#include "client/files.hpp"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

namespace memkv::files {

namespace {

[[noreturn]] void unreadable(int number) {
    std::string reason = std::strerror(number);
    std::transform(reason.begin(), reason.end(), reason.begin(), [](unsigned char c) { return std::tolower(c); });
    throw Unreadable{reason};
}

class Descriptor {
  public:
    // O_NONBLOCK: opening a FIFO without a writer would wait for ever.
    explicit Descriptor(const std::string &path) : fd_(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
        if (fd_ < 0)
            unreadable(errno);
    }
    ~Descriptor() { close(fd_); }
    Descriptor(const Descriptor &) = delete;
    int get() const { return fd_; }

  private:
    int fd_;
};

bool has_mode(const std::string &path, mode_t kind) {
    struct stat state{};
    return stat(path.c_str(), &state) == 0 && (state.st_mode & S_IFMT) == kind;
}

} // namespace

std::string read_regular(const std::string &path, std::size_t limit_bytes) {
    const Descriptor file(path);
    if (!has_mode(path, S_IFREG))
        throw Unreadable{is_folder(path) ? "it is a folder" : "it is not a regular file"};
    std::string data(limit_bytes + 1, '\0');
    std::size_t size = 0;
    while (size < data.size()) {
        const ssize_t got = read(file.get(), data.data() + size, data.size() - size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            unreadable(errno);
        if (got == 0)
            break;
        size += static_cast<std::size_t>(got);
    }
    if (size > limit_bytes)
        throw Unreadable{"it is longer than " + std::to_string(limit_bytes) + " bytes"};
    data.resize(size);
    return data;
}

bool exists(const std::string &path) { return faccessat(AT_FDCWD, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0; }

bool is_folder(const std::string &path) { return has_mode(path, S_IFDIR); }

std::vector<std::string> list_sorted(const std::string &folder, const std::string &suffix) {
    DIR *stream = opendir(folder.c_str());
    if (!stream)
        unreadable(errno);
    std::vector<std::string> found;
    while (const dirent *entry = readdir(stream)) {
        const std::string name = entry->d_name;
        if (name.size() > suffix.size() && name.ends_with(suffix))
            found.push_back(folder + "/" + name);
    }
    closedir(stream);
    std::sort(found.begin(), found.end());
    return found;
}

std::string environment(const char *name) {
    const char *value = std::getenv(name);
    return value ? value : "";
}

namespace {

std::string home() {
    const std::string named = environment("HOME");
    if (!named.empty())
        return named;
    passwd entry{};
    passwd *found = nullptr;
    char space[4096];
    return getpwuid_r(getuid(), &entry, space, sizeof space, &found) == 0 && found ? found->pw_dir : "/";
}

} // namespace

std::string expand_user(const std::string &path) {
    return path == "~" || path.starts_with("~/") ? home() + path.substr(1) : path;
}

std::string absolute(const std::string &name) {
    char folder[4096];
    return getcwd(folder, sizeof folder) ? std::string(folder) + "/" + name : name;
}

std::vector<std::string> config_folders() {
    const std::string named = environment("XDG_CONFIG_HOME");
    return {(named.empty() ? home() + "/.config" : named) + "/memkv", "/etc/memkv"};
}

} // namespace memkv::files
