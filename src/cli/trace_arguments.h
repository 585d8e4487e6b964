// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "absl/status/statusor.h"
#include "env.h"
#include "tpx/app/trace.h"

namespace tpx::cli {

struct TraceRequest {
  app::TraceFilter filter;
  app::TraceLimits limits;
};

// [PROTO [SRC [DST]]] and the options of `trace`. The error says what was expected.
absl::StatusOr<TraceRequest> ParseTrace(const TraceOptions& options);

}  // namespace tpx::cli
