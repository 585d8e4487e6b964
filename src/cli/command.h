// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "env.h"

namespace tpx::cli {

// Which options a command accepts; the parser and the help come from this.
enum Accepts : unsigned {
  kNothing = 0,
  kConfig = 1 << 0,   // --config FILE
  kDevices = 1 << 1,  // --lan DEV, --wan DEV
  kDryRun = 1 << 2,   // --dry-run
  kJson = 1 << 3,     // --json
  kFile = 1 << 4,     // FILE
  kFlow = 1 << 5,     // PROTO SRC[:PORT] DST[:PORT], --in DEV, --mark N, --mac ADDR; or --diff FILE, --all
  kReload = 1 << 6,   // --sets, --existing WHAT
  kTrace = 1 << 7,    // [PROTO [SRC [DST]]] and the options of trace
};

// One line of the command table. Nouns read, verbs change.
struct Command {
  const char* name;
  const char* summary;
  const char* details;
  unsigned accepts;
  int (*run)(const Options& options, Env& env);
};

std::span<const Command> Commands();

// Parses the command line and runs the command; returns the exit status.
int Dispatch(int argc, char** argv, Env& env);

int RunLoad(const Options& options, Env& env);
int RunRun(const Options& options, Env& env);
int RunUpgrade(const Options& options, Env& env);
int RunDetach(const Options& options, Env& env);
int RunReload(const Options& options, Env& env);
int RunStatus(const Options& options, Env& env);
int RunCounters(const Options& options, Env& env);
int RunExplain(const Options& options, Env& env);
int RunExplainDiff(const Options& options, Env& env);  // of explain, with --diff
int RunTrace(const Options& options, Env& env);
int RunCheck(const Options& options, Env& env);
int RunVersion(const Options& options, Env& env);

}  // namespace tpx::cli
