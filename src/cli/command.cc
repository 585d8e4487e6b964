// SPDX-License-Identifier: Apache-2.0
#include "command.h"

#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tpx::cli {
namespace {

constexpr Command kCommands[] = {
    {"load", "attach to the kernel and pin",
     "Attaches the BPF programs, publishes the policy, adds the policy routes; all or nothing. "
     "From then on rules that drop or reject are in force; flows of proxy rules follow on_proxy_down "
     "until a proxy runs. Says what it did. Loading twice changes nothing.",
     kConfig | kDevices | kDryRun, RunLoad},
    {"run", "run the proxy (loads first when nothing is loaded)",
     "Serves until SIGTERM, then takes no new flow, lets sessions end for drain_timeout and exits; "
     "a second SIGTERM ends at once. Reports readiness to systemd (Type=notify).",
     kConfig | kDevices, RunRun},
    {"reload", "publish a new policy; no flow is cut unless --existing says so",
     "Compiles the file, follows changes of the interfaces and swaps the policy in one step. "
     "A faulty file changes nothing. With --sets only the files of the sets are read again; "
     "the rest stays as it was loaded, whatever the configuration file says by now. "
     "--existing is about the proxied TCP sessions and the UDP flows that the new policy judges otherwise: "
     "'keep' leaves them alone, 'abort' resets and forgets them, 'drain' lets them end by themselves, waits "
     "for that for drain_timeout and then does as 'abort'; interrupted, it leaves them alone. "
     "'tpx-bpf explain --diff FILE' shows them before.",
     kConfig | kDevices | kReload, RunReload},
    {"upgrade", "replace the programs in the kernel by this build's; no flow is cut",
     "Each program is replaced in one step, on the same maps: policy, flows and counters stay. "
     "Needs the same kernel contract ('abi' of version and status). A running proxy runs on.",
     kNothing, RunUpgrade},
    {"detach", "take everything away; the machine is as before",
     "Removes programs, maps, links, rules and routes. Works with no proxy running, after any crash, "
     "and any number of times.",
     kNothing, RunDetach},
    {"status", "what is loaded and who serves", "", kJson, RunStatus},
    {"counters", "packets by reason, flows by rule, bytes by worker", "", kJson, RunCounters},
    {"explain", "what becomes of a new flow, by which rule and why",
     "Runs the BPF programs on the flow's first packet, which nobody sends: with the policy that is loaded "
     "or, with --config, as if that file were; with the workers that are there. Changes nothing, no counter "
     "either. Examples: 'tpx-bpf explain tcp 192.0.2.2:40000 203.0.113.5:443', "
     "'tpx-bpf explain udp [2001:db8::2]:5000 [2001:db8:1::1]:53', 'tpx-bpf explain icmp 192.0.2.2 "
     "203.0.113.5'. With --uid, --gid, --cgroup or --exe it is a process of the gateway that begins the "
     "flow: "
     "'tpx-bpf explain --uid unbound udp 0.0.0.0 203.0.113.5:53'. With --diff, which of the flows that are "
     "there FILE would judge otherwise: proxied TCP "
     "sessions and all UDP.",
     kConfig | kFlow | kJson, RunExplain},
    {"trace", "shows what becomes of packets as it is decided, a line each",
     "Without arguments every decision: new flows, and what is dropped or refused; --all adds the packets of "
     "known flows. What is shown is chosen in the kernel: PROTO is tcp, udp, icmp or any; SRC and DST are "
     "ADDRESS[/LENGTH][:PORT] or any[:PORT], IPv6 as [ADDRESS/LENGTH]:PORT. Goes on until --count, --for or "
     "Ctrl-C, and then says how many events the kernel had no room for. "
     "Examples: 'tpx-bpf trace', 'tpx-bpf trace tcp 192.0.2.0/24 any:443', 'tpx-bpf trace --reason drop "
     "--json'.",
     kTrace | kJson, RunTrace},
    {"check", "check a configuration file without touching the kernel",
     "Prints every fault as file:line:column. Exit status 1 when there is one.", kFile | kJson, RunCheck},
    {"version", "version of the program and of its kernel contract", "", kJson, RunVersion},
};

void AddTraceOptions(CLI::App& app, TraceOptions& trace) {
  app.add_option("PROTO", trace.proto, "tcp, udp, icmp or any");
  app.add_option("SRC", trace.src, "senders, such as 192.0.2.0/24 or any:5060");
  app.add_option("DST", trace.dst, "receivers, such as [2001:db8::/32]:443");
  app.add_option("--rule", trace.rule, "only what this rule decided")->type_name("NAME");
  app.add_option("--reason", trace.reasons,
                 "only this reason or effect, as 'counters' names them; several times")
      ->type_name("NAME")
      ->allow_extra_args(false);
  app.add_option("--in", trace.device, "only what comes in by this device")->type_name("DEV");
  app.add_flag("--all", trace.all, "packets of known flows too");
  app.add_option("--sample", trace.sample, "one of N, counted on each CPU by itself")->type_name("N");
  app.add_option("--count", trace.count, "end after N events")->type_name("N");
  app.add_option("--for", trace.duration, "end after this time, such as 30s")->type_name("DURATION");
}

void AddOptions(CLI::App& app, unsigned accepts, Options& options) {
  if (accepts & kConfig) {
    // What explain asks is the policy of that file.
    const char* names = accepts & kFlow ? "-c,--config,--policy" : "-c,--config";
    app.add_option(names, options.config, "configuration file (YAML)")->type_name("FILE");
  }
  if (accepts & kDevices) {
    app.add_option("--lan", options.lan,
                   "without a file: proxy all TCP and UDP that comes in here, failing open")
        ->type_name("DEV")
        ->allow_extra_args(false);
    app.add_option("--wan", options.wan, "without a file: device towards the servers")
        ->type_name("DEV")
        ->allow_extra_args(false);
  }
  if (accepts & kDryRun) app.add_flag("--dry-run", options.dry_run, "say what would be done, change nothing");
  if (accepts & kReload) {
    app.add_flag("--sets", options.sets, "only read the files of the loaded configuration's sets again");
    app.add_option("--existing", options.existing,
                   "flows that the new policy judges otherwise: keep, drain or abort")
        ->type_name("WHAT")
        ->check(CLI::IsMember({"keep", "drain", "abort"}));
  }
  if (accepts & kJson) app.add_flag("--json", options.json, "answer in JSON");
  if (accepts & kFlow) {
    FlowOptions& flow = options.flow;
    app.add_option("PROTO", flow.proto, "tcp, udp, icmp, or the number of another protocol");
    app.add_option("SRC", flow.src, "the client: ADDRESS[:PORT], IPv6 as [ADDRESS]:PORT");
    app.add_option("DST", flow.dst, "the server: ADDRESS:PORT; without a port where the protocol has none");
    app.add_option("--in", flow.device, "device that it comes in by; else the first LAN device")
        ->type_name("DEV");
    app.add_option("--mark", flow.mark, "mark that the packet has")->type_name("N");
    app.add_option("--uid", flow.uid, "a process of the gateway begins it, of this user")->type_name("USER");
    app.add_option("--gid", flow.gid, "of this group; as --uid, 0 where only others are given")
        ->type_name("GROUP");
    app.add_option("--cgroup", flow.cgroup, "in this cgroup; /")->type_name("PATH");
    app.add_option("--exe", flow.exe, "running this program")->type_name("PATH");
    app.add_option("--mac", flow.mac, "link address of the sender")->type_name("ADDR");
    app.add_option("--dscp", flow.dscp, "DSCP of the packet, 0 to 63; 0")->type_name("N");
    app.add_option("--diff", options.diff, "in place of a flow: those that FILE would judge otherwise")
        ->type_name("FILE");
    app.add_flag("--all", options.all, "with --diff: show every one of them");
  }
  if (accepts & kTrace) AddTraceOptions(app, options.trace);
  if (accepts & kFile) app.add_option("FILE", options.file, "configuration file (YAML)")->required();
}

int Refuse(const CLI::App& app, const CLI::ParseError& error, Env& env) {
  const std::vector<std::string> unknown = app.remaining();
  const bool no_command = app.get_subcommands().empty();
  if (no_command && !unknown.empty()) {
    env.err << "tpx-bpf: there is no command or option '" << unknown.front() << "'; see 'tpx-bpf --help'\n";
  } else if (no_command && error.get_name() == "RequiredError") {
    env.err << "tpx-bpf: a command is missing; see 'tpx-bpf --help'\n";
  } else {
    const std::string command = no_command ? "" : " " + app.get_subcommands().front()->get_name();
    env.err << "tpx-bpf: " << error.what() << "; see 'tpx-bpf" << command << " --help'\n";
  }
  return kUsage;
}

// In lines of at most 90 characters: the parser's library prints it as it is.
std::string Wrap(const std::string& text) {
  constexpr size_t kWidth = 90;
  std::string wrapped;
  size_t column = 0;
  for (absl::string_view word : absl::StrSplit(text, ' ')) {
    if (column > 0 && column + 1 + word.size() > kWidth) column = 0, wrapped += '\n';
    if (column > 0) column++, wrapped += ' ';
    absl::StrAppend(&wrapped, word);
    column += word.size();
  }
  return wrapped;
}

// A flow or --diff; empty: nothing is wrong.
std::string FaultOfExplain(const Options& options, unsigned accepts) {
  if ((accepts & kFlow) == 0) return "";
  const FlowOptions& flow = options.flow;
  const bool diff = !options.diff.empty();
  const bool other = !(flow.proto.empty() && flow.device.empty() && flow.mark.empty() && flow.mac.empty() &&
                       flow.dscp.empty() && flow.uid.empty() && flow.gid.empty() && flow.cgroup.empty() &&
                       flow.exe.empty() && options.config.empty());
  if (diff && other)
    return "--diff is about all flows by one file: no flow, --in, --mark, --mac, --dscp or --config beside "
           "it";
  if (options.all && !diff) return "--all needs --diff";
  if (diff) return "";
  if (flow.proto.empty()) return "PROTO is required, or --diff FILE";
  if (flow.src.empty()) return "SRC is required";
  return flow.dst.empty() ? "DST is required" : "";
}

bool IsValidInstance(const std::string& name) {
  return !name.empty() && name.size() <= 64 && name[0] != '-' &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
             std::string::npos;
}

}  // namespace

