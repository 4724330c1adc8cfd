#include "cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bidiff::cuda {

namespace {

constexpr size_t kMaxImageBytes = size_t{64} << 20;  // our images have a few MiB
constexpr char kMagic[8] = {'b', 'i', 'd', 'i', 'f', 'f', '0', '1'};

struct Header {
  char magic[8];
  uint64_t key, size, content;  // hash of the image
};

std::string folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  // The specification says to ignore relative paths.
  if (cache && *cache == '/') return std::string(cache) + "/bidiff_deploy/cuda";
  const char* home = std::getenv("HOME");
  return home && *home == '/' ? std::string(home) + "/.cache/bidiff_deploy/cuda" : "";
}

bool make_folders(const std::string& path) {
  for (size_t end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1)) {
    if (mkdir(path.substr(0, end).c_str(), 0700) && errno != EEXIST) return false;
  }
  return true;
}

class File {
 public:
  File(const std::string& path, int flags) : descriptor_(::open(path.c_str(), flags, 0600)) {}
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  explicit operator bool() const { return descriptor_ >= 0; }

  bool read(void* to, size_t size) const {
    for (char* at = static_cast<char*>(to); size;) {
      const ssize_t count = ::read(descriptor_, at, size);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      at += count;
      size -= static_cast<size_t>(count);
    }
    return true;
  }

  bool write(const void* from, size_t size) const {
    for (const char* at = static_cast<const char*>(from); size;) {
      const ssize_t count = ::write(descriptor_, at, size);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      at += count;
      size -= static_cast<size_t>(count);
    }
    return true;
  }

  // Held until the file is closed, or its process ends.
  bool lock() const { return !flock(descriptor_, LOCK_EX | LOCK_NB); }

  bool has_name() const {
    struct stat status;
    return !fstat(descriptor_, &status) && status.st_nlink > 0;
  }

  // Opens only a regular file of this user that nobody else may write.
  bool size(size_t* size) const {
    struct stat status;
    if (fstat(descriptor_, &status) || !S_ISREG(status.st_mode) || status.st_uid != geteuid() ||
        (status.st_mode & (S_IWGRP | S_IWOTH))) {
      return false;
    }
    *size = static_cast<size_t>(status.st_size);
    return true;
  }

 private:
  const int descriptor_;
};

constexpr char kTemporary[] = ".tmp";

// Those of processes that have ended; a living one holds a lock.
void remove_temporaries(const std::string& folder) {
  DIR* const listing = opendir(folder.c_str());
  if (!listing) return;
  while (const dirent* entry = readdir(listing)) {
    const std::string name = entry->d_name, path = folder + "/" + name;
    const size_t suffix = sizeof(kTemporary) - 1;
    if (name.size() <= suffix || name.compare(name.size() - suffix, suffix, kTemporary)) continue;
    const File opened(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    size_t size = 0;
    if (opened && opened.size(&size) && opened.lock()) unlink(path.c_str());
  }
  closedir(listing);
}

}  // namespace

uint64_t hash(std::string_view text, uint64_t before) {
  for (const char byte : text) {
    before = (before ^ static_cast<unsigned char>(byte)) * 0x100000001b3u;
  }
  return before;
}

std::string cache_file(uint64_t key, const std::string& suffix) {
  const std::string where = folder();
  if (where.empty()) return "";
  char name[24];
  std::snprintf(name, sizeof(name), "/%016llx-", static_cast<unsigned long long>(key));
  return where + name + suffix;
}

std::string read_cache(const std::string& file, uint64_t key) {
  if (file.empty()) return "";
  const File opened(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  size_t size = 0;
  Header header{};
  if (!opened || !opened.size(&size) || size < sizeof(header) ||
      size > sizeof(header) + kMaxImageBytes || !opened.read(&header, sizeof(header))) {
    return "";
  }
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) || header.key != key ||
      header.size != size - sizeof(header)) {
    return "";
  }
  std::string image(header.size, '\0');
  return opened.read(&image[0], image.size()) && hash(image) == header.content ? image : "";
}

void write_cache(const std::string& file, uint64_t key, const std::string& image) {
  if (file.empty() || image.size() > kMaxImageBytes || !make_folders(file)) return;
  static std::atomic<unsigned> count{0};
  remove_temporaries(file.substr(0, file.rfind('/')));
  const std::string temporary =
      file + "." + std::to_string(getpid()) + "." + std::to_string(count++) + kTemporary;
  Header header{{}, key, image.size(), hash(image)};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  const File opened(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC);
  if (!opened) return;
  opened.lock();
  // Without a name, another process took it for one that was left.
  if (!opened.write(&header, sizeof(header)) || !opened.write(image.data(), image.size()) ||
      !opened.has_name() || std::rename(temporary.c_str(), file.c_str())) {
    unlink(temporary.c_str());
  }
}

}  // namespace bidiff::cuda
