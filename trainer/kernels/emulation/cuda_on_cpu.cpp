// The scheduler of fibres and the checks of memory accesses; see cuda_on_cpu.h.
#include "cuda_on_cpu.h"

#include <algorithm>
#include <csetjmp>
#include <map>
#include <memory>
#include <stdexcept>
#include <ucontext.h>

namespace emu {

dim3 thread_index, block_index, block_size, grid_size;
SharedMemory shared_memory;

namespace {

constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK = 64 << 10;
constexpr size_t STATIC_BYTES = 48 << 10;
constexpr uint32_t SEVERAL_OF_A_WARP = 1u << 31, SEVERAL = 1u << 30;

enum class State { running, at_barrier, at_exchange, finished };

struct Fibre {
  ucontext_t start;
  jmp_buf resume;
  bool is_started = false;
  State state = State::running;
  dim3 index;
  Site site{};
};

std::vector<Fibre> fibres;
std::unique_ptr<char[]> stacks;
jmp_buf scheduler;
unsigned current;
const std::function<void()> *body_of_threads;
std::string failure;
bool has_failed;

std::string disabled_site;
Counts counts;
std::map<std::pair<std::string, int>, std::string> sites;

// Words of a warp's exchange, two sets in turn: nobody can be two exchanges ahead of anybody.
std::vector<uint64_t> slots;
std::vector<unsigned> exchanges;

// A lane's fragments of a product, two sets in turn as the slots.
struct Fragments {
  uint32_t a[4], b[2];
};
std::vector<Fragments> fragments;

// Time is counted in barriers: of the block, and of each warp.
uint32_t epoch, block_number;
std::vector<uint32_t> warp_epochs;

// Accesses of a warp: the n-th one of each of its threads is one instruction, as long as they do not diverge.
struct Instruction {
  bool writes;
  std::vector<uint64_t> sectors;
};
std::vector<std::vector<Instruction>> instructions;
std::vector<uint32_t> accesses;

std::map<const void *, size_t> statics;
size_t statics_used, dynamic_bytes;

// ucontext starts a fibre; after that setjmp and longjmp switch without a call of the system.
void park(State state) {
  fibres[current].state = state;
  if (!_setjmp(fibres[current].resume)) _longjmp(scheduler, 1);
}

void resume(Fibre &fibre) {
  if (_setjmp(scheduler)) return;
  if (fibre.is_started) _longjmp(fibre.resume, 1);
  fibre.is_started = true;
  setcontext(&fibre.start);
}

void run_fibre() {
  for (;;) {
    (*body_of_threads)();
    park(State::finished);
  }
}

std::string name_of(Site site) {
  auto &name = sites[{site.file, site.line}];
  if (name.empty()) {
    const char *slash = strrchr(site.file, '/');
    name = std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
    counts.sites.push_back(name);
  }
  return name;
}

uint32_t me() { return block_number * MAX_THREADS + current + 1; }
uint32_t block_of(uint32_t who) { return (who - 1) / MAX_THREADS; }
uint32_t warp_of(uint32_t who) { return (who - 1) / WARP; }   // MAX_THREADS is a multiple of a warp

/// Whether what `who` did is over for this thread: it did it itself, or a barrier lies between.
bool is_before(uint32_t who, uint32_t at, uint32_t at_warp) {
  if (who == 0 || who == me()) return true;
  bool is_several = who & SEVERAL, is_several_of_a_warp = who & SEVERAL_OF_A_WARP;
  who &= ~(SEVERAL | SEVERAL_OF_A_WARP);
  if (block_of(who) != block_number) return false;
  if (at < epoch) return true;
  bool is_of_my_warp = warp_of(who) == warp_of(me()) && (is_several_of_a_warp || !is_several);
  return is_of_my_warp && at_warp < warp_epochs[current / WARP];
}

void count_sectors(uint64_t first, uint64_t last, bool writes) {
  auto &list = instructions[current / WARP];
  uint32_t number = accesses[current]++;
  if (list.size() <= number) list.resize(number + 1);
  Instruction &instruction = list[number];
  instruction.writes = writes;
  for (uint64_t sector = first; sector <= last; sector++) {
    auto &known = instruction.sectors;
    if (std::find(known.rbegin(), known.rend(), sector) == known.rend()) known.push_back(sector);
  }
}

void start_block(unsigned threads) {
  memset(shared_memory.data, 0xff, shared_memory.bytes);   // not a number, should a check be missing
  shared_memory.shadow.assign(shared_memory.bytes / 4, {});
  for (unsigned i = 0; i < threads; i++) {
    Fibre &fibre = fibres[i];
    fibre.state = State::running;
    fibre.index = dim3(i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y));
    if (!fibre.is_started) {
      getcontext(&fibre.start);
      fibre.start.uc_stack.ss_sp = stacks.get() + STACK * i;
      fibre.start.uc_stack.ss_size = STACK;
      fibre.start.uc_link = nullptr;
      makecontext(&fibre.start, run_fibre, 0);
    }
  }
  epoch = 0;
  std::fill(warp_epochs.begin(), warp_epochs.end(), 0);
  std::fill(exchanges.begin(), exchanges.end(), 0);
  std::fill(accesses.begin(), accesses.end(), 0);
  for (auto &list : instructions) list.clear();
}

bool is_same(Site a, Site b) { return a.line == b.line && strcmp(a.file, b.file) == 0; }

/// Lets a warp go on to its next barrier.
void run_warp(unsigned begin, unsigned end, bool reverse) {
  for (;;) {
    bool has_run = false;
    for (unsigned step = begin; step < end && !has_failed; step++) {
      unsigned i = reverse ? begin + end - 1 - step : step;
      if (fibres[i].state == State::running) {
        current = i;
        thread_index = fibres[i].index;
        resume(fibres[i]);
        has_run = true;
      }
    }
    if (has_failed) return;
    unsigned waiting = 0;
    for (unsigned i = begin; i < end; i++) waiting += fibres[i].state == State::at_exchange;
    if (waiting == 0) {
      if (!has_run) return;
      continue;
    }
    Site site = {};
    for (unsigned i = begin; i < end; i++)
      if (fibres[i].state == State::at_exchange) site = fibres[i].site;
    bool is_whole = waiting == end - begin && end - begin == WARP;
    for (unsigned i = begin; i < end; i++) is_whole = is_whole && is_same(fibres[i].site, site);
    if (!is_whole) {
      failure = "not the whole warp is at the exchange in " + name_of(site);
      has_failed = true;
      return;
    }
    for (unsigned i = begin; i < end; i++) fibres[i].state = State::running;
  }
}

void run_block(unsigned threads, bool reverse) {
  unsigned warps = (threads + WARP - 1) / WARP;
  while (!has_failed) {
    for (unsigned w = 0; w < warps && !has_failed; w++) {
      unsigned begin = (reverse ? warps - 1 - w : w) * WARP;
      run_warp(begin, std::min(begin + WARP, threads), reverse);
    }
    if (has_failed) return;
    unsigned finished = 0;
    for (unsigned i = 0; i < threads; i++) finished += fibres[i].state == State::finished;
    if (finished == threads) return;
    Site site = {};
    for (unsigned i = 0; i < threads; i++)
      if (fibres[i].state == State::at_barrier) site = fibres[i].site;
    for (unsigned i = 0; i < threads && !has_failed; i++) {
      if (fibres[i].state == State::finished || !is_same(fibres[i].site, site)) {
        failure = "not all threads of the block are at the barrier in " + name_of(site);
        has_failed = true;
      }
      fibres[i].state = State::running;
    }
    epoch++;
    counts.barriers++;
  }
}

}  // namespace

