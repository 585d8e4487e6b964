// SPDX-License-Identifier: Apache-2.0
#include "instance.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/control/lifecycle.h"
#include "undo.h"

namespace tpx::control {

absl::StatusOr<DetachReport> Detach(const Paths& paths, const Checkpoint& checkpoint) {
  TPX_ASSIGN_OR_RETURN(sys::FileLock lock, LockInstance(paths));
  Undone undone;
  const absl::Status status = Undo(paths, checkpoint, undone);
  if (!status.ok()) {
    return absl::Status(status.code(),
                        StrCat(status.message(), "; what could be removed is, run detach again"));
  }
  RemoveStateDir(paths);
  DetachReport report{.was_loaded = undone.found, .lines = std::move(undone.lines)};
  if (!report.was_loaded) report.lines.emplace_back("nothing to detach");
  return report;
}

}  // namespace tpx::control
