// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "tpx_abi.h"
#include "tpx_nat.h"

namespace tpx::data {

// What tc forwards by itself (tpx_nat), shared by all workers. Entries may go
// without their maker's doing. Called by all workers' threads.
class TranslationMap {
 public:
  virtual ~TranslationMap() = default;
  // Whether tc forwards what is stored with this word of the rule at present.
  virtual bool Forwards(tpx_forward forward) = 0;
  // False: there is no room.
  virtual bool Store(const tpx_flow& arriving, const tpx_translation& translation) = 0;
  virtual std::optional<tpx_translation> Find(const tpx_flow& arriving) = 0;
  virtual void Erase(const tpx_flow& arriving) = 0;
};

}  // namespace tpx::data