void fail(const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  char where[96];
  snprintf(where, sizeof where, " (block %u,%u,%u thread %u)", block_index.x, block_index.y, block_index.z, current);
  failure = std::string(text) + where;
  has_failed = true;
  park(State::finished);
  abort();   // never resumed
}

void touch(Shadow &word, bool writes, const char *memory, size_t at) {
  uint32_t my_warp_epoch = warp_epochs[current / WARP];
  if (!is_before(word.writer, word.write_epoch, word.write_warp_epoch))
    fail("a race in %s memory at byte %zu: %s what thread %u of block %u wrote", memory, at,
         writes ? "overwrites" : "reads", (word.writer - 1) % MAX_THREADS, block_of(word.writer));
  if (writes) {
    if (!is_before(word.reader, word.read_epoch, word.read_warp_epoch))
      fail("a race in %s memory at byte %zu: overwrites what another thread reads", memory, at);
    word = {me(), epoch, my_warp_epoch, 0, 0, 0};
    return;
  }
  if (is_before(word.reader, word.read_epoch, word.read_warp_epoch)) {
    word.reader = me();
  } else {
    uint32_t reader = word.reader & ~(SEVERAL | SEVERAL_OF_A_WARP);
    bool is_warp = warp_of(reader) == warp_of(me()) && !(word.reader & SEVERAL);
    word.reader = reader | (is_warp ? SEVERAL_OF_A_WARP : SEVERAL);
  }
  word.read_epoch = epoch;
  word.read_warp_epoch = my_warp_epoch;
}

