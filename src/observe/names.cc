// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <string_view>

#include "tpx/observe/snapshot.h"

namespace tpx::observe {
namespace {

constexpr size_t kLongestName = 32;

// A symbol of the .def files in lower case, computed by the compiler.
struct LowerCase {
  char chars[kLongestName] = {};
  constexpr explicit LowerCase(std::string_view symbol) {
    for (size_t i = 0; i < symbol.size(); i++)
      chars[i] =
          static_cast<char>(symbol[i] >= 'A' && symbol[i] <= 'Z' ? symbol[i] + ('a' - 'A') : symbol[i]);
  }
};

#define TPX_REASON(symbol, hook, effect, text)    \
  static_assert(sizeof(#symbol) <= kLongestName); \
  constexpr LowerCase kReason_##symbol(#symbol);  \
  constexpr LowerCase kEffectOf_##symbol(#effect);
#include "tpx_reasons.def"
#undef TPX_REASON

#define TPX_COUNTER(symbol, kind, text)           \
  static_assert(sizeof(#symbol) <= kLongestName); \
  constexpr LowerCase kCounter_##symbol(#symbol);
#include "tpx_counters.def"
#undef TPX_COUNTER

constexpr std::array<ReasonName, TPX_REASON_COUNT> kReasons = {{
#define TPX_REASON(symbol, hook, effect, text) \
  {kReason_##symbol.chars, #hook, kEffectOf_##symbol.chars, text},
#include "tpx_reasons.def"
#undef TPX_REASON
}};

constexpr std::array<CounterName, TPX_WORKER_COUNTER_COUNT> kCounters = {{
#define TPX_COUNTER(symbol, kind, text) {kCounter_##symbol.chars, #kind, text},
#include "tpx_counters.def"
#undef TPX_COUNTER
}};

}  // namespace

const ReasonName& NameOf(tpx_reason reason) { return kReasons[reason]; }
const CounterName& NameOf(tpx_worker_counter counter) { return kCounters[counter]; }

const char* WorkerStateName(uint32_t state) {
  switch (state) {
    case TPX_WORKER_SERVING:
      return "serving";
    case TPX_WORKER_FULL:
      return "full";
    case TPX_WORKER_DRAINING:
      return "draining";
    default:
      return "absent";
  }
}

}  // namespace tpx::observe
