// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <string_view>

#include "tpx/base/address.h"

// What is accepted is written in one way, which is accepted again.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (absl::StatusOr<tpx::IpAddr> address = tpx::IpAddr::Parse(text); address.ok()) {
    absl::StatusOr<tpx::IpAddr> again = tpx::IpAddr::Parse(address->ToString());
    if (!again.ok() || *again != *address) abort();
    absl::StatusOr<tpx::Prefix> single = tpx::Prefix::Parse(text);
    if (!single.ok() || single->length != 128 || !single->Contains(*address)) abort();
  }
  if (absl::StatusOr<tpx::Prefix> prefix = tpx::Prefix::Parse(text); prefix.ok()) {
    absl::StatusOr<tpx::Prefix> again = tpx::Prefix::Parse(prefix->ToString());
    if (!again.ok() || *again != *prefix || prefix->length > 128) abort();
    if (!prefix->Contains(prefix->addr)) abort();
  }
  return 0;
}