void access(Buffer *buffer, const void *at, size_t width, bool writes) {
  if (buffer == nullptr) fail("an access through a null pointer");
  buffer->access(at, width, writes);
}

void Buffer::access(const void *at, size_t width, bool writes) {
  size_t offset = static_cast<const unsigned char *>(at) - data;
  if (offset >= bytes || bytes - offset < width)
    fail("an access of %zu bytes at byte %zd of argument %llu, which has %zu", width, static_cast<ssize_t>(offset),
         static_cast<unsigned long long>(id), bytes);
  if (offset % width) fail("a misaligned access of %zu bytes at byte %zu of argument %llu", width, offset,
                           static_cast<unsigned long long>(id));
  (writes ? stored : loaded) += width;
  count_sectors(id << 40 | offset / 32, id << 40 | (offset + width - 1) / 32, writes);
  for (size_t granule_at = offset / granule; granule_at <= (offset + width - 1) / granule; granule_at++) {
    unsigned char bit = writes ? 2 : 1, known = touched[granule_at];
    // What this launch has written itself need not come from memory.
    if (writes ? !(known & 2) : known == 0) {
      touched[granule_at] |= bit;
      (writes ? unique_stored : unique_loaded) += granule;
    }
    touch(shadow[granule_at], writes, "global", granule_at * granule);
  }
}

void SharedMemory::access(const void *at, size_t width, bool writes) {
  size_t offset = static_cast<const unsigned char *>(at) - data;
  size_t used = STATIC_BYTES + dynamic_bytes;
  if (offset >= used || used - offset < width)
    fail("an access outside of the %zu bytes of dynamic shared memory", dynamic_bytes);
  if (offset % width) fail("a misaligned access of %zu bytes of shared memory", width);
  for (size_t word = offset / 4; word < (offset + width) / 4; word++) {
    if (!writes && shadow[word].writer == 0) fail("a read of unset shared memory at byte %zu", word * 4);
    touch(shadow[word], writes, "shared", word * 4);
  }
}

unsigned lane() { return current % WARP; }

void sync_threads(Site site) {
  if (name_of(site) == disabled_site) return;
  fibres[current].site = site;
  park(State::at_barrier);
}

void sync_warp(Site site) {
  if (name_of(site) == disabled_site) return;
  fibres[current].site = site;
  park(State::at_exchange);
  // Every lane has arrived; the first to go on turns the clock of the warp.
  unsigned warp = current / WARP;
  if (exchanges[current] == exchanges[MAX_THREADS + warp]) {
    warp_epochs[warp]++;
    exchanges[MAX_THREADS + warp]++;
  }
  exchanges[current]++;
}

