// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace tpx::cli {

// Exit statuses of every command.
inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;

// Everything a command touches besides the kernel: standard output is the
// answer, standard error the explanation.
struct Env {
  std::ostream& out;
  std::ostream& err;
};

// A flow as it was typed; see flow_arguments.h.
struct FlowOptions {
  std::string proto, src, dst;
  std::string device, mark, mac, dscp;  // empty: not given
  std::string uid, gid, cgroup, exe;    // of a process of the gateway; as well
};

// What a trace is to show, as it was typed; see trace_arguments.h.
struct TraceOptions {
  std::string proto, src, dst;
  std::string rule, device, sample, count, duration;  // empty: not given
  std::vector<std::string> reasons;
  bool all = false;
};

// The options of one invocation. A command reads those that its table entry
// asks for; the others keep their defaults.
struct Options {
  std::string instance = "tpx-bpf";
  std::string config;  // empty: none given
  std::vector<std::string> lan, wan;
  std::string file;      // positional argument of check
  FlowOptions flow;      // of explain
  std::string diff;      // of explain: a candidate file
  std::string existing;  // of reload: keep, drain or abort
  TraceOptions trace;
  bool json = false;
  bool all = false;
  bool dry_run = false;
  bool sets = false;
};

}  // namespace tpx::cli