std::span<const Command> Commands() { return kCommands; }

int Dispatch(int argc, char** argv, Env& env) {
  Options options;
  CLI::App app{"tpx-bpf: transparent gateway proxy, steered by eBPF, spliced by io_uring"};
  app.name("tpx-bpf");
  app.require_subcommand(1);
  app.footer("Exit status: 0 done, 1 failed, 2 wrong usage. 'tpx-bpf COMMAND --help' tells more.");
  app.add_option("--instance", options.instance, "name of the gateway, for several on one machine")
      ->type_name("NAME")
      ->capture_default_str();

  const Command* chosen = nullptr;
  for (const Command& command : kCommands) {
    CLI::App* sub = app.add_subcommand(command.name, command.summary);
    if (*command.details != '\0') sub->footer(Wrap(command.details));
    AddOptions(*sub, command.accepts, options);
    sub->callback([&chosen, &command] { chosen = &command; });
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error, env.out, env.err) == 0 ? kDone : kUsage;
    return Refuse(app, error, env);
  }
  if (!IsValidInstance(options.instance)) {
    env.err << "tpx-bpf: --instance takes letters, digits, '_' and '-', 64 at most\n";
    return kUsage;
  }
  if (!options.config.empty() && (!options.lan.empty() || !options.wan.empty())) {
    env.err << "tpx-bpf: --config and --lan/--wan exclude each other: name the devices in the file\n";
    return kUsage;
  }
  if (options.lan.empty() && !options.wan.empty()) {
    env.err << "tpx-bpf: --wan needs --lan\n";
    return kUsage;
  }
  if (options.sets && !(options.config.empty() && options.lan.empty())) {
    env.err
        << "tpx-bpf: --sets and --config, --lan or --wan exclude each other: it is about what is loaded\n";
    return kUsage;
  }
  if (const std::string fault = FaultOfExplain(options, chosen->accepts); !fault.empty()) {
    env.err << "tpx-bpf: " << fault << "; see 'tpx-bpf explain --help'\n";
    return kUsage;
  }
  int status = chosen->run(options, env);
  env.out.flush();
  if (env.out.good()) return status;
  env.err << "tpx-bpf: the answer could not be written to standard output\n";
  return kFailed;
}

}  // namespace tpx::cli