uint64_t exchange(uint64_t value, unsigned source, Site site) {
  unsigned warp = current / WARP;
  // The turn is counted in the slots' last word, a thread's own.
  unsigned turn = slots[4 * MAX_THREADS + current]++ & 1;
  uint64_t *words = &slots[(2 * warp + turn) * WARP];
  words[lane()] = value;
  fibres[current].site = site;
  park(State::at_exchange);
  if (source >= WARP) fail("a shuffle from lane %u", source);
  return words[source];
}

void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  unsigned warp = current / WARP;
  unsigned turn = slots[4 * MAX_THREADS + current]++ & 1;
  Fragments *all = &fragments[(2 * warp + turn) * WARP];
  memcpy(all[lane()].a, a, sizeof a);
  memcpy(all[lane()].b, b, sizeof b);
  fibres[current].site = site;
  park(State::at_exchange);
  auto number = [](uint32_t pair, unsigned k) { return __bfloat162float({uint16_t(pair >> 16 * (k % 2))}); };
  unsigned group = lane() / 4, pair = lane() % 4;
  for (unsigned i = 0; i < 4; i++) {
    unsigned half_of_rows = i / 2, column = 2 * pair + i % 2;
    for (unsigned k = 0; k < 16; k++) {
      unsigned half = k / 8, source = k % 8 / 2;
      float left = number(all[4 * group + source].a[2 * half + half_of_rows], k);
      sums[i] += left * number(all[4 * column + source].b[half], k);
    }
  }
}

void *static_shared(const void *id, size_t bytes) {
  auto known = statics.find(id);
  if (known == statics.end()) {
    if (statics_used + bytes > STATIC_BYTES) fail("more than 48 KiB of static shared memory");
    known = statics.emplace(id, statics_used).first;
    statics_used += (bytes + 15) / 16 * 16;
  }
  return shared_memory.data + known->second;
}

void *dynamic_shared() { return shared_memory.data + STATIC_BYTES; }

Counts launch(dim3 grid, dim3 block, size_t shared_bytes, bool reverse, const std::string &disabled,
              const std::function<void()> &body) {
  unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads > MAX_THREADS) throw std::runtime_error("a block of " + std::to_string(threads));
  if (shared_bytes > (227u << 10)) throw std::runtime_error("more shared memory than an SM of sm_90 has");
  if (!stacks) {
    stacks.reset(new char[STACK * MAX_THREADS]);
    fibres.resize(MAX_THREADS);
    warp_epochs.resize(MAX_THREADS / WARP);
    exchanges.resize(MAX_THREADS + MAX_THREADS / WARP);
    accesses.resize(MAX_THREADS);
    instructions.resize(MAX_THREADS / WARP);
  }
  slots.assign(5 * MAX_THREADS, 0);
  fragments.resize(2 * MAX_THREADS);
  dynamic_bytes = (shared_bytes + 15) / 16 * 16;
  shared_memory.bytes = STATIC_BYTES + dynamic_bytes;
  shared_memory.storage.resize(shared_memory.bytes + 64);
  auto base = reinterpret_cast<uintptr_t>(shared_memory.storage.data());
  shared_memory.data = reinterpret_cast<unsigned char *>((base + 63) & ~uintptr_t(63));
  body_of_threads = &body;
  disabled_site = disabled;
  counts = {};
  sites.clear();
  statics.clear();
  statics_used = 0;
  has_failed = false;
  block_size = block;
  grid_size = grid;
  uint32_t blocks = grid.x * grid.y * grid.z;
  for (uint32_t i = 0; i < blocks && !has_failed; i++) {
    block_number = reverse ? blocks - 1 - i : i;
    block_index = dim3(block_number % grid.x, block_number / grid.x % grid.y, block_number / (grid.x * grid.y));
    start_block(threads);
    run_block(threads, reverse);
    for (const auto &list : instructions)
      for (const auto &instruction : list)
        (instruction.writes ? counts.store_sectors : counts.load_sectors) += instruction.sectors.size();
  }
  if (has_failed) {
    for (auto &fibre : fibres) fibre.is_started = false;   // their stacks are of the abandoned launch
    throw std::runtime_error(failure);
  }
  return counts;
}

}  // namespace emu
