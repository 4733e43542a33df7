// SPDX-License-Identifier: Apache-2.0
// Keeps what Debian 12 builds (gcc 12, glibc 2.36) loadable on manylinux_2_28. The linker gives a reference its newest
// version; those that libcrypto makes are wrapped (-Wl,--wrap) and answered here with the version of the first day, which
// every glibc has: what moved into libc.so in 2.34 (threads, dl*) and stat as a function of 2.33.
#include <cstdlib>
#include <dlfcn.h>
#include <new>
#include <pthread.h>
#include <sys/stat.h>

#if defined(__x86_64__)
#define MEMKV_FIRST "GLIBC_2.2.5"
#define MEMKV_CLOCK "GLIBC_2.3.3"
#define MEMKV_STAT_VERSION 1
#elif defined(__aarch64__)
#define MEMKV_FIRST "GLIBC_2.17"
#define MEMKV_CLOCK "GLIBC_2.17"
#define MEMKV_STAT_VERSION 0
#else
#error "the versions of this machine's glibc are not known here"
#endif

#define MEMKV_OLD(result, name, parameters, arguments) MEMKV_AT(MEMKV_FIRST, result, name, parameters, arguments)
#define MEMKV_AT(version, result, name, parameters, arguments)                                                         \
    result memkv_old_##name parameters;                                                                                \
    __asm__(".symver memkv_old_" #name "," #name "@" version);                                                         \
    __attribute__((visibility("hidden"))) result __wrap_##name parameters { return memkv_old_##name arguments; }

extern "C" {

// Before 2.32 the C++ library asked another way whether there is one thread only; always saying no is right, if slower.
__attribute__((visibility("hidden"))) char __libc_single_threaded;

MEMKV_OLD(int, pthread_once, (pthread_once_t * control, void (*routine)()), (control, routine))
MEMKV_OLD(int, pthread_key_create, (pthread_key_t * key, void (*destructor)(void *)), (key, destructor))
MEMKV_OLD(int, pthread_key_delete, (pthread_key_t key), (key))
MEMKV_OLD(void *, pthread_getspecific, (pthread_key_t key), (key))
MEMKV_OLD(int, pthread_setspecific, (pthread_key_t key, const void *value), (key, value))
MEMKV_OLD(int, pthread_rwlock_init, (pthread_rwlock_t * lock, const pthread_rwlockattr_t *attributes),
          (lock, attributes))
MEMKV_OLD(int, pthread_rwlock_destroy, (pthread_rwlock_t * lock), (lock))
MEMKV_OLD(int, pthread_rwlock_rdlock, (pthread_rwlock_t * lock), (lock))
MEMKV_OLD(int, pthread_rwlock_wrlock, (pthread_rwlock_t * lock), (lock))
MEMKV_OLD(int, pthread_rwlock_unlock, (pthread_rwlock_t * lock), (lock))
MEMKV_OLD(int, pthread_sigmask, (int how, const sigset_t *set, sigset_t *before), (how, set, before))
MEMKV_AT(MEMKV_CLOCK, int, pthread_condattr_setclock, (pthread_condattr_t * attributes, clockid_t clock),
         (attributes, clock))
MEMKV_OLD(void *, dlopen, (const char *file, int mode), (file, mode))
MEMKV_OLD(void *, dlsym, (void *handle, const char *symbol), (handle, symbol))
MEMKV_OLD(int, dlclose, (void *handle), (handle))
MEMKV_OLD(char *, dlerror, (), ())
MEMKV_OLD(int, dladdr, (const void *address, Dl_info *found), (address, found))

int memkv_old_stat(int version, const char *path, struct stat *state);
int memkv_old_fstat(int version, int fd, struct stat *state);
__asm__(".symver memkv_old_stat,__xstat@" MEMKV_FIRST);
__asm__(".symver memkv_old_fstat,__fxstat@" MEMKV_FIRST);

__attribute__((visibility("hidden"))) int __wrap_stat(const char *path, struct stat *state) {
    return memkv_old_stat(MEMKV_STAT_VERSION, path, state);
}
__attribute__((visibility("hidden"))) int __wrap_fstat(int fd, struct stat *state) {
    return memkv_old_fstat(MEMKV_STAT_VERSION, fd, state);
}
}

namespace std {

// GLIBCXX_3.4.29
__attribute__((visibility("hidden"), noreturn)) void __throw_bad_array_new_length() {
    throw std::bad_array_new_length();
}

} // namespace std
