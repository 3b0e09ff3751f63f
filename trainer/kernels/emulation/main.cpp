// A server of kernel launches: requests on standard input, answers on standard output, until the input ends.
//
// The test generates KERNELS_OF_FILE, a header that includes every .cu file, and defines `KERNELS`, the list
// `KERNEL(name) KERNEL(name) ..` of their entries. Numbers are little-endian; texts have their length first.
//
//   request   text kernel; u32 grid[3], block[3]; u64 shared bytes; u8 reverse; text disabled barrier; u32 arguments, each
//             u8 kind: 0 buffer (u32 bytes of an element, u64 bytes, then they), 1 i32, 2 i64, 3 f32, 4 f64
//   answer    u8 0, text: what was wrong
//             u8 1; for each buffer u64 loaded, stored, loaded once, stored once (see cuda_on_cpu.h), its bytes;
//             u64 loaded sectors, stored sectors, barriers; u32 sites, each a text
#include "cuda_on_cpu.h"

#include <map>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <utility>

#include KERNELS_OF_FILE

namespace {

struct Argument {
  std::unique_ptr<emu::Buffer> buffer;
  int64_t integer = 0;
  double real = 0;
  int kind = 0;
};

void read_bytes(void *to, size_t count) {
  if (count && fread(to, 1, count, stdin) != count) exit(0);
}
template <class T> T read() {
  T value;
  read_bytes(&value, sizeof value);
  return value;
}
std::string read_text() {
  std::string text(read<uint32_t>(), 0);
  read_bytes(&text[0], text.size());
  return text;
}
template <class T> void write(T value) { fwrite(&value, sizeof value, 1, stdout); }
void write_text(const std::string &text) {
  write(uint32_t(text.size()));
  fwrite(text.data(), 1, text.size(), stdout);
}

Argument read_argument(uint64_t id) {
  Argument argument;
  argument.kind = read<uint8_t>();
  switch (argument.kind) {
    case 0: {
      argument.buffer = std::make_unique<emu::Buffer>();
      emu::Buffer &buffer = *argument.buffer;
      buffer.id = id;
      buffer.granule = read<uint32_t>();
      buffer.bytes = read<uint64_t>();
      buffer.storage.resize(buffer.bytes + 256);
      auto base = reinterpret_cast<uintptr_t>(buffer.storage.data());
      buffer.data = reinterpret_cast<unsigned char *>((base + 255) & ~uintptr_t(255));
      read_bytes(buffer.data, buffer.bytes);
      buffer.shadow.resize(buffer.bytes / buffer.granule);
      buffer.touched.resize(buffer.bytes / buffer.granule);
      break;
    }
    case 1: argument.integer = read<int32_t>(); break;
    case 2: argument.integer = read<int64_t>(); break;
    case 3: argument.real = read<float>(); break;
    default: argument.real = read<double>(); break;
  }
  return argument;
}

template <class T> struct Decode {
  static T from(const Argument &argument) {
    constexpr int kind = std::is_floating_point<T>::value ? (sizeof(T) == 4 ? 3 : 4) : (sizeof(T) == 4 ? 1 : 2);
    if (argument.kind != kind) throw std::runtime_error("an argument is of another type than the kernel's");
    return std::is_floating_point<T>::value ? T(argument.real) : T(argument.integer);
  }
};
template <class T> struct Decode<emu::Global<T>> {
  static emu::Global<T> from(const Argument &argument) {
    if (argument.kind != 0) throw std::runtime_error("an argument is not a buffer");
    if (argument.buffer->bytes == 0) return {};
    return {reinterpret_cast<T *>(argument.buffer->data), argument.buffer.get()};
  }
};

using Arguments = std::vector<Argument>;
using Body = std::function<void()>;

template <class... A, size_t... I>
Body bound(void (*kernel)(A...), const Arguments &arguments, std::index_sequence<I...>) {
  if (arguments.size() != sizeof...(A))
    throw std::runtime_error("the kernel has " + std::to_string(sizeof...(A)) + " arguments, not " +
                             std::to_string(arguments.size()));
  auto values = std::make_tuple(Decode<A>::from(arguments[I])...);
  return [kernel, values] { kernel(std::get<I>(values)...); };
}
template <class... A> std::function<Body(const Arguments &)> entry(void (*kernel)(A...)) {
  return [kernel](const Arguments &arguments) { return bound(kernel, arguments, std::index_sequence_for<A...>()); };
}

const std::map<std::string, std::function<Body(const Arguments &)>> kernels = {
#define KERNEL(name) {#name, entry(name)},
    KERNELS
#undef KERNEL
};

dim3 read_dim3() {
  unsigned x = read<uint32_t>(), y = read<uint32_t>(), z = read<uint32_t>();
  return dim3(x, y, z);
}

}  // namespace

int main() {
  for (;;) {
    std::string name = read_text();
    dim3 grid = read_dim3(), block = read_dim3();
    uint64_t shared = read<uint64_t>();
    bool reverse = read<uint8_t>();
    std::string disabled = read_text();
    Arguments arguments(read<uint32_t>());
    for (size_t i = 0; i < arguments.size(); i++) arguments[i] = read_argument(i);
    try {
      auto kernel = kernels.find(name);
      if (kernel == kernels.end()) throw std::runtime_error("there is no kernel " + name);
      emu::Counts counts = emu::launch(grid, block, shared, reverse, disabled, kernel->second(arguments));
      write(uint8_t(1));
      for (const Argument &argument : arguments) {
        if (argument.kind != 0) continue;
        const emu::Buffer &buffer = *argument.buffer;
        write(buffer.loaded);
        write(buffer.stored);
        write(buffer.unique_loaded);
        write(buffer.unique_stored);
        fwrite(buffer.data, 1, buffer.bytes, stdout);
      }
      write(counts.load_sectors);
      write(counts.store_sectors);
      write(counts.barriers);
      write(uint32_t(counts.sites.size()));
      for (const std::string &site : counts.sites) write_text(site);
    } catch (const std::exception &error) {
      write(uint8_t(0));
      write_text(name + ": " + error.what());
    }
    fflush(stdout);
  }
}
